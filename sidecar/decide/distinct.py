"""How many different ones there are, in bounded memory: exact up to a bound, then estimated. Pure.

The estimate is HyperLogLog's (Flajolet et al. 2007): 4,096 registers, a standard error of 1.6 %.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

EXACT: Final = 1000
_BITS: Final = 12
_REGISTERS: Final = 1 << _BITS
_ALPHA: Final = 0.7213 / (1 + 1.079 / _REGISTERS)


class Distinct:
    """`add`, then `count`; `exact` says whether that is what it is."""

    __slots__ = ("_few", "_registers")

    def __init__(self) -> None:
        self._few: set[int] | None = set()
        self._registers: bytes | bytearray = b""  # the latter once there are many

    def add(self, value: str) -> None:
        digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        mark = int.from_bytes(digest, "big")
        if self._few is None:
            self._register(mark)
            return
        self._few.add(mark)
        if len(self._few) > EXACT:
            few, self._few = self._few, None
            self._registers = bytearray(_REGISTERS)
            for each in few:
                self._register(each)

    def _register(self, mark: int) -> None:
        place, rest = mark >> (64 - _BITS), mark & ((1 << (64 - _BITS)) - 1)
        rank = 64 - _BITS - rest.bit_length() + 1
        registers = self._registers
        if isinstance(registers, bytearray) and rank > registers[place]:
            registers[place] = rank

    @property
    def exact(self) -> bool:
        return self._few is not None

    @property
    def count(self) -> int:
        if self._few is not None:
            return len(self._few)
        total = sum(2.0**-rank for rank in self._registers)
        estimate = _ALPHA * _REGISTERS * _REGISTERS / total
        empty = self._registers.count(0)
        if estimate <= 2.5 * _REGISTERS and empty:
            estimate = _REGISTERS * math.log(_REGISTERS / empty)
        return round(estimate)

    def __str__(self) -> str:
        return str(self.count) if self.exact else f"about {self.count}"
