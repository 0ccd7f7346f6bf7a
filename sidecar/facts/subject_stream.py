"""Customers over the Discovery stream: the messages of subject.proto, both ways.

It holds, beside what it forwards, which record of whom came last, so that after a reconnect only
what has changed is sent. `hear` is told of records by key; who is behind a key is its business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final, Protocol

import orjson

from sidecar.decide.documents import PLATFORM
from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import SpendConsent
from sidecar.decide.subjects import Grant, Subject
from sidecar.errors import ReleaseRefused
from sidecar.facts.customers import Event, Link, Spending
from sidecar.wire import convert
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import (
    FromControl,
    FromSidecar,
    Held,
    Push,
    Resource,
    Subscription,
)

MOST_EVENTS: Final = 500  # in one message

_SPENDINGS: Final = {
    pb.Spent.OUTCOME_SPENT: Spending.SPENT,
    pb.Spent.OUTCOME_EXHAUSTED: Spending.EXHAUSTED,
    pb.Spent.OUTCOME_MISSING: Spending.MISSING,
}


class Hearer(Protocol):
    """Who is told: `customers.Customers`, or what stands between it and here."""

    link: Link

    def take(self, key: str, subject: Subject | None) -> None: ...
    def unknown(self, key: str, reason: str) -> None: ...
    def spent(self, use: str, outcome: Spending) -> None: ...
    def taken(self, ids: Iterable[str]) -> None: ...
    def keys(self, visitor: bytes, ticket: bytes) -> None: ...
    def connected(self) -> None: ...
    def disconnected(self, since: float) -> None: ...
    def away(self) -> None: ...
    def again(self) -> None: ...


class SubjectStream:
    """A Link. `send` takes a message for the stream; what is said while there is none is lost, and
    said `again` by whoever waits for an answer."""

    def __init__(
        self, hearer: Hearer, namespace: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.hearer = hearer
        self.send: Callable[[FromSidecar], None] | None = None
        self._namespace = namespace
        self._clock = clock
        self._held: dict[str, str] = {}  # key -> version
        self._events: dict[int, str] = {}  # number -> id
        self._number = 0

    # As a Link.

    def introduce(self, key: str, introduction: Introduction) -> None:
        named = (*introduction.others, *introduction.remembered)
        self._send(
            FromSidecar(
                introduction=pb.Introduction(
                    key=key,
                    issuer=introduction.identity.issuer,
                    subject=introduction.identity.subject,
                    identifiers=[pb.Identifier(type=kind, value=value) for kind, value in named],
                    visitor=introduction.visitor,
                    attributes=[
                        pb.AttributeValue(ref=ref, value=value.encode())
                        for ref, value in introduction.attributes
                    ],
                )
            )
        )

    def release(self, keys: list[str]) -> None:
        for key in keys:
            self._held.pop(key, None)
        self._send(FromSidecar(released=pb.Released(keys=keys)))

    def spend(self, use: str, effect: SpendConsent) -> None:
        self._send(
            FromSidecar(
                spend=pb.Spend(
                    use=use,
                    customer=effect.customer,
                    purpose=effect.purpose,
                    binding=effect.binding,
                )
            )
        )

    def report(self, events: list[Event]) -> None:
        for start in range(0, len(events), MOST_EVENTS):
            sent = []
            for event in events[start : start + MOST_EVENTS]:
                self._number += 1
                self._events[self._number] = event.id
                sent.append(
                    pb.JourneyEvent(
                        number=self._number,
                        id=event.id,
                        customer=event.customer,
                        type=event.type,
                        time_ms=int(event.time * 1000),
                        data=event.data,
                    )
                )
            self._send(FromSidecar(journey_events=pb.JourneyEvents(events=sent)))

    # Of the stream.

    def subscription(self) -> Subscription:
        """For the Hello."""
        return Subscription(
            type=convert.SUBJECT,
            held=[
                Held(name=convert.subject_name(key), version=version)
                for key, version in self._held.items()
            ],
        )

    def opened(self, send: Callable[[FromSidecar], None]) -> None:
        """The control plane answers: messages go there from now on."""
        self.send = send
        self._events.clear()
        self.hearer.again()

    def closed(self, since: float) -> None:
        """The stream ended; at `since` what is held was last known to be current."""
        self.send = None
        self.hearer.disconnected(since)

    def receive(self, message: FromControl) -> bool:
        """Whether the message was about customers. Raises ReleaseRefused for a push that makes no
        sense: none of it counts, and of whom it is nothing is known any more."""
        kind = message.WhichOneof("message")
        if kind == "push" and message.push.type == convert.SUBJECT:
            self._take(message.push)
            self.hearer.connected()
        elif kind == "idle" and message.idle.type == convert.SUBJECT:
            self.hearer.connected()
        elif kind == "subject_keys":
            self.hearer.keys(message.subject_keys.visitor, message.subject_keys.ticket)
        elif kind == "unknown":
            self._held.pop(message.unknown.key, None)
            self.hearer.unknown(message.unknown.key, message.unknown.reason[:64])
        elif kind == "spent":
            outcome = _SPENDINGS.get(message.spent.outcome, Spending.FAILED)
            self.hearer.spent(message.spent.use, outcome)
        elif kind == "journey_events_taken":
            upto = message.journey_events_taken.number
            numbers = [number for number in self._events if number <= upto]
            self.hearer.taken([self._events.pop(number) for number in numbers])
        else:
            return False
        return True

    def _take(self, push: Push) -> None:
        try:
            records = [self._record(each) for each in push.resources]
        except ReleaseRefused:
            # A consent may have been withdrawn in it: what was known before is not good any more.
            for name in (*[each.name for each in push.resources], *push.removed):
                key = convert.subject_key(name)
                self._held.pop(key, None)
                self.hearer.unknown(key, "subject_refused")
            raise
        for key, version, record in records:
            self._held[key] = version
            self.hearer.take(key, record)
        for name in push.removed:
            key = convert.subject_key(name)
            self._held.pop(key, None)
            self.hearer.take(key, None)

    def _record(self, resource: Resource) -> tuple[str, str, Subject]:
        key = convert.subject_key(resource.name)
        if not key or not resource.HasField("subject"):
            raise ReleaseRefused(f"{resource.name[:253]}: no subject that this version knows")
        return key, resource.version, subject(resource.subject, self._namespace)

    def _send(self, message: FromSidecar) -> None:
        if self.send is not None:
            self.send(message)


def subject(record: pb.SubjectRecord, namespace: str) -> Subject:
    """As decisions take it: attributes by the names that the rules of `namespace` use. Raises
    ReleaseRefused."""
    profile: dict[str, Any] = {}
    for each in sorted(record.attributes, key=lambda each: _order(each.ref)):
        name = _local(each.ref, namespace)
        if name:
            try:
                profile[name] = orjson.loads(each.value)
            except ValueError:
                raise ReleaseRefused(f"{each.ref[:253]}: its value is no JSON") from None
    return Subject(
        profile=profile,
        segments=frozenset(record.segments),
        risk=min(max(record.risk, 0.0), 100.0),
        customer=record.customer,
        grants=tuple([_grant(each) for each in record.grants]),
        present=frozenset(filter(None, [_local(each, namespace) for each in record.present])),
        since=record.risk_at_ms / 1000,
        half_life=record.half_life_seconds or inf,
        visitors=frozenset(record.visitors),
    )


def _order(ref: str) -> bool:
    """What platform says of a name comes last, and so counts."""
    return ref.startswith(f"{PLATFORM}/")


def _local(ref: str, namespace: str) -> str:
    of, _, name = ref.partition("/")
    return name if of in (PLATFORM, namespace) else ""


def _grant(grant: pb.Grant) -> Grant:
    return Grant(
        grant.purpose,
        grant.version,
        grant.binding,
        grant.since_ms / 1000,
        grant.until_ms / 1000 if grant.until_ms else inf,
        grant.left if grant.HasField("left") else None,
    )
