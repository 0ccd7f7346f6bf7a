"""The Admin service: requests to values, values to answers. What happens is decided elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from math import ceil
from typing import Any, Final, NoReturn, TypeVar

import grpc

from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet, FleetFull
from sidecar.control.metrics import Counts
from sidecar.control.publish import Application, Outcome, Publisher, Result, What
from sidecar.control.revocations import (
    MOST,
    NotWithdrawn,
    Numbered,
    RevocationLog,
    TooManyWithdrawn,
    Withdrawal,
)
from sidecar.control.session import Session
from sidecar.control.store import Release
from sidecar.control.withdraw import Withdrawer
from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.documents import TokenIssuer
from sidecar.decide.revocations import Kind
from sidecar.errors import StoreFailed
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert
from sidecar.wire.admin_pb2_grpc import AdminServicer

GATHER: Final = 0.02  # seconds between two messages of a watch: bursts of acks become one
MAX_ERRORS: Final = 10
LISTED: Final = 1000  # withdrawals, where no other number is asked for
_OUTCOMES: Final[Mapping[Outcome, pb.Outcome.ValueType]] = {
    "published": pb.OUTCOME_PUBLISHED,
    "unchanged": pb.OUTCOME_UNCHANGED,
    "would_publish": pb.OUTCOME_WOULD_PUBLISH,
    "refused": pb.OUTCOME_REFUSED,
    "conflict": pb.OUTCOME_CONFLICT,
}
_WHATS: Final[Mapping[What, pb.Change.What.ValueType]] = {
    "added": pb.Change.WHAT_ADDED,
    "changed": pb.Change.WHAT_CHANGED,
    "removed": pb.Change.WHAT_REMOVED,
    "unchanged": pb.Change.WHAT_UNCHANGED,
}
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Admin(AdminServicer):
    """Serves people and pipelines."""

    def __init__(
        self,
        publisher: Publisher,
        withdrawer: Withdrawer,
        catalogue: Catalogue,
        log: RevocationLog,
        fleet: Fleet,
        counts: Counts,
    ) -> None:
        self._publisher = publisher
        self._withdrawer = withdrawer
        self._catalogue = catalogue
        self._log = log
        self._fleet = fleet
        self._counts = counts
        self._under_way: set[asyncio.Task[Any]] = set()

    async def settle(self) -> None:
        """Waits for what is being published or withdrawn."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyResponse:
        """Publishes; see ApplyRequest."""
        application = Application(
            texts=list(request.documents),
            namespaces=list(request.namespaces),
            prune=request.prune,
            dry_run=request.dry_run,
            base_versions=dict(request.base_versions),
            raise_floor=request.raise_floor,
        )
        try:
            result = await self._to_the_end(self._publisher.apply(application))
        except StoreFailed as error:
            self._counts.applies["failed"] += 1
            _log.error("%s", error)
            await _abort(context, grpc.StatusCode.ABORTED, f"nothing was published: {error}")
        self._counts.applies[result.outcome] += 1
        return pb.ApplyResponse(
            outcome=_OUTCOMES[result.outcome],
            releases=[_release(release) for release in result.releases],
            changes=[pb.Change(what=_WHATS[c.what], document=c.document) for c in result.changes],
            problems=[convert.problem_to_wire(problem) for problem in result.problems],
        )

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Goes on when the caller hangs up: what is durable must also be announced."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is None:
            result = task.result()
            if isinstance(result, Result):
                self._counts.releases += len(result.releases) * (result.outcome == "published")

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:
        """Withdraws; see RevokeRequest."""
        try:
            if not 0 < len(request.withdrawals) <= MOST:
                raise NotWithdrawn(f"1 to {MOST} withdrawals are expected")
            now = self._withdrawer.now()
            wanted = [_withdrawal(each, now) for each in request.withdrawals]
            number = await self._to_the_end(self._withdrawer.withdraw(wanted))
        except TooManyWithdrawn as error:
            self._counts.revokes["full"] += 1
            await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except NotWithdrawn as error:
            self._counts.revokes["refused"] += 1
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except StoreFailed as error:
            self._counts.revokes["failed"] += 1
            _log.error("%s", error)
            await _abort(context, grpc.StatusCode.ABORTED, f"nothing was withdrawn: {error}")
        self._counts.revokes["withdrawn"] += 1
        return pb.RevokeResponse(number=number, warnings=self._unknown(wanted))

    def _unknown(self, wanted: Sequence[Withdrawal]) -> list[str]:
        """Issuers that nothing published knows: what is withdrawn of them refuses nothing."""
        known = {
            document.spec.issuer
            for release in self._catalogue.releases()
            for document in release.documents
            if isinstance(document.spec, TokenIssuer)
        }
        return [
            f"no TokenIssuer that is published has the issuer {name!r}"
            for name in sorted({each.issuer for each in wanted} - known - {API_KEYS})
            if not name.startswith("spiffe://")
        ]

    async def ListRevocations(
        self, request: pb.ListRevocationsRequest, context: Any
    ) -> pb.ListRevocationsResponse:
        """What is withdrawn, newest first."""
        found, total = self._withdrawer.listed(
            request.issuer, request.value, request.most or LISTED
        )
        return pb.ListRevocationsResponse(
            withdrawals=[_numbered(each) for each in found], total=total
        )

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        """What is published now."""
        releases = [
            release
            for release in self._catalogue.releases()
            if request.namespace in ("", release.namespace)
        ]
        return pb.GetResponse(
            documents=[
                document.canonical
                for release in releases
                for document in release.documents
                if request.kind in ("", document.kind) and request.name in ("", document.name)
            ],
            releases=[_release(release) for release in releases],
        )

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        """Which connected sidecar enforces what."""
        sessions = [
            session
            for session in self._fleet
            if request.namespace in ("", session.namespace)
            and request.sidecar_id in ("", session.sidecar_id)
        ]
        sessions.sort(key=lambda session: (session.namespace, session.sidecar_id))
        return pb.StatusResponse(
            sidecars=[self._status(session) for session in sessions],
            releases=[
                _release(release)
                for release in self._catalogue.releases()
                if request.namespace in ("", release.namespace)
            ],
        )

    # The stub is written for the other form of a stream, too.
    async def Watch(self, request: pb.WatchRequest, context: Any) -> None:  # type: ignore[override]
        """How far releases have come, at once and after every change."""
        try:
            with self._fleet.watching() as changed:
                last = None
                while True:
                    changed.clear()
                    progress = self._progress(request)
                    if progress != last:
                        await context.write(progress)
                        last = progress
                    await changed.wait()
                    await asyncio.sleep(GATHER)
        except FleetFull as error:
            await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    def _progress(self, request: pb.WatchRequest) -> pb.Progress:
        return pb.Progress(
            reaches=[self._reach(item.namespace, item.version) for item in request.releases],
            withdrawal=self._reach_of(request.withdrawal) if request.withdrawal else None,
        )

    def _reach_of(self, number: int) -> pb.Progress.Reach:
        cursors = [(session.sidecar_id, session.revocations) for session in self._fleet]
        refusing = [
            f"{id_}: {cursor.last_error if cursor is not None else 'too old to know of it'}"
            for id_, cursor in cursors
            if cursor is None or cursor.refuses(number)
        ]
        return pb.Progress.Reach(
            version=number,
            sidecars=len(cursors),
            live=sum(cursor is not None and cursor.holds(number) for _, cursor in cursors),
            refused=len(refusing),
            errors=refusing[:MAX_ERRORS],
        )

    def _reach(self, namespace: str, version: int) -> pb.Progress.Reach:
        sessions = list(self._fleet.concerned(namespace))
        live = sum(session.enforces(namespace, version) for session in sessions)
        refusing = [
            session
            for session in sessions
            if session.refuses(namespace, version) and not session.enforces(namespace, version)
        ]
        return pb.Progress.Reach(
            namespace=namespace,
            version=version,
            sidecars=len(sessions),
            live=live,
            refused=len(refusing),
            errors=[f"{s.sidecar_id}: {s.last_error}" for s in refusing[:MAX_ERRORS]],
        )

    def _status(self, session: Session) -> pb.SidecarStatus:
        return pb.SidecarStatus(
            sidecar_id=session.sidecar_id,
            namespace=session.namespace,
            labels=session.labels,
            build=session.build,
            address=session.address,
            connected_since=int(session.since),
            enforced=convert.versions_to_wire(session.enforced),
            assigned=convert.versions_to_wire(session.assigned(self._catalogue)),
            last_error=session.last_error,
            current=session.current(self._catalogue),
            revocations_current=session.revocations is not None
            and session.revocations.holds(self._log.newest),
        )


def _release(release: Release) -> pb.Release:
    return pb.Release(
        namespace=release.namespace,
        version=release.version,
        floor=release.manifest.floor,
        issued=release.manifest.issued,
        documents=len(release.documents),
    )


_KINDS: Final[Mapping[pb.Withdrawal.Kind.ValueType, Kind]] = {
    pb.Withdrawal.KIND_TOKEN: "token",
    pb.Withdrawal.KIND_SESSION: "session",
    pb.Withdrawal.KIND_SUBJECT: "subject",
    pb.Withdrawal.KIND_KEY: "key",
}
_KINDS_TO_WIRE: Final = {kind: value for value, kind in _KINDS.items()}


def _withdrawal(each: pb.Withdrawal, now: float) -> Withdrawal:
    """Raises NotWithdrawn for a kind that this version does not know."""
    kind = _KINDS.get(each.kind)
    if kind is None:
        raise NotWithdrawn(f"kind: one of {', '.join(_KINDS_TO_WIRE)} is expected")
    before = each.before_ms / 1000 if each.HasField("before_ms") else None
    if each.before_now:
        before = now
    return Withdrawal(
        kind, each.issuer, each.value, before, float(each.expires), reason=each.reason
    )


def _numbered(each: Numbered) -> pb.Withdrawal:
    about = each.withdrawal
    return pb.Withdrawal(
        kind=_KINDS_TO_WIRE[about.kind],
        issuer=about.issuer,
        value=about.value,
        before_ms=None if about.before is None else ceil(about.before * 1000),
        expires=ceil(about.expires),
        reason=about.reason,
        number=each.number,
        created=each.created,
        source=about.source,
    )


async def _abort(context: Any, code: grpc.StatusCode, reason: str) -> NoReturn:
    await context.abort(code, reason)
    raise AssertionError("abort returned")
