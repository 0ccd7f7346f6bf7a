"""When the garbage collector looks at everything: in a pause, not in the middle of a request.

Reference counts free all that a request leaves behind; what is left for the collector is little,
and a look at all that is remembered takes milliseconds (half a second with 50,000 tokens) that
somebody would wait for. So the collector goes by itself through what is young only, and through the
rest when no request is in flight; or, whoever waits, when none was for too long or too much came
meanwhile.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

from sidecar.facts.beside import beside

YOUNG: Final = 10  # collections of the middle generation, each of about 7,000 more objects
MANY: Final = 5 * YOUNG  # so many wait for no pause
LONGEST: Final = 600.0  # seconds of uninterrupted traffic
FROZEN: Final = 100  # times that policy was read and frozen
QUIET: Final = 5  # sweeps in a row without a request
SHARE: Final = 0.01  # of the time, at most, goes into it


def settle() -> None:
    """Once all is built: what is here stays, unlooked at; full collections are `Garbage`'s."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 1_000_000)


class Garbage:
    """`sweep` at every tick of a timer, whose seconds are `now`. `busy`: somebody would wait."""

    def __init__(
        self, busy: Callable[[], bool], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._busy = busy
        self._clock = clock
        self._due: float | None = None  # since when there is enough to collect
        self._earliest = 0.0
        self._frozen = beside.frozen
        self._quiet = 0  # sweeps in a row that found nobody

    def sweep(self, now: float) -> None:
        """Collect, if that is due and disturbs nobody."""
        busy = self._busy()
        self._quiet = 0 if busy else self._quiet + 1
        if beside.working:
            return
        if beside.frozen - self._frozen >= FROZEN and self._quiet >= QUIET:
            self._look_through()
            return
        count = gc.get_count()[2]
        if count < YOUNG:
            self._due = None
            return
        if self._due is None:
            self._due = now
        if now < self._earliest:
            return
        if count >= MANY or now >= self._due + LONGEST or not busy:
            started = self._clock()
            gc.collect()
            self._due = None
            self._earliest = now + (self._clock() - started) / SHARE

    def _look_through(self) -> None:
        """Among what stays may be what nobody holds any more: some thirty objects for each change
        of policy, not worth the tenths of a second before there are many."""
        self._frozen = beside.frozen
        gc.unfreeze()
        gc.collect()
        gc.freeze()
