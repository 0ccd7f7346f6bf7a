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
        self._frozen = beside.frozen
        self._earliest = 0.0

    def sweep(self, now: float) -> None:
        """Collect, if that is due and disturbs nobody."""
        if beside.working:
            return
        count = gc.get_count()[2]
        frozen = beside.frozen
        if count < YOUNG and frozen == self._frozen:
            self._due = None
            return
        if self._due is None:
            self._due = now
        if now < self._earliest:
            return
        if count >= MANY or now >= self._due + LONGEST or not self._busy():
            started = self._clock()
            if frozen == self._frozen:
                gc.collect()
            else:  # among what stays may be what nobody holds any more
                self._frozen = frozen
                gc.unfreeze()
                gc.collect()
                gc.freeze()
            self._due = None
            self._earliest = now + (self._clock() - started) / SHARE
