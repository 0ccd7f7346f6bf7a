"""Long work beside the loop: in a thread that gives way, without the garbage collector.

A thread that computes keeps the interpreter for as long as the switch interval before the loop gets
it back, 5 ms unless told otherwise, at each turn of the loop; where both share a core, the kernel
adds a slice of its own, 4 ms. And what it makes sends the collector through all that there is,
again and again, for a tenth of a second each time. So such work sleeps a moment whenever it has
gone on for one (`decide.pace`), and the collector waits. What was made is then frozen: it stays,
and need not be looked at; `plane.garbage` looks through it once, in a pause.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sidecar.decide.pace import PAUSE

INTERVAL: Final = 1e-4  # seconds
WORK: Final = 1e-4  # seconds between two moments of sleep
SLEEP: Final = 5e-5

T = TypeVar("T")


class _Sleeper:
    """Accepts an offer to pause once work went on for long enough."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __call__(self) -> None:
        if time.perf_counter() - self._since >= WORK:
            time.sleep(SLEEP)
            self._since = time.perf_counter()


class Beside:
    """What goes on. One per process, as are the switch interval and the collector."""

    def __init__(self) -> None:
        self.frozen = 0  # how often what was made was frozen
        self.working = 0  # how much goes on
        self._before = (0.005, True)

    async def run(
        self, work: Callable[..., T], *args: object, hurry: bool = False, **more: object
    ) -> T:
        """`work(*args, **more)`, in a thread. `hurry`: nobody is served yet who could wait."""
        self._begin()
        # The thread has a copy of this context.
        before = PAUSE.set(None if hurry else _Sleeper())
        try:
            return await asyncio.to_thread(work, *args, **more)
        finally:
            PAUSE.reset(before)
            self._end()

    def _begin(self) -> None:
        self.working += 1
        if self.working == 1:
            self._before = (sys.getswitchinterval(), gc.isenabled())
            sys.setswitchinterval(INTERVAL)
            gc.disable()

    def _end(self) -> None:
        self.working -= 1
        if self.working == 0:
            interval, enabled = self._before
            sys.setswitchinterval(interval)
            if enabled:
                gc.freeze()
                self.frozen += 1
                gc.enable()


beside: Final = Beside()
