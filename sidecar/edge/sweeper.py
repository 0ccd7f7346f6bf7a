"""One coarse timer for every time-out of the proxy, instead of one timer per request.

Connections keep a `deadline` and read the time from here as a plain attribute; every half second
the sweeper looks who is overdue. A time-out never fires early, and up to two ticks late. The date
that responses bear is read from here too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

NEVER: Final = float("inf")


def date_line() -> bytes:
    """RFC 9110 section 6.6.1, with its line end."""
    return f"date: {formatdate(usegmt=True)}\r\n".encode("ascii")


class Sweeper:
    """Ticks on the running loop from `start` to `stop`. Tests call `tick` with their own clock."""

    def __init__(
        self,
        *,
        interval: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        date: Callable[[], bytes] = date_line,
    ) -> None:
        self.interval = interval
        self.now = clock()
        self.date = b""
        """The Date line of the moment with its line end; empty while nothing ticks by itself."""
        self._clock = clock
        self._date = date
        self._sweeps: list[Callable[[float], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, sweep: Callable[[float], None]) -> None:
        """Call `sweep(now)` at every tick."""
        self._sweeps.append(sweep)

    def unwatch(self, sweep: Callable[[float], None]) -> None:
        """No longer do that."""
        self._sweeps = [each for each in self._sweeps if each != sweep]

    def after(self, seconds: float) -> float:
        """The deadline that is at least `seconds` away: `now` may be a tick old."""
        return self.now + seconds + self.interval

    def start(self) -> None:
        """Tick by itself from here on. Starting twice changes nothing."""
        if self._timer is None:
            self.date = self._date()
            self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tick(self) -> None:
        """Look at the clock and let everyone look at it."""
        self.now = now = self._clock()
        for sweep in self._sweeps:
            sweep(now)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self.interval, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._arm(loop)  # first: a sweep that fails must not be the last one
        self.date = self._date()
        self.tick()
