"""Which DPoP proofs were used: a table of fixed size over a piece of memory, one for all workers.

The proofs of a key all fall into one place of SLOTS slots, which are filled in turn. Nothing is
forgotten for nothing: a place keeps a floor, the latest `iat` of all that was ever overwritten in
it, and refuses proofs that are not newer. So at the bound the window in which proofs are accepted
gets shorter, for the keys of that place alone, and no proof is ever accepted twice. Who floods the
table with proofs of one key shuts out that key, and those of the others that share its place (one
in PLACES), until AHEAD seconds after the flood at most.

That a used proof becomes too old is no reason to forget it either, so the clock may be set back.
The memory may be this process's own or shared by several; then `Turns` lets one at a time into a
place.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from enum import Enum
from typing import Final

from sidecar.decide.dpop import AHEAD
from sidecar.decide.outcomes import RememberProof

SLOTS: Final = 255  # of a place: so many of its proofs are known one by one
PLACES: Final = 2048
SIZE: Final = 4096 * PLACES  # bytes; a page for each place, taken from the system when it is used

FAR: Final = 300.0  # seconds that a clock may be set back without any place being opened again
_HEAD: Final = struct.Struct("=dQ")  # floor, proofs ever written
_STAMP: Final = struct.Struct("=d")
_MARK: Final = 8  # bytes
_MARKS: Final = _HEAD.size
_STAMPS: Final = _MARKS + SLOTS * _MARK
_PLACE: Final = _STAMPS + SLOTS * _STAMP.size
_TRIES: Final = 200


class Use(Enum):
    """What became of a proof."""

    FIRST = "first"
    REPLAYED = "replayed"
    CROWDED = "crowded"  # not newer than what had to be forgotten
    BUSY = "busy"  # another worker held the place for too long


class Turns:
    """One lock for each place between processes, given up also by one that is killed (POSIX record
    locks on the bytes of a file). Never waits long: a stopped worker must not stop the others."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def take(self, place: int) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                os.sched_yield()
            else:
                return True
        return False

    def give(self, place: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)


class ReplayTable:
    """`memory` is SIZE bytes or whole places of them, zero at first.

    `secret` makes places and marks that no caller can aim at; who shares memory shares it.
    """

    def __init__(
        self,
        memory: bytearray | memoryview | None = None,
        secret: bytes | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._memory = memoryview(mmap.mmap(-1, SIZE) if memory is None else memory).cast("B")
        self._places = len(self._memory) // _PLACE
        self._secret = os.urandom(16) if secret is None else secret
        self._turns = turns
        self.counts: dict[Use, int] = dict.fromkeys(Use, 0)

    def used(self, proof: RememberProof) -> bool:
        """Whether it was, for all that is known without waiting. `use` says for sure."""
        place, mark = self._where(proof)
        return self._find(place * _PLACE, mark)

    def use(self, proof: RememberProof, now: float) -> Use:
        """Use it, once and for all workers. Only `Use.FIRST` lets its request go on."""
        place, mark = self._where(proof)
        turns = self._turns
        if turns is not None and not turns.take(place):
            found = Use.BUSY
        else:
            try:
                found = self._use(place * _PLACE, mark, proof.created, now)
            finally:
                if turns is not None:
                    turns.give(place)
        self.counts[found] += 1
        return found

    def _where(self, proof: RememberProof) -> tuple[int, bytes]:
        key = proof.key.encode()
        place = hashlib.blake2b(key, digest_size=8, key=self._secret, person=b"place").digest()
        mark = hashlib.blake2b(
            key + b" " + proof.jti.encode(), digest_size=_MARK, key=self._secret, person=b"mark"
        ).digest()
        return int.from_bytes(place, "big") % self._places, mark if any(mark) else b"\1" * _MARK

    def _find(self, start: int, mark: bytes) -> bool:
        marks = bytes(self._memory[start + _MARKS : start + _STAMPS])
        at = marks.find(mark)
        while at >= 0 and at % _MARK:
            at = marks.find(mark, at + 1)
        return at >= 0

    def _use(self, start: int, mark: bytes, created: float, now: float) -> Use:
        if self._find(start, mark):
            return Use.REPLAYED
        memory = self._memory
        floor, written = _HEAD.unpack_from(memory, start)
        if floor > now + AHEAD:
            # No proof of today can have set it: it comes from a clock that was set back. All that
            # could be accepted today and was forgotten is below this one. Only for a clock that
            # was far off is it let go of; after a small step back it counts again in a moment.
            lowered = now + AHEAD
            if floor > now + FAR:
                floor = lowered
                _HEAD.pack_into(memory, start, floor, written)
            if created <= lowered:
                return Use.CROWDED
        elif created <= floor:
            return Use.CROWDED
        slot = written % SLOTS
        stamp = start + _STAMPS + slot * _STAMP.size
        (before,) = _STAMP.unpack_from(memory, stamp)
        # In this order, so that a worker that is killed in between forgets nothing.
        _HEAD.pack_into(memory, start, max(floor, before), written)
        at = start + _MARKS + slot * _MARK
        _STAMP.pack_into(memory, stamp, created)
        memory[at : at + _MARK] = mark
        _HEAD.pack_into(memory, start, max(floor, before), written + 1)
        return Use.FIRST
