"""The sidecar's end of the log of revocations: read, held, kept on disk, handed on.

What is withdrawn counts from the moment it is read. It is written to disk before it is
acknowledged, so that a restart in the dark still refuses it. Damage on disk costs the list, not the
start: it is said, and the control plane sends all of it again.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final

from sidecar.decide.revocations import BOUND, TARGET, Revocation, Revocations
from sidecar.errors import ReleaseRefused, StateUnusable
from sidecar.facts.state import StateDirectory
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Push, Subscription

_RECORD: Final = struct.Struct(f">{TARGET}sqq")  # target, milliseconds or -1, seconds
_log = logging.getLogger(__name__)

Withdraw = Callable[[Sequence[Revocation]], Awaitable[None]]
"""Refuse these from now on, wherever this sidecar decides."""


def pack(revocations: Iterable[Revocation]) -> bytes:
    """As they travel to workers and lie on disk."""
    return b"".join(
        _RECORD.pack(
            each.target, -1 if each.before is None else round(each.before * 1000), int(each.expires)
        )
        for each in revocations
    )


def unpack(data: bytes) -> list[Revocation]:
    """The same. Raises ValueError."""
    if len(data) % _RECORD.size:
        raise ValueError("cut short")
    return [
        Revocation(target, None if before < 0 else before / 1000, float(expires))
        for target, before, expires in _RECORD.iter_unpack(data)
    ]


class RevocationList:
    """All that this sidecar was told, and how far that goes. `held` is what it is held in."""

    def __init__(self, held: Revocations, withdraw: Withdraw, state: StateDirectory | None) -> None:
        self.held = held
        self.saved = True  # False while what is held is not on disk
        self.pushes = 0
        self.confirmed = 0.0  # when it was last known to be the newest, Unix time
        self._withdraw = withdraw
        self._state = state
        self._position = ""
        self._current = False  # the control plane has nothing newer, as far as it told us

    def age(self, now: float, *, connected: bool) -> float | None:
        """Seconds since it was last known to be the newest; None if it never was."""
        if connected and self._current:
            return 0.0
        return max(0.0, now - self.confirmed) if self.confirmed else None

    async def restore(self, now: float) -> None:
        """Refuse what was withdrawn before this process began. Never raises."""
        if self._state is None:
            return
        saved = await asyncio.to_thread(self._state.load_revocations)
        if saved is None:
            return
        try:
            revocations = unpack(saved.packed)
        except ValueError as error:
            _log.warning("revocations on disk are passed over: %s", error)
            return
        self._position, self.confirmed = saved.position, saved.saved
        await self._withdraw([each for each in revocations if now < each.expires])

    def subscription(self) -> Subscription:
        """For the Hello."""
        self._current = False
        return Subscription(type=convert.REVOCATION, position=self._position)

    def idle(self) -> None:
        """The control plane has nothing more."""
        self._current = True

    def lost(self, moment: float) -> None:
        """The stream ended; at `moment` it was still known to be sound."""
        if self._current:
            self.confirmed = max(self.confirmed, moment)
        self._current = False

    async def take(self, push: Push, now: float) -> str:
        """Refuse what it names, from now on; why that could not be saved, else empty.

        Raises ReleaseRefused for a push that makes no sense; then nothing of it counts.
        """
        self._current = False
        revocations = list(_read(push))
        self.held.forget(now)
        if len(self.held) + len(revocations) > BOUND:
            raise ReleaseRefused(
                f"{len(self.held)} revocations are held, and at most {BOUND} can be"
            )
        await self._withdraw(revocations)
        self._position = push.position
        self.pushes += 1
        self._current = not push.more
        if push.more or self._state is None:
            return ""
        packed = pack(self.held)
        try:
            await asyncio.to_thread(self._state.save_revocations, push.position, packed, now)
        except StateUnusable as error:
            self.saved = False
            _log.warning("%s", error)
            return str(error)
        self.saved = True
        self.confirmed = now
        return ""


def _read(push: Push) -> Iterator[Revocation]:
    for resource in push.resources:
        about = resource.revocation
        if not resource.HasField("revocation") or len(about.target) != TARGET:
            raise ReleaseRefused(f"{resource.name[:253]}: no revocation that this version knows")
        before = about.before_ms / 1000 if about.HasField("before_ms") else None
        if about.expires <= 0 or (before is not None and before < 0):
            raise ReleaseRefused(f"{resource.name[:253]}: a moment before 1970")
        yield Revocation(about.target, before, float(about.expires))
