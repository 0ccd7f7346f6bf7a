"""What is under way for callers whose credential was withdrawn is ended: exchanges and tunnels.

All of it is looked at, in slices, since twenty thousand at once would hold up everybody else. A
look is one dictionary look-up or a few; nothing is decided anew, for nothing else has changed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from sidecar.decide.outcomes import Permit

SLICE: Final = 0.002  # seconds of looking before other work gets its turn


class UnderWay(Protocol):
    """A client connection or a tunnel."""

    def permitted(self) -> Permit | None:
        """What lets the exchange at hand, or the tunnel, go on; None where there is none."""

    def withdraw(self) -> None:
        """End it: the credential that it hangs on was withdrawn."""

    def doubt(self) -> None:
        """Have it decided again, and end it if it is not permitted any more."""


class Withdrawals:
    """One per proxy. `begin` whenever something was withdrawn."""

    def __init__(
        self,
        withdrawn: Callable[[Permit], bool],
        doubtful: Callable[[Permit], bool],
        under_way: Callable[[], Iterable[UnderWay]],
    ) -> None:
        self.ended = 0
        """How many were ended so far."""
        self._withdrawn = withdrawn
        self._doubtful = doubtful
        self._under_way = under_way
        self._to_look_at: deque[UnderWay] = deque()
        self._looking = False  # a slice of it is due
        self._again = False  # and all of it once more

    def begin(self) -> None:
        """Look at all of them. Who asks while that is under way has it done once more after it,
        so that those at the end have their turn however often something is withdrawn."""
        if self._looking:
            self._again = True
        else:
            self._to_look_at = deque(self._under_way())
            self._look_at_some()

    def _look_at_some(self) -> None:
        until = time.perf_counter() + SLICE
        queue = self._to_look_at
        while queue:
            each = queue.popleft()
            permit = each.permitted()
            if permit is not None and self._withdrawn(permit):
                self.ended += 1
                each.withdraw()
            elif permit is not None and self._doubtful(permit):
                each.doubt()
            if time.perf_counter() >= until:
                break
        if not queue and self._again:
            self._again = False
            self._to_look_at = queue = deque(self._under_way())
        self._looking = bool(queue)
        if queue:
            asyncio.get_running_loop().call_soon(self._look_at_some)
