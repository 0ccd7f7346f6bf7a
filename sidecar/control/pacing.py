"""How often a sidecar is sent releases: each at once while they are few, few while they are many.

A push costs a sidecar a compilation and the control plane a fifth of a millisecond for each stream.
The changes of every day wait for nothing. Of a burst four go at once and four a second, and once
several releases have become one push, which shows that it is one, the pause doubles up to a second.
"""

from __future__ import annotations

from typing import Final

from sidecar.decide.rates import Rate

PACE: Final = Rate.filling(0.25, 4)
LONGEST: Final = 1.0  # seconds


class Pace:
    """Of one stream. Times are in seconds, by a clock that only goes on."""

    __slots__ = ("_due", "_hold", "_until")

    def __init__(self) -> None:
        self._due = 0.0
        self._hold = 0.0
        self._until = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the next push may go; 0: at once."""
        return max(0.0, PACE.wait(self._due, now), self._until - now)

    def sent(self, now: float, releases: int) -> None:
        """A push went that brings a sidecar on by so many releases."""
        self._due = PACE.after(self._due, now)
        self._hold = min(LONGEST, max(PACE.interval, 2 * self._hold)) if releases > 1 else 0.0
        self._until = now + self._hold
