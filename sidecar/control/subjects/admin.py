"""The Subjects service: how people and programs look at customers, and act for them.

Every reading is recorded with its reader, and what is done to a customer is in the audit trail
before it is done: by whom and what, and for whom by a digest of their id, which nobody can guess.
It is served where publishers come (`--listen`), to who has the permission for customers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final, NoReturn

import grpc
import orjson

from sidecar.control.authority import ANYBODY, current
from sidecar.control.pages.languages import words
from sidecar.control.releases import By
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.hub import Hub
from sidecar.control.subjects.published import Published
from sidecar.control.subjects.records import STATES, Identifier, Link, NotStored, Record
from sidecar.control.subjects.store import SubjectStore
from sidecar.control.subjects.transactions import NoCustomer
from sidecar.decide.documents import seconds
from sidecar.errors import StoreFailed
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.subject_pb2_grpc import SubjectsServicer

API: Final = "api"
LET_GO: Final = 2.0  # seconds that an erasure waits for the sidecars
_log: Final = logging.getLogger(__name__)
Noted = Callable[[By], Awaitable[None]]


class Admin(SubjectsServicer):
    """One per control plane."""

    def __init__(
        self,
        store: SubjectStore,
        hub: Hub,
        published: Published,
        clock: Callable[[], float],
        noted: Noted,
    ) -> None:
        """`noted` puts something into the audit trail; it raises StoreFailed."""
        self._noted = noted
        self._store = store
        self._hub = hub
        self._published = published
        self._clock = clock

    async def Show(self, request: pb.ShowSubjectRequest, context: Any) -> pb.ShowSubjectResponse:
        """What is known of one customer, and why it is one."""
        customer = await self._named(request.name, context)
        try:
            record = await self._store.record(
                customer, _who(request.reader), request.reason or "show"
            )
            links = await self._store.links(customer)
        except (StoreFailed, NotStored) as error:
            await _refused(context, error)
        if record is None:
            await _gone(context)
        return pb.ShowSubjectResponse(
            subject=orjson.dumps(shown(record, self._clock())),
            links=[_link(each) for each in links],
        )

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        """For a customer who said so elsewhere."""
        customer = await self._named(request.name, context)
        if request.state not in STATES:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"state: {', '.join(STATES)} is expected",
            )
        decisions = await self._decisions(customer, request)
        if not decisions:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"purpose: there is no ConsentPurpose {request.purpose!r} that is published; it is "
                "NAMESPACE/NAME",
            )
        try:
            await self._note(f"subject-{request.state}", customer, purpose=request.purpose)
            receipts = await self._store.decide_consents(customer, decisions)
        except (StoreFailed, NotStored) as error:
            await _refused(context, error)
        return pb.DecideResponse(receipt=receipts[-1].jws)

    async def _decisions(self, customer: str, request: pb.DecideRequest) -> list[Decision]:
        """What is to be decided, the purpose itself last. Who withdraws it withdraws as well what
        was granted to single transactions, and that of a document which is gone."""
        found: list[Decision] = []
        by = _who(request.by)
        languages = (request.language,) if request.language else ()
        if request.state == "withdrawn":
            for record in (await self._store.records([customer], "")).values():
                found += [
                    self._published.withdrawal(each, languages, via=API, by=by)
                    for each in sorted(record.consents, key=lambda each: not each.binding)
                    if each.purpose == request.purpose and each.state == "granted"
                ]
        spec = self._published.purpose(request.purpose)
        if spec is None or found:
            return found
        language, said = words(spec.words, languages)
        lives = [seconds(each) for each in (spec.expires, spec.review_every) if each is not None]
        state: Any = request.state
        decision = Decision(
            request.purpose, spec.version, state, language, said.title, said.text,
            expires=self._clock() + min(lives) if lives else None, max_uses=spec.max_uses, via=API,
            by=by,
        )  # fmt: skip
        return [decision]

    async def Set(self, request: pb.SetSubjectRequest, context: Any) -> pb.SetSubjectResponse:
        """Attributes, segments and risk."""
        customer = await self._named(request.name, context)
        source = _who(request.by)
        try:
            values = {
                each.ref: self._published.offered(each.ref, json.loads(each.value), source)
                for each in request.attributes
            }
            await self._note(
                "subject-set", customer, attributes=sorted(values),
                deleted=sorted(request.deleted), segments=request.replace_segments,
                signal=request.signal,
            )  # fmt: skip
            if values:
                await self._store.set_attributes(customer, values)
            for name in request.deleted:
                await self._store.forget_attribute(customer, name)
            if request.replace_segments:
                await self._store.set_segments(customer, request.segments)
            if request.signal:
                await self._signal(customer, request.signal, request.points)
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "attributes: a value is no JSON")
        except (StoreFailed, NotStored) as error:
            await _refused(context, error)
        return pb.SetSubjectResponse()

    async def _signal(self, customer: str, signal: str, points: float) -> None:
        record = (await self._store.records([customer], "")).get(customer)
        policy = self._published.identity(record.pool) if record is not None else None
        half_life = seconds(policy.risk.half_life) if policy is not None else 86_400.0
        if not points and policy is not None:
            points = policy.risk.signals.get(signal, 0.0)
        if points:
            await self._store.raise_risk(customer, points, half_life, signal)

    async def Undo(self, request: pb.UndoLinkRequest, context: Any) -> pb.UndoLinkResponse:
        """Takes one link back."""
        try:
            await self._noted(By(current().name, "subject-undo", about={"link": request.link}))
            link = await self._store.undo(request.link, _who(request.by))
        except (StoreFailed, NotStored) as error:
            await _refused(context, error)
        return pb.UndoLinkResponse(link=_link(link))

    async def Export(
        self, request: pb.ExportSubjectRequest, context: Any
    ) -> pb.ExportSubjectResponse:
        """Everything that is kept."""
        customer = await self._named(request.name, context)
        try:
            await self._note("subject-export", customer)
            found = await self._store.export(customer, _who(request.reader), "export")
            jwks = await self._store.jwks()
        except (StoreFailed, NotStored) as error:
            await _refused(context, error)
        return pb.ExportSubjectResponse(
            everything=json.dumps(found, default=str).encode(), jwks=orjson.dumps(jwks)
        )

    async def Erase(self, request: pb.EraseSubjectRequest, context: Any) -> pb.EraseSubjectResponse:
        """Deletes everything, here and in what sidecars hold."""
        customer = await self._named(request.name, context)
        by = _who(request.by)
        try:
            await self._note("subject-erase", customer)
            erasure, holders, let_go = await self._hub.erased_everywhere(
                lambda: self._store.erase(customer, by), LET_GO
            )
        except (StoreFailed, NotStored) as error:
            await _refused(context, error)
        return pb.EraseSubjectResponse(
            certificate=erasure.certificate, sidecars=holders, let_go=let_go
        )

    async def _note(self, action: str, customer: str, **about: object) -> None:
        """Into the audit trail, before it is done. Raises StoreFailed."""
        digest = sha256(f"sidecar audit customer v1\n{customer}".encode()).hexdigest()
        await self._noted(By(current().name, action, about={"customer": digest, **about}))

    async def _named(self, name: pb.SubjectName, context: Any) -> str:
        """The id of the customer, who is there."""
        try:
            if name.customer:
                found = await self._store.survivor(name.customer)
            else:
                identifier = Identifier(name.type, name.issuer, name.value)
                found = await self._store.find(name.pool, identifier)
        except (StoreFailed, NotStored) as error:
            await _refused(context, error)
        if found is None:
            await _gone(context)
        return found


def _who(said: str) -> str:
    """Who is to be named: whoever has shown it, and what a program of theirs says besides."""
    name = current().name
    if name == ANYBODY.name:
        return said or "operator"
    return f"{name} ({said})" if said else name


def shown(record: Record, now: float) -> dict[str, Any]:
    """A record for people: everything but what sidecars need alone."""
    return {
        "customer": record.customer,
        "pool": record.pool,
        "version": record.version,
        "created": record.created,
        "anonymous": record.anonymous,
        "identifiers": [each._asdict() for each in record.identifiers],
        "remembered": [each._asdict() for each in record.remembered],
        "consents": [each._asdict() for each in record.consents],
        "attributes": [each._asdict() for each in record.attributes],
        "declined": dict(record.declined),
        "asked": dict(record.asked),
        "segments": sorted(record.segments),
        "risk": round(record.risk.points_at(now), 1),
    }


def _link(link: Link) -> pb.SubjectLink:
    shown_ = link.identifier
    return pb.SubjectLink(
        id=link.id,
        at=link.at,
        kind=link.kind,
        identifier=pb.Identifier(type=shown_.type, value=_written(shown_))
        if shown_ is not None
        else None,
        other=link.other or "",
        why=link.why,
        by=link.by,
        undone=link.undone,
    )


def _written(identifier: Identifier) -> str:
    if not identifier.issuer:
        return identifier.value
    return f"{identifier.value} of {identifier.issuer}"


async def _gone(context: Any) -> NoReturn:
    await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such customer")
    raise AssertionError("abort returned")


async def _refused(context: Any, error: Exception) -> NoReturn:
    if isinstance(error, NoCustomer):
        await _gone(context)
    if isinstance(error, StoreFailed):
        _log.error("%s", error)
        await context.abort(grpc.StatusCode.ABORTED, f"nothing was changed: {error}")
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    raise AssertionError("abort returned")
