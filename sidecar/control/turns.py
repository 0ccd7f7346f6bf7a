"""Whose turn it is to publish. Checking takes as long as there is something to check: so it goes on
beside what others do, and only storing is done one at a time.

Those that change the same namespace come one after the other, whole: none has to begin anew because
of another one here. A dry run changes nothing, and nobody waits for it but the next dry run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final
from weakref import WeakValueDictionary

CHECKS: Final = 2  # at a time, of which one may be a dry run's: threads are left for the others
DRY: Final = 16  # dry runs under way, each with all its documents in memory
DRY_OF_ONE: Final = 4


class Turns:
    """Of one control plane."""

    def __init__(self) -> None:
        self.storing = asyncio.Lock()
        self._checks = asyncio.Semaphore(CHECKS)
        self._dry = asyncio.Semaphore(1)
        self._trying: Counter[str] = Counter()
        self._namespaces: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, namespaces: Iterable[str]) -> AsyncIterator[None]:
        """Alone with these. In order, so that no two wait for each other."""
        async with AsyncExitStack() as stack:
            for name in sorted(set(namespaces)):
                lock = self._namespaces.get(name)
                if lock is None:
                    lock = self._namespaces[name] = asyncio.Lock()
                await stack.enter_async_context(lock)
            yield

    @contextmanager
    def trying(self, who: str) -> Iterator[bool]:
        """Whether there is a place for another dry run of somebody; an empty name is nobody's."""
        free = self._trying.total() < DRY and (not who or self._trying[who] < DRY_OF_ONE)
        self._trying[who] += free
        try:
            yield free
        finally:
            self._trying[who] -= free
            self._trying += Counter()  # without those that have none

    @asynccontextmanager
    async def checking(self, *, dry: bool) -> AsyncIterator[None]:
        """One of the checks that there may be at a time."""
        async with AsyncExitStack() as stack:
            if dry:
                await stack.enter_async_context(self._dry)
            await stack.enter_async_context(self._checks)
            yield
