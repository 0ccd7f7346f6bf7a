"""When the garbage collector looks at everything: in a pause, not in the middle of a request.

Reference counts free all that a request leaves behind; what is left for the collector is little,
and a look at all that is remembered (tokens, request heads) takes milliseconds that somebody would
wait for. So the collector goes by itself through what is young only, and through the rest when no
request is in flight, or when none was for too long.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Final

YOUNG: Final = 10  # collections of the middle generation, each of about 7,000 more objects
LONGEST: Final = 600.0  # seconds of uninterrupted traffic


def settle() -> None:
    """Once all is built: what is here stays, unlooked at; full collections are `Garbage`'s."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, 1_000_000)


class Garbage:
    """`sweep` at every tick of a timer, whose seconds are `now`. `busy`: somebody would wait."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._latest = math.inf

    def sweep(self, now: float) -> None:
        """Collect, if that is due and disturbs nobody."""
        if gc.get_count()[2] < YOUNG:
            self._latest = now + LONGEST
        elif not self._busy() or now >= self._latest:
            gc.collect()
            self._latest = now + LONGEST
