"""Databases of the control plane: what a URL names, whose it is, how SQLite behaves, its tables."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, event, func, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from sidecar.errors import Misuse, StoreFailed

CHANNEL: Final = "sidecar_store"  # of LISTEN and NOTIFY
READS: Final = "sidecar_reads"  # an execution option: the transactions of this engine only read
_LOCK: Final = 0x51DECA2  # an advisory lock's number, the same in every version
_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def address(url: str) -> tuple[URL, Path | None]:
    """The URL with its driver and, for SQLite, the file. Raises Misuse."""
    try:
        address = make_url(url)
        driver = _DRIVERS[address.drivername]
    except (ArgumentError, KeyError):
        raise Misuse(
            f"--store {url.partition('://')[0]}://…: expected sqlite:////absolute/path or "
            "postgresql://user@host/database"
        ) from None
    address = address.set(drivername=driver)
    if not driver.startswith("sqlite"):
        return address, None
    if not address.database or not os.path.isabs(address.database):
        raise Misuse("--store sqlite: an absolute path takes four slashes, sqlite:////var/lib/…")
    return address, Path(address.database)


def claim(path: Path) -> int:
    """Makes an SQLite file private, and this process the only control plane on it: the lock's
    descriptor. Raises StoreFailed."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError:
            os.close(lock)
            raise
    except BlockingIOError:
        raise StoreFailed(
            f"the store {path} is in use by another control plane; give each its own with --store, "
            "or use postgresql://"
        ) from None
    except OSError as error:
        raise StoreFailed(f"the store {path} cannot be opened: {error.strerror}") from None
    return lock


def configure_sqlite(engine: AsyncEngine) -> None:
    """A commit is on the disk before it returns; whoever begins to write does so alone, and what is
    deleted is overwritten. An engine with the execution option READS only reads, and waits for
    nobody."""

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # no transactions of the driver's own beside ours
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON",
        ):  # fmt: skip
            cursor.execute(f"PRAGMA {pragma}")
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.close()

    def begun(connection: Connection) -> None:
        # The write lock at once: a transaction that reads first and writes later could find that
        # it read what is no longer the newest.
        reads = connection.get_execution_options().get(READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begun)


async def alone(connection: AsyncConnection) -> None:
    """Until the transaction ends no other replica changes the store; SQLite has one writer anyway.
    For what counts on: numbers that follow on each other, a key that is made once, migrations."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


async def announce(connection: AsyncConnection, about: str = "") -> None:
    """Other replicas are told once this transaction is committed (`control.announcements`). `about`
    says what to look at; empty: releases and withdrawals."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_notify(CHANNEL, about)))


def upgrade(connection: Connection) -> None:
    """Brings the tables to the newest revision. Raises alembic's CommandError."""
    config = Config()
    config.set_main_option("script_location", "sidecar.control:migrations")
    script = ScriptDirectory.from_config(config)

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(config, script, fn=steps, destination_rev="head") as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
