"""Rates as the generic cell rate algorithm: one time stamp a caller, no timers. Pure.

The stamp says when a caller who kept strictly to the rate would be due again. A request may come
before that by the tolerance, which is what makes bursts possible. Source: ITU-T I.371, annex A.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(s|m|h|d)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Rate:
    """One in `interval` seconds in the long run, and `tolerance` seconds' worth of them at once."""

    interval: float
    tolerance: float

    @classmethod
    def parse(cls, text: str, units: int = 1) -> Rate:
        """`100/s`, `10/m`, `5/h`; those of so many units of time may come at once.

        Raises ValueError.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a rate such as 100/s, 10/m or 5/h")
        count = int(match.group(1))
        interval = _SECONDS[match.group(2)] / count
        # A millionth more, so that what thousands of additions round away refuses nobody.
        return cls(interval, interval * (count * units - 1 + 1e-6))

    @classmethod
    def bucket(cls, text: str, burst: int | None = None) -> Rate:
        """The same with so many at once; None: a unit's worth. Raises ValueError."""
        rate = cls.parse(text)
        return rate if burst is None else cls.filling(rate.interval, burst)

    @classmethod
    def filling(cls, interval: float, burst: int) -> Rate:
        """One in `interval` seconds, `burst` at once."""
        return cls(interval, interval * (burst - 1 + 1e-6))

    @property
    def burst(self) -> int:
        """How many may come at once."""
        return int(self.tolerance / self.interval + 0.5) + 1

    def left(self, due: float, now: float) -> int:
        """How many more may come at this moment."""
        if self.wait(due, now) > 0:
            return 0
        ahead = due - now
        if ahead > self.tolerance + self.interval or ahead <= 0:
            return self.burst
        return int((self.tolerance - ahead) / self.interval + 1e-6) + 1

    def wait(self, due: float, now: float) -> float:
        """Seconds until one more is within the rate; 0 or less: it is."""
        # A stamp further ahead than any can be comes from a clock that was set back.
        return 0.0 if due - now > self.tolerance + self.interval else due - self.tolerance - now

    def after(self, due: float, now: float) -> float:
        """The stamp once one more has come."""
        if due - now > self.tolerance + self.interval:
            due = now
        return max(due, now) + self.interval
