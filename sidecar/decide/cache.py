"""Bounded memory of what was verified. Filling it is memoisation that no outcome can show."""

from __future__ import annotations

from typing import Generic, TypeVar

V = TypeVar("V")


class ExpiringCache(Generic[V]):
    """Key to (expiry, value), at most `bound` entries; at the bound the oldest entry goes.

    Time is an argument (seconds since the epoch). Expired entries are dropped when met, and by age
    at the bound, so the bound is the only limit that memory needs.
    """

    __slots__ = ("_entries", "bound", "evictions", "hits", "misses")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: dict[bytes, tuple[float, V]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> V | None:
        """The value, unless it was never put or its time has come."""
        entry = self._entries.get(key)
        if entry is not None:
            if now < entry[0]:
                self.hits += 1
                return entry[1]
            del self._entries[key]
        self.misses += 1
        return None

    def put(self, key: bytes, value: V, expires: float) -> None:
        """Remember until `expires`."""
        if len(self._entries) >= self.bound and key not in self._entries:
            del self._entries[next(iter(self._entries))]
            self.evictions += 1
        self._entries[key] = (expires, value)

    def drop(self, key: bytes) -> None:
        """Forget one entry."""
        self._entries.pop(key, None)
