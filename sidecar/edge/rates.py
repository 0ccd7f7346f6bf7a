"""How fast each client address comes, and each bucket of a rule's limit is emptied: a table of
fixed size over a piece of memory.

The memory may be this process's own or shared by several: a slot is a key and a time stamp
(`decide.rates`), both eight bytes, so no lock is needed. Two workers that count the same address in
the same microsecond may count one request for two; nobody is ever refused too early by that.

At the bound: an address falls into one set of slots; when all of those are taken, the one that has
been quiet longest is forgotten. So a flood from many addresses costs nobody but those that share
its sets their count, and never memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from sidecar.decide.rates import Rate

SIZE: Final = 2 * 1024 * 1024  # bytes; 131,072 slots
_WAYS: Final = 8  # slots of one set
_SLOT: Final = 16  # bytes: key, stamp

ALL: Final = b"a"  # kinds of count, each by itself
FAILED: Final = b"f"


class RateTable:
    """Stamps by kind and address. `memory` is SIZE bytes or a part of them, zero at first.

    `secret` makes keys that no caller can aim at each other; who shares memory shares it.
    """

    def __init__(
        self, memory: bytearray | memoryview | None = None, secret: bytes | None = None
    ) -> None:
        view = memoryview(mmap.mmap(-1, SIZE) if memory is None else memory).cast("B")
        self._secret = secret = os.urandom(16) if secret is None else secret
        self._keys = view.cast("Q")
        self._stamps = view.cast("d")
        self._sets = len(view) // (_SLOT * _WAYS)

        @lru_cache(maxsize=4096)
        def key(kind: bytes, address: str) -> int:
            mark = hashlib.blake2b(kind + _network(address), digest_size=8, key=secret).digest()
            return int.from_bytes(mark, "big") or 1

        self._key = key

    def wait(self, kind: bytes, address: str, rate: Rate, now: float) -> float:
        """Seconds until one more is within the rate; 0 or less: it is. Counts nothing."""
        slot = self._find(self._key(kind, address))
        return 0.0 if slot < 0 else rate.wait(self._stamps[slot + 1], now)

    def take(self, kind: bytes, address: str, rate: Rate, now: float) -> float:
        """The same, and count one if it is within the rate."""
        return self._take(self._key(kind, address), rate, now)

    def left(self, rule: str, value: bytes, rate: Rate, now: float) -> tuple[int, float]:
        """How many more of a rule's bucket may come now, and the seconds until it is full."""
        due = self._due(self._bucket(rule, value))
        left = rate.left(due, now)
        return left, 0.0 if left == rate.burst else max(due - now, 0.0)

    def wait_for(self, rule: str, value: bytes, rate: Rate, now: float) -> float:
        """Seconds until one more of a rule's bucket; 0 or less: there is one. Counts nothing."""
        return rate.wait(self._due(self._bucket(rule, value)), now)

    def take_from(self, rule: str, value: bytes, rate: Rate, now: float) -> float:
        """The same, and take it if there is one."""
        return self._take(self._bucket(rule, value), rate, now)

    def _bucket(self, rule: str, value: bytes) -> int:
        named = b"r%d:%b%b" % (len(rule), rule.encode(), value)
        mark = hashlib.blake2b(named, digest_size=8, key=self._secret).digest()
        return int.from_bytes(mark, "big") or 1

    def _due(self, key: int) -> float:
        slot = self._find(key)
        return 0.0 if slot < 0 else self._stamps[slot + 1]

    def _take(self, key: int, rate: Rate, now: float) -> float:
        slot = self._find(key)
        due = 0.0 if slot < 0 else self._stamps[slot + 1]
        wait = rate.wait(due, now)
        if wait <= 0:
            if slot < 0:
                slot = self._free(key, now)
                self._keys[slot] = key
            self._stamps[slot + 1] = rate.after(due, now)
        return wait

    def _find(self, key: int) -> int:
        """Where the key stands, in words; -1: nowhere."""
        keys = self._keys
        first = key % self._sets * 2 * _WAYS
        for slot in range(first, first + 2 * _WAYS, 2):
            if keys[slot] == key:
                return slot
        return -1

    def _free(self, key: int, now: float) -> int:
        """A slot of the key's set: a free one, or the one that was quiet longest."""
        first = key % self._sets * 2 * _WAYS
        slots = range(first, first + 2 * _WAYS, 2)
        return min(slots, key=lambda slot: self._stamps[slot + 1] if self._keys[slot] else 0.0)


def _network(address: str) -> bytes:
    """What counts as one client: an IPv4 address, the /64 of an IPv6 address (RFC 6177)."""
    if ":" not in address:
        return address.encode()
    try:
        return IPv6Address(address).packed[:8]
    except ValueError:
        return address.encode()
