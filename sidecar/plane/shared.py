"""What all workers of one sidecar share, by file descriptor: memory, and whose turn it is to write.

The supervisor makes both and hands them on; both end with the last process that holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from sidecar.config import RunSettings
from sidecar.errors import Misuse

RATES: Final = 2 * 1024 * 1024  # bytes of the table of limits
PROOFS: Final = 8 * 1024 * 1024  # bytes of the table of used proofs
MIN_SECRET: Final = 32  # bytes
KEY: Final = 16  # bytes of the secret that its places are found with


@dataclass(frozen=True, slots=True)
class SharedTable:
    """Memory that every worker reads and writes, zero at first, and the secret that goes with it.

    The secret keeps callers from choosing which of them share a place in it.
    """

    memory: mmap.mmap
    key: bytes

    @classmethod
    def attach(cls, descriptor: int, key: bytes, *, keep: bool = False) -> SharedTable:
        """In a worker. Takes the descriptor over, or leaves it open for its locks."""
        try:
            return cls(mmap.mmap(descriptor, os.fstat(descriptor).st_size), key)
        finally:
            if not keep:
                os.close(descriptor)


class Shared:
    """In the supervisor: the descriptors to pass to each worker, and the secret."""

    def __init__(self) -> None:
        self.rates = os.memfd_create("sidecar-rates")
        os.ftruncate(self.rates, RATES)
        self.proofs = os.memfd_create("sidecar-proofs")
        os.ftruncate(self.proofs, PROOFS)
        self.turn = os.memfd_create("sidecar-turn")
        self.key = os.urandom(KEY)

    def close(self) -> None:
        os.close(self.rates)
        os.close(self.proofs)
        os.close(self.turn)

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """As `worker.main` takes them."""
        return self.rates, self.proofs, self.turn


class Turn:
    """A lock between processes, given up also by one that is killed (POSIX record lock).

    Lines longer than a pipe takes at once stay whole with it; a file would not need it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def nonce_key(settings: RunSettings, secret: bytes) -> bytes:
    """What DPoP nonces are made with: the same in all workers, and in all replicas with a file."""
    path = settings.dpop_nonce_key
    if path is not None:
        try:
            secret = path.read_bytes()
        except OSError as error:
            raise Misuse(f"--dpop-nonce-key: {path} cannot be read: {error.strerror}") from None
        if len(secret) < MIN_SECRET:
            raise Misuse(f"--dpop-nonce-key: {path} holds less than {MIN_SECRET} bytes")
    return hashlib.sha256(b"dpop nonces|" + (secret or os.urandom(MIN_SECRET))).digest()
