"""What a sidecar gets to hold of a customer, and what it may say of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidecar.control.subjects import messages
from sidecar.control.subjects.records import (
    Attribute,
    Consent,
    Identifier,
    Offered,
    Record,
    Risk,
)
from sidecar.decide.journey_view import View, view
from sidecar.wire import subject_pb2 as pb
from tests.control.subjects.streams import documents

NOW = 1_000.0
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {name: retail, namespace: shop}
spec:
  identifiers: [{type: account, claim: account}, {type: email, claim: email}, {type: device, claim: d, links: false}]
  anonymous: merge
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: city, namespace: shop}
spec: {words: {en: {label: City}}, claims: [city]}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: terms, namespace: platform}
spec: {words: {en: {title: Terms, text: Terms}}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p, namespace: shop}
spec:
  rules:
"""
NOTHING = "  - {name: a, match: {paths: [/a]}}\n"
RULES = {
    "nothing": NOTHING,
    "presence": "  - {name: a, match: {paths: [/a]}, require: {profile: [city]}}\n",
    "value": "  - {name: a, match: {paths: [/a]}, require: {profile: [city]}, "
    "when: subject.profile.city == 'Ulm'}\n",
    "everything": "  - {name: a, match: {paths: [/a]}, when: size(subject.profile) > 0}\n",
    "purpose": "  - {name: a, match: {paths: [/a]}, require: {consent: [terms]}}\n",
    "purposes": "  - {name: a, match: {paths: [/a]}, when: \"'ads' in subject.consents\"}\n",
    "segments": "  - {name: a, match: {paths: [/a]}, require: {segments: [gold]}}\n",
    "risk": "  - {name: a, match: {paths: [/a]}, when: subject.risk < 50.0}\n",
}


def seen(rules: str) -> View:
    return view(documents(DOCUMENTS + RULES.get(rules, rules)), "shop")


def attribute(name: str, value: Any, expires: float | None = None) -> Attribute:
    return Attribute(name, value, "customer", 1.0, expires)


def consent(purpose: str, state: Any = "granted", **more: Any) -> Consent:
    fields = {"expires": None, "max_uses": None, "used": 0, "binding": "", **more}
    return Consent("con_1", purpose, 2, fields["binding"], state, 5.0, "en", fields["expires"],
                   fields["max_uses"], fields["used"])  # fmt: skip


RECORD = Record(
    customer="cus_1",
    pool="shop/retail",
    version=7,
    created=1.0,
    identifiers=(Identifier("subject", "https://idp", "alice"), Identifier("visitor", "", "v1")),
    consents=(
        consent("shop/ads"),
        consent("platform/terms", expires=9.0, max_uses=3, used=5, binding="ff"),
        consent("shop/news", "refused"),
        consent("bank/terms"),
    ),
    attributes=(
        attribute("shop/city", "Ulm"),
        attribute("shop/phone", "+49", expires=NOW),
        attribute("shop/shoe", None),
        attribute("bank/balance", 5),
    ),
    declined={"shop/nick": 1.0},
    asked={"shop/nick": 1.0},
    segments=frozenset(["gold"]),
    risk=Risk(40.0, 900.0, 60.0),
    anonymous=False,
    remembered=(Identifier("device", "", "d1"),),
)


def shown(rules: str, record: Record = RECORD, **more: Any) -> pb.SubjectRecord:
    return messages.resource("k", record, seen(rules), NOW, **more).subject


def test_who_reads_nothing_is_sent_who_it_is_and_nothing_else() -> None:
    found = messages.resource("k", RECORD, seen("nothing"), NOW)
    assert (found.name, found.version) == ("subject/k", "cus_1:7")
    assert found.subject == pb.SubjectRecord(customer="cus_1", version=7, visitors=["v1"])


@pytest.mark.parametrize(
    ("rules", "values", "present"),
    [
        ("presence", [], ["shop/city"]),
        ("value", ["shop/city"], []),
        ("everything", ["shop/city"], []),  # of its own namespace, and what may be kept still
        ("risk", [], []),
    ],
)
def test_of_attributes_it_is_sent_what_is_read(
    rules: str, values: list[str], present: list[str]
) -> None:
    found = shown(rules)
    assert [each.ref for each in found.attributes] == values
    assert list(found.present) == present
    if values:
        assert found.attributes[0].value == b'"Ulm"'


@pytest.mark.parametrize(
    ("rules", "purposes"),
    [
        ("purpose", ["platform/terms"]),
        ("purposes", ["shop/ads", "platform/terms"]),
        ("presence", []),
    ],
)
def test_of_consents_it_is_sent_those_that_are_asked_for(rules: str, purposes: list[str]) -> None:
    assert [each.purpose for each in shown(rules).grants] == purposes


def test_a_grant_says_when_how_often_and_for_what() -> None:
    (found,) = shown("purpose").grants
    assert found == pb.Grant(
        purpose="platform/terms", version=2, binding="ff", since_ms=5000, until_ms=9000, left=0
    )
    plain = messages.grant(consent("shop/ads"))
    assert not plain.HasField("left")
    assert plain.until_ms == 0


def test_segments_and_risk_go_to_whoever_reads_them() -> None:
    assert list(shown("segments").segments) == ["gold"]
    assert shown("segments").risk == 0
    found = shown("risk")
    assert not found.segments
    assert (found.risk, found.risk_at_ms, found.half_life_seconds) == (40.0, 900_000, 60.0)


def test_for_a_cookie_alone_nothing_personal_is_shown() -> None:
    rules = "".join(RULES[each] for each in ("purposes", "risk"))
    rules = rules.replace("name: a", "name: b", 1)
    found = messages.resource("v", RECORD, seen(rules), NOW, "v1")
    assert found.version == "cus_1:7:v1"
    assert not found.subject.grants
    assert not found.subject.attributes
    assert found.subject.customer == "cus_1"
    assert found.subject.risk == 40.0
    itself = replace(RECORD, anonymous=True)  # its own record, to which nobody logged in
    assert messages.resource("v", itself, seen(rules), NOW, "v1").subject.grants


def test_visitors_are_named_up_to_a_bound_and_those_that_came_among_them() -> None:
    many = tuple([Identifier("visitor", "", f"v{number}") for number in range(100)])
    record = replace(RECORD, identifiers=many)
    found = list(shown("nothing", record, came=("v0", "x")).visitors)
    assert len(found) == messages.MOST_VISITORS
    assert found[-2:] == ["v0", "x"]
    assert "v99" in found


def test_a_version_says_whose_it_is_and_how_new() -> None:
    assert messages.held("cus_1:7") == ("cus_1", "")
    assert messages.held("cus_1:7:v1") == ("cus_1", "v1")
    assert messages.number("cus_1:7:v1") == 7
    for odd in ("", "cus_1", "cus_1:", "cus_1:x", "cus_1:²", "cus_1:" + "9" * 19):
        assert messages.held(odd) == ("", "")
    assert messages.number("cus_1:²") == 0


# What it says.


def said(**fields: Any) -> pb.Introduction:
    return pb.Introduction(key="k", issuer="https://idp", subject="alice", **fields)


def test_identifiers_count_in_the_order_and_of_the_types_of_the_policy() -> None:
    message = said(
        identifiers=[
            pb.Identifier(type=kind, value=kind)
            for kind in ("email", "device", "made-up", "visitor", "subject", "account")
        ],
        visitor="v1",
    )
    found = messages.introduction(message, seen("nothing"), 0.0)
    assert found.pool == "shop/retail"
    assert found.primary == Identifier("subject", "https://idp", "alice")
    assert [each.type for each in found.others] == ["account", "email"]
    assert [each.type for each in found.remembered] == ["device"]
    assert (found.visitor, found.merge_visitor) == ("v1", True)


def test_attributes_are_those_of_its_documents_with_their_source() -> None:
    values = [
        pb.AttributeValue(ref=ref, value=b'"Ulm"')
        for ref in ("shop/city", "shop/made-up", "bank/balance")
    ]
    found = messages.introduction(said(attributes=values), seen("nothing"), 0.0)
    assert found.attributes == {"shop/city": Offered("Ulm", "token of https://idp")}
    values[0].value = b'{"name": "Ulm"}'  # of text: nobody could have answered so
    assert messages.introduction(said(attributes=values), seen("nothing"), 0.0).attributes == {}


def test_an_anonymous_visitor_brings_nothing_but_its_cookie() -> None:
    message = pb.Introduction(
        key="k", issuer="urn:sidecar:visitor", subject="v1",
        identifiers=[pb.Identifier(type="email", value="a@b.c")], visitor="v2",
        attributes=[pb.AttributeValue(ref="shop/city", value=b'"Ulm"')],
    )  # fmt: skip
    found = messages.introduction(message, seen("nothing"), 0.0)
    assert found.primary == Identifier("visitor", "", "v1")
    assert (found.others, found.visitor, dict(found.attributes)) == ((), "", {})
