"""Customers as messages of subject.proto, each as far as the sidecar's policies read it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from sidecar.control.pages.languages import OF_ISSUER
from sidecar.control.subjects import questions
from sidecar.control.subjects.records import (
    SUBJECT,
    VISITOR,
    Consent,
    Identifier,
    Introduction,
    Offered,
    Record,
    recognised,
)
from sidecar.decide.journey import VISITOR as VISITOR_ISSUER
from sidecar.decide.journey_view import View
from sidecar.decide.outcomes import Identity
from sidecar.wire import convert
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import Resource

MOST_VISITORS: Final = 32  # that a record names: of whom a sidecar need not ask again


def introduction(message: pb.Introduction, view: View, now: float) -> Introduction:
    """What a sidecar said, as far as its documents let it say that: identifiers of types that its
    IdentityPolicy names, attributes of its own ProfileAttributes, customers of its own pool."""
    policy = view.journey.identity
    if message.issuer == VISITOR_ISSUER:
        return Introduction(view.journey.pool, Identifier(VISITOR, "", message.subject))
    types = {rule.type: rule for rule in policy.identifiers} if policy is not None else {}
    others: list[Identifier] = []
    remembered: list[Identifier] = []
    said = {each.type: each.value for each in message.identifiers}
    for kind, rule in types.items():  # in order of priority, whatever the sidecar's was
        if kind in said:
            named = Identifier(kind, "", said[kind])
            (others if rule.links else remembered).append(named)
    attributes: dict[str, Offered] = {}
    for each in message.attributes:
        if view.takes(each.ref):
            value = questions.fitting(each.ref, view.specs[each.ref], orjson.loads(each.value))
            if value is not None:
                attributes[each.ref] = Offered(value, f"{OF_ISSUER}{message.issuer}")
    return Introduction(
        view.journey.pool, Identifier(SUBJECT, message.issuer, message.subject), tuple(others),
        tuple(remembered), message.visitor, policy is not None and policy.merge, attributes,
    )  # fmt: skip


def resource(
    key: str,
    record: Record,
    view: View,
    now: float,
    visitor: str = "",
    came: Sequence[str] = (),
) -> Resource:
    """What the sidecar that calls a customer by this key gets to hold. `visitor`: the key stands
    for a caller who showed no more than this visitor's cookie. `came`: visitors that came with it,
    of whom it was said what there is to say, merged or not."""
    if visitor and not record.anonymous:
        record = recognised(record, Identifier(VISITOR, "", visitor))
    attributes = [each for each in record.attributes if each.expires is None or now < each.expires]
    shown = pb.SubjectRecord(
        customer=record.customer,
        version=record.version,
        grants=[
            grant(each)
            for each in record.consents
            if each.state == "granted" and view.shows_purpose(each.purpose)
        ],
        attributes=[
            pb.AttributeValue(ref=each.name, value=orjson.dumps(each.value))
            for each in attributes
            if view.shows_value(each.name) and each.value is not None
        ],
        present=[
            each.name
            for each in attributes
            if view.shows_presence(each.name) and each.value is not None
        ],
        visitors=_visitors(record, came),
    )
    if view.segments:
        shown.segments.extend(sorted(record.segments))
    if view.risk and record.risk.points:
        shown.risk = record.risk.points
        shown.risk_at_ms = int(record.risk.at * 1000)
        shown.half_life_seconds = record.risk.half_life
    return Resource(
        name=convert.subject_name(key), version=version_of(record, visitor), subject=shown
    )


def _visitors(record: Record, came: Sequence[str]) -> list[str]:
    held_ = [each.value for each in record.identifiers if each.type == VISITOR]
    return list(dict.fromkeys([*held_[len(came) - MOST_VISITORS :], *came]))


def identity_of(identifier: Identifier) -> Identity:
    """As sidecars name it."""
    issuer = VISITOR_ISSUER if identifier.type == VISITOR else identifier.issuer
    return Identity(issuer, identifier.value)


def version_of(record: Record, visitor: str = "") -> str:
    """What tells a record from what it was and from others."""
    return f"{record.customer}:{record.version}" + (f":{visitor}" if visitor else "")


def held(version: str) -> tuple[str, str]:
    """The customer that a sidecar brings along, and the visitor that it is for; empty: none."""
    customer, _, rest = version.partition(":")
    number, _, visitor = rest.partition(":")
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        return "", ""
    return customer, visitor


def number(version: str) -> int:
    """How often the record had changed by then."""
    found = version.partition(":")[2].partition(":")[0]
    return int(found) if found.isascii() and found.isdigit() else 0


def grant(consent: Consent) -> pb.Grant:
    """One that was given and not taken back."""
    found = pb.Grant(
        purpose=consent.purpose,
        version=consent.version,
        binding=consent.binding,
        since_ms=int(consent.at * 1000),
        until_ms=int(consent.expires * 1000) if consent.expires is not None else 0,
    )
    if consent.max_uses is not None:
        found.left = max(0, consent.max_uses - consent.used)
    return found


def signals(policy: Mapping[str, float], record: Record) -> Mapping[str, float]:
    """What the call that brought this record tells of risk: points by signal."""
    known: dict[str, Any] = {}
    if "device" in record.novel and "new-device" in policy:
        known["new-device"] = policy["new-device"]
    return known
