"""Bounded memory of what was verified. Filling it is memoisation that no outcome can show."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class ExpiringCache(Generic[V]):
    """Key to (expiry, value), bounded in entries and in weight; at a bound the oldest go.

    Time is an argument (seconds since the epoch). Expired entries are dropped when met, and by age
    at the bound. `weight` is what the caller says an entry takes, in bytes.
    """

    __slots__ = ("_entries", "bound", "evictions", "heaviest", "hits", "misses", "weight")

    def __init__(self, bound: int, heaviest: int = 64 * 1024 * 1024) -> None:
        self.bound = bound
        self.heaviest = heaviest
        self.weight = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        # Not a dict: finding its oldest entry means stepping over all that went before.
        self._entries: OrderedDict[bytes, tuple[float, V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> V | None:
        """The value, unless it was never put or its time has come."""
        entry = self._entries.get(key)
        if entry is not None:
            if now < entry[0]:
                self.hits += 1
                return entry[1]
            self.drop(key)
        self.misses += 1
        return None

    def put(self, key: bytes, value: V, expires: float, weight: int = 0) -> None:
        """Remember until `expires`; what alone outweighs the bound is not remembered."""
        self.drop(key)
        if weight > self.heaviest:
            return
        while len(self._entries) >= self.bound or self.weight + weight > self.heaviest:
            self.drop(next(iter(self._entries)))
            self.evictions += 1
        self._entries[key] = (expires, value, weight)
        self.weight += weight

    def drop(self, key: bytes) -> None:
        """Forget one entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.weight -= entry[2]
