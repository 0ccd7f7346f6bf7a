"""Single flight: what many wait for is fetched once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Flights:
    """At most one task for each key. It belongs to nobody who waits for it."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._tasks

    def begin(
        self, key: bytes, work: Coroutine[Any, Any, None], name: str, landed: Callable[[], None]
    ) -> None:
        """Begin the work of a key that has none under way; `landed()` once it has ended."""

        def ended(_: asyncio.Task[None]) -> None:
            # Not in the work itself, which never runs where it is cancelled early enough.
            del self._tasks[key]
            landed()

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        self._tasks[key] = task

    async def join(self, key: bytes) -> None:
        """Wait for the work of a key, if any is under way."""
        task = self._tasks.get(key)
        if task is not None:
            # Waited for, not awaited: a caller that hangs up must not take it from the others.
            await asyncio.wait({task})

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
