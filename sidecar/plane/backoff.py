"""How long to wait before a process that died is started again. Pure: times come in."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.1  # seconds, after the second death in a row; doubles with each
LONGEST: Final = 10.0
SETTLED: Final = 30.0  # seconds of life after which a death is not in a row with those before


class Backoff:
    """Of one place. The first death is mended at once."""

    def __init__(self) -> None:
        self._deaths = 0  # in a row

    def pause(self, lived: float) -> float:
        """Seconds to wait after a life of `lived` seconds."""
        if lived >= SETTLED:
            self._deaths = 0
        self._deaths += 1
        if self._deaths == 1:
            return 0.0
        return min(LONGEST, FIRST * 2.0 ** min(self._deaths - 2, 16))
