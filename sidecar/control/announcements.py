"""Replicas of a control plane on one PostgreSQL: what one makes durable, all hear of.

PostgreSQL's NOTIFY is part of the transaction that makes the change, so whoever hears of it finds
it. What was said while nobody listened is lost; so each time a connection stands, all is looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
from sqlalchemy import URL

from sidecar.control.database import CHANNEL
from sidecar.errors import StoreFailed

RETRY: Final = 1.0  # seconds until a lost connection is made anew
QUIET: Final = 60.0  # seconds after which the connection is tried, should nothing be heard
TIMEOUT: Final = 10.0
GATHER: Final = 0.05  # seconds between two looks at what others did
SUBJECTS: Final = "subjects"  # customers; an empty word: releases and withdrawals
ANYTHING: Final = frozenset(("", SUBJECTS))
_log: Final = logging.getLogger(__name__)


class Announcements:
    """`run` until cancelled: `changed` is awaited after each announcement, several at once as one,
    with what they were about, and with ANYTHING whenever the connection stands anew."""

    def __init__(self, url: URL, changed: Callable[[frozenset[str]], Awaitable[None]]) -> None:
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._changed = changed
        self._news = asyncio.Event()
        self._about: set[str] = set()
        self.listening = asyncio.Event()
        """Set while what others do is heard."""

    async def run(self) -> None:
        said = ""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, StoreFailed) as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("other replicas are not heard: %s", said)
            finally:
                self.listening.clear()
            await asyncio.sleep(RETRY)

    async def _listen(self) -> None:
        """As long as one connection stands."""
        connection = await asyncpg.connect(self._dsn, timeout=TIMEOUT)
        try:
            connection.add_termination_listener(self._ended)
            await connection.add_listener(CHANNEL, self._heard)
            self._about |= ANYTHING
            self._news.set()
            self.listening.set()
            while not connection.is_closed():
                try:
                    async with asyncio.timeout(QUIET):
                        await self._news.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1", timeout=TIMEOUT)
                    continue
                self._news.clear()
                about, self._about = frozenset(self._about), set()
                await self._changed(about)
                await asyncio.sleep(GATHER)  # of a burst the rest is heard as one
        finally:
            await asyncio.shield(_close(connection))

    def _heard(self, _connection: Any, _pid: Any, _channel: Any, about: object) -> None:
        self._about.add(str(about))
        self._news.set()

    def _ended(self, *_: Any) -> None:
        self._news.set()


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=TIMEOUT)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        connection.terminate()
