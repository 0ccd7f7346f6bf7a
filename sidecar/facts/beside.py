"""Long work beside the loop: in a thread that gives way, without the garbage collector.

A thread that computes keeps the interpreter for as long as the switch interval before the loop gets
it back, 5 ms unless told otherwise, at each turn of the loop; and what it makes sends the collector
through all that there is, again and again, for a tenth of a second each time. So while such work
goes on both give way. What it has made is then frozen: it stays, and need not be looked at;
`plane.garbage` looks through it once, in a pause.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Final, TypeVar

INTERVAL: Final = 1e-4  # seconds

T = TypeVar("T")


class Beside:
    """What goes on. One per process, as are the switch interval and the collector."""

    def __init__(self) -> None:
        self.frozen = 0  # how often what was made was frozen
        self.working = 0  # how much goes on
        self._before = (0.005, True)

    async def run(self, work: Callable[..., T], *args: object, **more: object) -> T:
        """`work(*args, **more)`, in a thread."""
        self._begin()
        try:
            return await asyncio.to_thread(work, *args, **more)
        finally:
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
