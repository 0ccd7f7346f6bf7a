"""Which connected sidecar enforces what, on all replicas: as messages, now or at every change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Final

from sidecar.control import answers
from sidecar.control.authority import ANYBODY, current
from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet
from sidecar.control.reach import MAX_ERRORS, Everyone, reach
from sidecar.control.revocations import RevocationLog
from sidecar.control.roster import Member
from sidecar.control.session import Session
from sidecar.decide.documents import PLATFORM
from sidecar.errors import Misuse
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert

GATHER: Final = 0.02  # seconds between two messages of a watch: bursts of acks become one
MOST: Final = 1000  # releases of one watch
ELSEWHERE: Final = 0.5  # seconds between two looks at other replicas
Sees = Callable[[str], bool]
"""Whether somebody may see a namespace."""


class Watching:
    """For the Admin service."""

    def __init__(
        self,
        catalogue: Catalogue,
        log: RevocationLog,
        fleet: Fleet,
        everyone: Everyone,
        clock: Callable[[], float],
    ) -> None:
        self._catalogue = catalogue
        self._log = log
        self._fleet = fleet
        self._everyone = everyone
        self._clock = clock

    async def refresh(self) -> None:
        """Hears of sidecars at other replicas. Raises StoreFailed."""
        await self._everyone.refresh()

    async def status(self, request: pb.StatusRequest, sees: Sees) -> pb.StatusResponse:
        """Raises StoreFailed."""
        await self._everyone.refresh()
        found = [
            each
            for each in self._sidecars()
            if request.namespace in ("", each.namespace)
            and request.sidecar_id in ("", each.sidecar_id)
            and sees(each.namespace)
        ]
        found.sort(key=lambda each: (each.namespace, each.sidecar_id))
        return pb.StatusResponse(
            sidecars=[self._status(each) for each in found],
            releases=[
                answers.release(release)
                for release in self._catalogue.releases()
                if request.namespace in ("", release.namespace) and sees(release.namespace)
            ],
            reaches=self._reaches(request.namespace, found, sees),
        )

    def _reaches(
        self, namespace: str, sidecars: Sequence[Session | Member], sees: Sees
    ) -> Iterator[pb.Progress.Reach]:
        """Of what everybody is to enforce, and of what is being rolled out. `platform` concerns
        every sidecar, so it is counted only where all are known."""
        for release in self._catalogue.releases():
            name = release.namespace
            line = self._catalogue.line(name)
            if namespace not in ("", name) or not sees(name) or line is None:
                continue
            concerned = [each for each in sidecars if name in (PLATFORM, each.namespace)]
            if not concerned and (namespace or not release.version):
                continue  # also the empty `platform` that every store begins with
            versions = [release.version]
            if line.rollout is not None:
                versions.append(line.rollout.version)
            for version in versions:
                found = reach(self._catalogue, concerned, name, version, sees)
                yield answers.reach(found, name, version)

    async def progress(self, request: pb.WatchRequest) -> AsyncIterator[pb.Progress]:
        """How far releases have come, at once and after every change. Raises FleetFull, Misuse and
        StoreFailed."""
        if len(request.releases) > MOST:
            raise Misuse(f"releases: at most {MOST} can be watched at a time")
        caller = current()
        who = "" if caller is ANYBODY else caller.name
        with self._fleet.watching(who) as changed:
            last = None
            while True:
                changed.clear()
                await self._everyone.refresh()
                progress = self._progress(request, lambda name: caller.may("view", name))
                if progress != last:
                    yield progress
                    last = progress
                if self._everyone.roster is None:
                    await changed.wait()
                else:  # what happens elsewhere sets no event here
                    waiting = asyncio.create_task(changed.wait())
                    await asyncio.wait({waiting}, timeout=ELSEWHERE)
                    waiting.cancel()
                await asyncio.sleep(GATHER)

    def _sidecars(self) -> Iterable[Session | Member]:
        yield from self._fleet
        if self._everyone.roster is not None:
            yield from self._everyone.roster.others()

    def _progress(self, request: pb.WatchRequest, sees: Sees) -> pb.Progress:
        return pb.Progress(
            reaches=[
                answers.reach(
                    self._everyone.reach(each.namespace, each.version, sees),
                    each.namespace,
                    each.version,
                )
                for each in request.releases
            ],
            withdrawal=self._reach_of(request.withdrawal) if request.withdrawal else None,
        )

    def _reach_of(self, number: int) -> pb.Progress.Reach:
        """Of a withdrawal."""
        count = live = 0
        refusing: list[str] = []
        for each in self._sidecars():
            count += 1
            if isinstance(each, Member):
                live += each.revocations >= number
                if each.revocations < 0:
                    refusing.append(f"{each.sidecar_id}: too old to know of it")
                continue
            cursor = each.revocations
            live += cursor is not None and cursor.holds(number)
            if cursor is None:
                refusing.append(f"{each.sidecar_id}: too old to know of it")
            elif cursor.refuses(number):
                refusing.append(f"{each.sidecar_id}: {cursor.last_error}")
        return pb.Progress.Reach(
            version=number, sidecars=count, live=live, refused=len(refusing),
            errors=refusing[:MAX_ERRORS],
        )  # fmt: skip

    def _status(self, each: Session | Member) -> pb.SidecarStatus:
        target = self._catalogue.target(each.namespace, each.labels, each.sidecar_id)
        assigned = target.versions if target is not None else {}
        current = bool(each.confirmed) and each.confirmed == assigned
        behind = None if current else each.behind
        revoked = each.revocations
        number = revoked if isinstance(revoked, int) else -1 if revoked is None else revoked.number
        roster = self._everyone.roster
        here = roster.replica if roster is not None else ""
        return pb.SidecarStatus(
            sidecar_id=each.sidecar_id,
            namespace=each.namespace,
            labels=each.labels,
            build=each.build,
            address=each.address,
            connected_since=int(each.since),
            enforced=convert.versions_to_wire(each.enforced),
            assigned=convert.versions_to_wire(assigned),
            last_error=each.last_error,
            current=current,
            revocations_current=number >= self._log.newest,
            started=each.started,
            lag=0.0 if behind is None else max(0.0, self._clock() - behind),
            replica=each.replica if isinstance(each, Member) else here,
        )
