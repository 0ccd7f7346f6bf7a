"""Those who come to the fleet's listener and have not shown yet whose sidecar they are.

Each may have the cluster asked about it and keep a call open for a while, so they are few: in all,
and of one address, lest one of them takes the places of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sidecar.errors import SidecarError

MOST: Final = 1024
OF_ONE: Final = 32  # of one address: a pod's sidecar comes once, a gateway may stand before several


class Crowded(SidecarError):
    """There are as many as may be; says of whom."""


class Strangers:
    """`one` for as long as somebody is a stranger."""

    def __init__(self) -> None:
        self._by_address: Counter[str] = Counter()
        self._all = 0

    @contextmanager
    def one(self, peer: str) -> Iterator[None]:
        """`peer` is ADDRESS:PORT. Raises Crowded."""
        address = peer.rpartition(":")[0]
        if self._all >= MOST:
            raise Crowded("too many come at once that have not shown whose sidecar they are")
        if self._by_address[address] >= OF_ONE:
            raise Crowded(f"too many of {address} have not shown whose sidecar they are")
        self._all += 1
        self._by_address[address] += 1
        try:
            yield
        finally:
            self._all -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
