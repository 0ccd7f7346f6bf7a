"""When a server that fails again and again is left alone, and when it is tried again."""

from __future__ import annotations

from typing import Final

BREAKS_AFTER: Final = 5  # failures in a row
OPEN: Final = 2.0  # seconds that a broken server is left alone, the first time
LONGEST_OPEN: Final = 60.0


class Breaker:
    """Whether a server is asked. Closed: it is. Open: it is not, until a time. Then one question
    is let through, and what comes of it closes the breaker or opens it for twice as long.

    Each question has a ticket. What becomes of one that was asked before the breaker opened or
    closed says nothing of the state after: many that fail together are one reason to open it.
    """

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.open = False
        self._until = 0.0
        self._pause = OPEN
        self._trying = False
        self._ticket = 1

    def admits(self, now: float) -> int:
        """A ticket to ask with, for which `succeeded`, `failed` or `abandoned` must follow; 0: do
        not ask."""
        if self.open:
            if self._trying or now < self._until:
                return 0
            self._trying = True
        return self._ticket

    def abandoned(self, ticket: int) -> None:
        """Nothing was asked after all."""
        if ticket == self._ticket:
            self._trying = False

    def succeeded(self, ticket: int) -> None:
        if ticket != self._ticket:
            return
        self.failures = 0
        self._pause = OPEN
        if self.open:
            self.open = self._trying = False
            self._ticket += 1

    def failed(self, ticket: int, now: float) -> None:
        if ticket != self._ticket:
            return
        self.failures += 1
        if self.failures >= BREAKS_AFTER:
            self.open, self._trying = True, False
            self._until = now + self._pause
            self._pause = min(LONGEST_OPEN, self._pause * 2)
            self._ticket += 1
