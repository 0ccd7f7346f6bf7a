"""Long work beside the loop: in a thread that gives way, without the garbage collector.

A thread that computes keeps the interpreter for as long as the switch interval before the loop gets
it back, 5 ms unless told otherwise, at each turn of the loop; where both share a core, the kernel
adds a slice of its own, 4 ms. And what it makes sends the collector through all that there is,
again and again, for a tenth of a second each time. So such work stands still whenever it has gone
on for a moment (`decide.pace`), until the loop has answered what has arrived, and the collector
waits. What was made is then frozen: it stays, and need not be looked at; `plane.garbage` looks
through it once, in a pause.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from sidecar.decide.pace import PAUSE

INTERVAL: Final = 1e-4  # seconds
# Between two turns of the loop, seconds: as long as its last turn took (so that a change gets half
# of a core that is never idle), at least and at most these.
WORK: Final = 5e-5
LONGEST: Final = 6e-4
AWAY: Final = 0.02  # seconds after which a loop that does not come round is waited for no longer

T = TypeVar("T")


class _Turns:
    """Accepts an offer to pause once work went on for long enough: then the loop has its turn.

    It answers all that has arrived, and only then says that work may go on: nobody waits for more
    than one stretch of work, and the two never want the same core, or the interpreter, at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._round = threading.Lock()
        self._round.acquire()
        self._until = 0.0

    def __call__(self) -> None:
        now = time.perf_counter()
        if now < self._until:
            return
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._came_round)
            self._round.acquire(timeout=AWAY)
        after = time.perf_counter()
        self._until = after + min(max(WORK, after - now), LONGEST)

    def _came_round(self) -> None:
        with suppress(RuntimeError):  # nobody waited any longer
            self._round.release()


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
        before = PAUSE.set(None if hurry else _Turns(asyncio.get_running_loop()))
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
