"""What is done again and again while the control plane runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sidecar.errors import StoreFailed

_log = logging.getLogger(__name__)


class Repeating:
    """Does `work` from `start` on, again `pause` seconds (at the latest) after it ended, however it
    did; until `stop`, which waits for it: what has begun to use the database ends in its own time.
    """

    def __init__(self, what: str, work: Callable[[], Awaitable[None]], pause: float) -> None:
        """`what` is for the log."""
        self._what = what
        self._work = work
        self._pause = pause
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Nothing is under way any more."""
        self._ended.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._ended.is_set():
            try:
                await self._work()
            except StoreFailed as error:
                _log.warning("%s stand still: %s", self._what, error)
            except Exception:  # noqa: BLE001 - a mistake of ours: said, and tried again
                _log.exception("%s: a look failed; the next one follows", self._what)
            try:
                async with asyncio.timeout(self._pause):
                    await self._ended.wait()
            except TimeoutError:
                continue
