"""The Admin service: requests to values, values to answers. What happens is decided elsewhere.

Each method says what its caller needs for it (`control.authority`); who calls was found out at the
door. Errors of ours become gRPC's here, and only here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import grpc

from sidecar.control import answers, audit, past
from sidecar.control.applications import Application, Result
from sidecar.control.authority import Forbidden, Unauthenticated, current
from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import FleetFull
from sidecar.control.going_back import GoingBack
from sidecar.control.keeping import Keeping
from sidecar.control.metrics import Counts
from sidecar.control.proposals import NotReviewed, Proposal, read_proposal, read_proposals
from sidecar.control.publish import Publisher
from sidecar.control.releases import By
from sidecar.control.revocations import MOST, NotWithdrawn, TooManyWithdrawn, Withdrawal
from sidecar.control.rollouts.conductor import Conductor, NotSteered
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.rollouts.rows import read_rollouts
from sidecar.control.rollouts.steps import waits
from sidecar.control.store import OutcomeUnknown, Store
from sidecar.control.watching import Watching
from sidecar.control.withdraw import Withdrawer
from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.documents import TokenIssuer
from sidecar.errors import Misuse, SidecarError, StoreFailed
from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import AdminServicer

T = TypeVar("T")
LISTED: Final = 1000  # withdrawals, where no other number is asked for
ROLLOUTS: Final = 20
_ACTIONS: Final[Mapping[pb.SteerRequest.Action.ValueType, str]] = {
    pb.SteerRequest.ACTION_PAUSE: "pause",
    pb.SteerRequest.ACTION_RESUME: "resume",
    pb.SteerRequest.ACTION_ABORT: "abort",
}
_log = logging.getLogger(__name__)


class NotThere(SidecarError):
    """What was named is not there."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the service works with."""

    store: Store
    publisher: Publisher
    conductor: Conductor
    withdrawer: Withdrawer
    keeping: Keeping
    catalogue: Catalogue
    watching: Watching
    counts: Counts


class Admin(AdminServicer):
    """Serves people and pipelines."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._under_way: set[asyncio.Task[Any]] = set()

    async def settle(self) -> None:
        """Waits for what is being published or withdrawn."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    # Publishing.

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyResponse:
        """Publishes; see ApplyRequest."""
        async with _answering(context, "nothing was published", self._not_applied):
            application = answers.application_of(request)
            return await self._published(self._desk.publisher.apply(application, current()))

    async def Rollback(self, request: pb.RollbackRequest, context: Any) -> pb.ApplyResponse:
        """Goes back; see RollbackRequest."""
        async with _answering(context, "nothing was published"):
            application = Application(
                (), dry_run=request.dry_run, message=request.message,
                manifests=answers.signed_of(request.manifests),
            )  # fmt: skip
            desk = self._desk
            going = GoingBack(desk.store, desk.catalogue, desk.publisher, desk.conductor)
            return await self._published(
                going.back(request.namespace, request.to, application, current())
            )

    async def Review(self, request: pb.ReviewRequest, context: Any) -> pb.ApplyResponse:
        """The second person's word; see ReviewRequest."""
        async with _answering(context, "nothing was published"):
            review = self._desk.publisher.review(
                request.id, approve=request.approve, reason=request.reason, caller=current()
            )
            return await self._published(review)

    async def Proposals(self, request: pb.ProposalsRequest, context: Any) -> pb.ProposalsResponse:
        """What waits, newest first; of what the caller may not see whole, nothing."""
        async with _answering(context):
            caller, store = current(), self._desk.store

            def sees(found: Proposal) -> bool:
                return (
                    (not request.namespace or request.namespace in found.namespaces)
                    and all(caller.may("view", name) for name in found.namespaces)
                    and all(caller.may("view", c.namespace, c.kind) for c in found.changes)
                )

            async with store.reading() as connection:
                if not request.id:
                    found = await read_proposals(
                        connection, store.clock(), all_=request.all, sees=sees
                    )
                    return pb.ProposalsResponse(proposals=map(answers.proposal, found))
                one = await read_proposal(connection, request.id, store.clock())
            if one is None or not sees(one):
                raise NotThere(f"there is no proposal {request.id}; see `sidecar approve`")
            answer = answers.proposal(one)
            answer.documents.extend(await past.proposed(store, one))
            return pb.ProposalsResponse(proposals=[answer])

    # Rollouts.

    async def Rollouts(self, request: pb.RolloutsRequest, context: Any) -> pb.RolloutsResponse:
        """Newest first."""
        async with _answering(context):
            caller, desk = current(), self._desk
            if request.namespace:
                caller.require("view", [request.namespace])
            theirs = caller.namespaces("view")
            if theirs is not None and not theirs:
                return pb.RolloutsResponse()
            names = {request.namespace} if request.namespace else theirs or ()
            async with desk.store.reading() as connection:
                found = await read_rollouts(
                    connection,
                    namespaces=sorted(names),
                    active=request.active,
                    most=request.most or ROLLOUTS,
                )
            await desk.watching.refresh()
            return pb.RolloutsResponse(
                rollouts=[
                    self._rollout(each) for each in found if caller.may("view", each.namespace)
                ]
            )

    async def Steer(self, request: pb.SteerRequest, context: Any) -> pb.Rollout:
        """Pauses, resumes or aborts; see SteerRequest."""
        async with _answering(context, "nothing was changed"):
            caller = current()
            if not caller.may("approve", request.namespace):
                caller.require("publish", [request.namespace])
            steering = self._desk.conductor.steer(
                request.namespace, _ACTIONS.get(request.action, ""), request.reason[:1024],
                request.version, By(caller.name),
            )  # fmt: skip
            return self._rollout(await self._to_the_end(steering))

    def _rollout(self, rollout: Rollout) -> pb.Rollout:
        if not rollout.active:
            return answers.rollout(rollout)
        seen = self._desk.conductor.seen(rollout)
        waiting = waits(rollout, seen, self._desk.store.clock())
        return answers.rollout(rollout, seen, waiting if rollout.state == "running" else "")

    # What is, and what was.

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        """What is published now, or was."""
        async with _answering(context):
            caller, desk = current(), self._desk
            releases = [
                release
                for release in desk.catalogue.releases()
                if request.namespace in ("", release.namespace)
                and caller.may("view", release.namespace)
            ]
            if request.version:
                caller.require("view", [request.namespace])
                found = await desk.store.release(request.namespace, request.version)
                if found is None:
                    raise NotThere(f"there is no {request.namespace}@{request.version}")
                releases = [found]
            return pb.GetResponse(
                documents=[
                    document.canonical
                    for release in releases
                    for document in release.documents
                    if request.kind in ("", document.kind)
                    and request.name in ("", document.name)
                    and caller.may("view", document.namespace, document.kind)
                ],
                releases=[answers.release(release) for release in releases],
            )

    async def History(self, request: pb.HistoryRequest, context: Any) -> pb.HistoryResponse:
        """Newest first."""
        async with _answering(context):
            current().require("view", [request.namespace])
            return await past.history(self._desk.store, self._desk.catalogue, request)

    async def Diff(self, request: pb.DiffRequest, context: Any) -> pb.DiffResponse:
        """Between two releases, of what the caller may see."""
        async with _answering(context):
            caller = current()
            caller.require("view", [request.namespace])
            desk, from_, to = self._desk, getattr(request, "from"), request.to
            found = await past.difference(
                desk.store, desk.catalogue, request.namespace, from_, to,
                lambda kind: caller.may("view", request.namespace, kind),
            )  # fmt: skip
            if found is None:
                raise NotThere(
                    f"{request.namespace} has no release {from_}, or none {to or 'at all'}; see "
                    "`sidecar history`"
                )
            return found

    async def Audit(self, request: pb.AuditRequest, context: Any) -> pb.AuditResponse:
        """What was done."""
        async with _answering(context):
            current().require_everywhere("administer")
            async with self._desk.store.reading() as connection:
                head = await audit.head(connection)
                found = await audit.read(
                    connection, request.after, request.most, newest=request.newest
                )
            return pb.AuditResponse(
                records=[
                    pb.AuditRecord(number=each.number, content=each.content, hash=each.hash)
                    for each in found
                ],
                head_number=head.number,
                head_hash=head.hash,
            )

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        """Who the caller is taken for."""
        async with _answering(context):
            return answers.who(current())

    # Sidecars.

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        """Which connected sidecar enforces what."""
        async with _answering(context):
            caller = current()
            return await self._desk.watching.status(
                request, lambda namespace: caller.may("view", namespace)
            )

    # The stub is written for the other form of a stream, too.
    async def Watch(self, request: pb.WatchRequest, context: Any) -> None:  # type: ignore[override]
        """How far releases have come, at once and after every change."""
        async with _answering(context):
            current().require("view", [each.namespace for each in request.releases] or [""])
            async for progress in self._desk.watching.progress(request):
                await context.write(progress)

    # Withdrawals.

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:
        """Withdraws; see RevokeRequest."""
        counts, withdrawer = self._desk.counts.revokes, self._desk.withdrawer

        def failed(outcome: str) -> None:
            counts[outcome] += 1

        async with _answering(context, "nothing was withdrawn", failed):
            caller = current()
            if not caller.may_everywhere("publish"):
                caller.require_everywhere("administer")
            if not 0 < len(request.withdrawals) <= MOST:
                raise NotWithdrawn(f"1 to {MOST} withdrawals are expected")
            now = withdrawer.now()
            wanted = [answers.withdrawal_of(each, now) for each in request.withdrawals]
            by = By(caller.name, "revoke")
            number = await self._to_the_end(withdrawer.withdraw(wanted, by=by))
        counts["withdrawn"] += 1
        return pb.RevokeResponse(number=number, warnings=self._unknown(wanted))

    def _unknown(self, wanted: Sequence[Withdrawal]) -> list[str]:
        """Issuers that nothing published knows: what is withdrawn of them refuses nothing."""
        known = {
            document.spec.issuer
            for release in self._desk.catalogue.releases()
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
        async with _answering(context):
            if not current().may_everywhere("publish"):
                current().require_everywhere("administer")
            found, total = self._desk.withdrawer.listed(
                request.issuer, request.value, request.most or LISTED
            )
            return pb.ListRevocationsResponse(
                withdrawals=[answers.numbered(each) for each in found], total=total
            )

    # Keys.

    async def SigningKeys(
        self, request: pb.SigningKeysRequest, context: Any
    ) -> pb.SigningKeysResponse:
        """Public halves."""
        async with _answering(context):
            return answers.keys(self._desk.keeping.keys)

    async def RotateSigningKey(
        self, request: pb.RotateSigningKeyRequest, context: Any
    ) -> pb.SigningKeysResponse:
        """A new one."""
        async with _answering(context, "no key was made"):
            caller = current()
            caller.require_everywhere("administer")
            await self._to_the_end(self._desk.keeping.rotate(By(caller.name, "rotate-key")))
            return answers.keys(self._desk.keeping.keys)

    async def DelegateSigning(
        self, request: pb.DelegateSigningRequest, context: Any
    ) -> pb.SigningKeysResponse:
        """Somebody else's."""
        async with _answering(context, "nobody may sign who might not before"):
            caller = current()
            caller.require_everywhere("administer")
            by = By(caller.name, "delegate-signing")
            await self._to_the_end(
                self._desk.keeping.delegate(request.public_key, request.name, by)
            )
            return answers.keys(self._desk.keeping.keys)

    # How it goes.

    async def _published(self, publishing: Coroutine[Any, Any, Result]) -> pb.ApplyResponse:
        result = await self._to_the_end(publishing)
        self._desk.counts.applies[result.outcome] += 1
        return answers.response(result)

    def _not_applied(self, outcome: str) -> None:
        self._desk.counts.applies[outcome] += 1

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
                self._desk.counts.releases += len(result.releases) * (result.outcome == "published")


@asynccontextmanager
async def _answering(
    context: Any, consequence: str = "", failed: Callable[[str], None] | None = None
) -> AsyncIterator[None]:
    """Our errors as gRPC's. `failed` hears by which name one is counted."""
    try:
        yield
    except (Forbidden, Unauthenticated):
        if failed is not None:
            failed("forbidden")
        raise  # the door turns callers away, and counts them
    except (TooManyWithdrawn, FleetFull) as error:
        code, outcome, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "full", str(error)
    except (NotWithdrawn, Misuse) as error:
        code, outcome, reason = grpc.StatusCode.INVALID_ARGUMENT, "refused", str(error)
    except OverflowError:  # of a version that no store can hold
        code, outcome = grpc.StatusCode.INVALID_ARGUMENT, "refused"
        reason = "a number is larger than any version can be"
    except (NotSteered, NotReviewed) as error:
        code, outcome, reason = grpc.StatusCode.FAILED_PRECONDITION, "refused", str(error)
    except NotThere as error:
        code, outcome, reason = grpc.StatusCode.NOT_FOUND, "refused", str(error)
    except OutcomeUnknown as error:
        _log.error("the outcome is unknown: %s", error)
        code, outcome, reason = grpc.StatusCode.UNKNOWN, "unknown", str(error)
    except StoreFailed as error:
        _log.error("%s", error)
        code, outcome = grpc.StatusCode.ABORTED, "failed"
        reason = f"{consequence}: {error}" if consequence else str(error)
    else:
        return
    if failed is not None:
        failed(outcome)
    await _abort(context, code, reason)


async def _abort(context: Any, code: grpc.StatusCode, reason: str) -> NoReturn:
    await context.abort(code, reason)
    raise AssertionError("abort returned")
