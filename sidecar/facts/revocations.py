"""The sidecar's end of the log of revocations: read, held, kept on disk, handed on.

What is withdrawn counts from the moment it is read. It is written to disk before it is
acknowledged, so that a restart in the dark still refuses it. Damage on disk costs the list, not the
start: it is said, and the control plane sends all of it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence

from sidecar.decide.revocations import BOUND, PACKED, TARGET, Revocation, Revocations, pack, unpack
from sidecar.errors import ReleaseRefused, StateUnusable
from sidecar.facts.state import StateDirectory
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Push, Subscription

_log = logging.getLogger(__name__)

Withdraw = Callable[[Sequence[Revocation]], Awaitable[None]]
"""Refuse these from now on, wherever this sidecar decides."""


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
        if self._state is None:
            return ""
        try:
            await asyncio.to_thread(
                self._state.add_revocations,
                push.position,
                pack(revocations),
                now,
                self.held.packed,
                PACKED * len(self.held),
            )
        except StateUnusable as error:
            self.saved = False
            _log.warning("%s", error)
            return str(error)
        self.saved = True
        if not push.more:
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
