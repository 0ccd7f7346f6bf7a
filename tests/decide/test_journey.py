"""Grants, transactions and introductions: what is held, for how long, and who is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import msgspec
import orjson
import pytest

from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot, validate
from sidecar.decide.documents import Document
from sidecar.decide.enrichment import Enriched
from sidecar.decide.journey import VISITOR, Bound, Introduction, bound, granted, introduce
from sidecar.decide.journey_view import view
from sidecar.decide.keys import parse_jwks
from sidecar.decide.outcomes import (
    Identity,
    Need,
    NeedEnrichment,
    NeedSubject,
    Permit,
    Refuse,
    SpendConsent,
    Unavailable,
)
from sidecar.decide.parse import Source, parse
from sidecar.decide.record import Record
from sidecar.decide.recorded import Recorded
from sidecar.decide.request import Headers, Request
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Grant, Subject
from sidecar.decide.tokens import KeyState, Verified
from sidecar.edge import records
from tests.casebook import FOLDER, ISSUER, jwks, token

NOW = 1_800_000_000.0
DAY = 86_400.0


def documents(text: str = "", **changes: str) -> list[Document]:
    import yaml

    source = yaml.safe_load((FOLDER / "journey.yaml").read_text())["documents"]
    for before, after in changes.items():
        assert before in source
        source = source.replace(before, after)
    source = source.replace("$JWKS", orjson.dumps(jwks()).decode()) + text
    found, problems = parse([Source("j.yaml", source)])
    assert not problems
    return found


def snapshot(text: str = "", **changes: str) -> Snapshot:
    return compile_snapshot(documents(text, **changes), namespace="default", labels={})


def evidence(
    subject: Subject | Unavailable | None, lost: float | None = None, visitor: str = ""
) -> Evidence:
    return Evidence(
        {ISSUER: KeyState(parse_jwks(jwks()), inf)},
        ExpiringCache(10),
        ExpiringCache(10),
        subjects=lambda identity, now: subject,
        lost=lambda: lost,
        visitor=lambda request, policy: visitor,
    )


def request(method: str, path: str, claims: Mapping[str, Any] | None, body: bytes = b"") -> Request:
    headers: Headers = []
    if claims is not None:
        headers.append((b"authorization", f"Bearer {token(NOW, claims)}".encode()))
    if body:
        headers += [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
    host, segments = "bank.example", path.strip("/").split("/")
    made = Request(method, path, segments, None, host, host, "https", headers, "192.0.2.1")
    return made.with_body(body) if body else made


# What is granted.


@pytest.mark.parametrize(
    ("grant", "held"),
    [
        (Grant("default/analytics", 2, since=NOW - 1), True),
        (Grant("default/analytics", 3, since=NOW - 1), True),
        (Grant("default/analytics", 1, since=NOW - 1), False),  # of other words
        (Grant("default/analytics", 2, since=NOW - 180 * DAY), False),  # to be reviewed
        (Grant("default/analytics", 2, since=NOW - 1, until=NOW), False),
        (Grant("default/analytics", 2, since=NOW - 1, left=0), False),
        (Grant("default/analytics", 2, "ab", since=NOW - 1), False),  # for one transaction
        (Grant("platform/analytics", 2, since=NOW - 1), False),  # another document's
        (Grant("other/analytics", 2, since=NOW - 1), False),
    ],
)
def test_a_grant_holds_by_what_its_document_says(grant: Grant, held: bool) -> None:
    journey = snapshot().journey
    assert granted(journey, Subject(grants=(grant,)), NOW).names == (
        {"analytics"} if held else set()
    )


def test_until_when_what_is_granted_stays_so() -> None:
    journey = snapshot().journey
    one = Grant("default/analytics", 2, since=NOW - 100)
    assert granted(journey, Subject(grants=(one,)), NOW).until == NOW - 100 + 180 * DAY
    assert granted(journey, Subject(consents=frozenset({"x"})), NOW).until == inf


def test_a_purpose_without_a_document_is_one_of_the_namespace() -> None:
    journey = snapshot().journey
    grants = (Grant("default/unheard", since=1.0), Grant("else/where", since=1.0))
    assert granted(journey, Subject(grants=grants), NOW).names == {"unheard"}


def test_the_last_use_does_not_end_what_it_admitted() -> None:
    journey = snapshot().journey
    used_up = Subject(grants=(Grant("default/analytics", 2, since=NOW - 1, left=0),))
    assert granted(journey, used_up, NOW, reviewed=True).names == {"analytics"}


# Transactions.


def test_equal_transactions_are_the_same_whoever_wrote_them_down() -> None:
    assert (
        bound("p", [("a", {"x": 1, "y": 2})]).digest == bound("p", [("a", {"y": 2, "x": 1})]).digest
    )
    different = [
        bound("p", [("a", 5000)]), bound("p", [("a", "5000")]), bound("p", [("a", 5000.5)]),
        bound("p", [("b", 5000)]), bound("p", [("a", 5000), ("b", 1)]), bound("p", [("a", None)]),
        bound("p", [("a", True)]), bound("p", [("a", "1"), ("b", "2")]), bound("p", [("a", '1","b')]),
    ]  # fmt: skip
    assert len({each.digest for each in different}) == len(different)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x" * 2000, object()])
def test_what_nobody_can_be_shown_is_no_transaction(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        bound("p", [("a", value)])


PAY = b'{"amount": 5000, "to": "bob"}'
PAID = Bound("pay", (("amount", "5000"), ("to", '"bob"'))).digest


def test_a_grant_to_a_transaction_admits_that_one_and_is_used() -> None:
    grant = Grant("default/pay", 1, PAID, since=NOW - 1, left=1)
    subject = Subject(customer="cus_1", grants=(grant,), visitors=frozenset())
    outcome = authorize(request("POST", "/pay", {}, PAY), snapshot(), evidence(subject), NOW)
    assert isinstance(outcome, Permit)
    assert outcome.effects == (SpendConsent("cus_1", "default/pay", PAID),)
    assert outcome.customer == "cus_1"
    assert outcome.subject is subject
    other = request("POST", "/pay", {}, b'{"amount": 5001, "to": "bob"}')
    refused = authorize(other, snapshot(), evidence(subject), NOW)
    assert isinstance(refused, Refuse)
    assert refused.reason == "consent_missing"


@pytest.mark.parametrize(
    ("grant", "reviewed", "goes_on"),
    [
        (Grant("default/pay", 1, PAID, since=NOW - 1, left=0), False, False),
        (Grant("default/pay", 1, PAID, since=NOW - 1, left=0), True, True),
        (Grant("default/pay", 1, PAID, since=NOW - 9, until=NOW - 1, left=3), True, False),
        (Grant("default/pay", 1, "ab", since=NOW - 1, left=3), True, False),
        (None, True, False),  # withdrawn
    ],
)
def test_what_goes_on_may_have_used_its_transaction_up_and_ends_when_it_is_withdrawn(
    grant: Grant | None, reviewed: bool, goes_on: bool
) -> None:
    subject = Subject(customer="cus_1", grants=() if grant is None else (grant,))
    asked = request("POST", "/pay", {}, PAY)
    outcome = authorize(asked, snapshot(), evidence(subject), NOW, reviewed)
    assert isinstance(outcome, Permit if goes_on else Refuse)


def test_a_counted_consent_is_used_once_however_many_rules_ask() -> None:
    more = """
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec:
  rules:
  - {name: a, match: {paths: [/q]}, require: {consent: [pay]}}
  - {name: b, effect: guard, match: {paths: [/q]}, require: {consent: [pay, analytics]}}
"""
    grants = (
        Grant("default/pay", since=NOW - 1, left=3),
        Grant("default/analytics", 2, since=NOW - 1),
    )
    subject = Subject(customer="cus_1", grants=grants)
    outcome = authorize(request("GET", "/q", {}), snapshot(more), evidence(subject), NOW)
    assert isinstance(outcome, Permit)
    assert outcome.effects == (SpendConsent("cus_1", "default/pay", ""),)
    assert outcome.expires == NOW + 330  # the token's end, and what clocks may differ


@pytest.mark.parametrize(("left", "effects"), [(None, 0), (3, 1)])
def test_who_agreed_to_so_many_uses_did_not_agree_to_more_when_the_purpose_did(
    left: int | None, effects: int
) -> None:
    found = snapshot()
    assert found.journey.purpose("analytics").max_uses is None
    given = Subject(grants=(Grant("default/analytics", 2, since=NOW, left=left),), customer="cus_1")
    outcome = authorize(request("GET", "/stats", {}), found, evidence(given), NOW)
    assert isinstance(outcome, Permit)
    assert outcome.effects == (SpendConsent("cus_1", "default/analytics", ""),) * effects


def test_a_permit_lasts_no_longer_than_the_consent() -> None:
    grants = (Grant("default/analytics", 2, since=NOW - 1, until=NOW + 5),)
    subject = Subject(customer="cus_1", grants=grants)
    outcome = authorize(request("GET", "/stats", {}), snapshot(), evidence(subject), NOW)
    assert isinstance(outcome, Permit)
    assert outcome.expires == NOW + 5


# How old a record may be.


@pytest.mark.parametrize(("path", "seconds"), [("/stats", 10.0), ("/patient", 60.0)])
def test_a_record_is_believed_for_as_long_as_the_rule_says(path: str, seconds: float) -> None:
    more = """
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec:
  rules:
  - {name: a, match: {paths: [/patient]}, require: {consent: [analytics]}, subject: {staleIfError: 1m}}
"""
    subject = Subject(customer="cus_1", consents=frozenset({"analytics"}))
    found = snapshot(more)
    asked = request("GET", path, {})
    held = authorize(asked, found, evidence(subject, lost=NOW - seconds + 0.1), NOW)
    assert isinstance(held, Permit)
    stale = authorize(request("GET", path, {}), found, evidence(subject, lost=NOW - seconds), NOW)
    assert isinstance(stale, Refuse)
    assert (stale.code, stale.reason) == ("unavailable", "subject_stale")


def test_a_permit_by_a_record_that_may_be_stale_is_forgotten_in_time() -> None:
    subject = Subject(customer="cus_1", consents=frozenset({"analytics"}))
    known = evidence(subject, lost=NOW - 4)
    asked = request("GET", "/stats", {})
    found = snapshot()
    assert isinstance(authorize(asked, found, known, NOW), Permit)
    assert asked.memo is not None
    assert asked.memo.expires == NOW + 6


# Who it is.


def needed(
    asked: Request, subject: Subject | None, visitor: str = "", **changes: str
) -> NeedSubject:
    outcome = authorize(asked, snapshot(**changes), evidence(subject, visitor=visitor), NOW)
    assert isinstance(outcome, Need)
    (want,) = outcome.wants
    assert isinstance(want, NeedSubject)
    return want


def test_a_token_is_introduced_with_what_its_policy_names() -> None:
    claims = {
        "email": " Alice@Example.com ", "email_verified": True, "did": "device-1", "tel": "+4930",
        "tel_ok": True, "other": "not asked for",
    }  # fmt: skip
    want = needed(request("GET", "/stats", claims), None, "v1")
    assert want.introduction.pool == "default/retail"
    assert want.introduction.identity == want.identity
    assert want.introduction.others == (("email", "alice@example.com"),)
    assert want.introduction.remembered == (("device", "device-1"),)
    assert want.introduction.attributes == (("default/phone_number", '"+4930"'),)
    assert (want.introduction.visitor, want.introduction.merge) == ("v1", True)


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "a@b.c"}, {"email": "a@b.c", "email_verified": "true"},
        {"email": "a@b.c", "email_verified": False}, {"email": ["a@b.c"], "email_verified": True},
        {"email": "", "email_verified": True}, {"email": "x" * 2000, "email_verified": True},
        {"email": True, "email_verified": True}, {"tel": "+49", "tel_ok": 1},
    ],
)  # fmt: skip
def test_what_is_not_verified_says_nothing(claims: Mapping[str, Any]) -> None:
    want = needed(request("GET", "/stats", claims), None)
    assert (want.introduction.others, want.introduction.attributes) == ((), ())


def test_a_visitor_is_known_by_the_cookie_where_something_is_asked_of_them() -> None:
    want = needed(request("GET", "/open", None), None, "v1")
    assert (want.identity.issuer, want.identity.subject) == (VISITOR, "v1")
    assert want.introduction.identity == want.identity
    first = authorize(request("GET", "/open", None), snapshot(), evidence(None), NOW)
    assert isinstance(first, Permit)
    assert first.visitor
    known = authorize(
        request("GET", "/open", None), snapshot(),
        evidence(Subject(customer="cus_v"), visitor="v1"), NOW,
    )  # fmt: skip
    assert isinstance(known, Permit)
    assert known.customer == "cus_v"


def test_a_visitor_who_logs_in_is_introduced_again_once() -> None:
    asked = request("GET", "/accounts/7", {})
    before = Subject(customer="cus_1")
    assert needed(asked, before, "v1").introduction.visitor == "v1"
    after = Subject(customer="cus_1", visitors=frozenset({"v1"}))
    outcome = authorize(asked, snapshot(), evidence(after, visitor="v1"), NOW)
    assert isinstance(outcome, Permit)


def test_whoever_cannot_be_asked_about_is_let_through_without_an_id_where_nothing_hangs_on_it() -> (
    None
):
    more = """
---
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {name: only}
spec: {}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec: {rules: [{name: a, match: {paths: [/q]}}]}
"""
    found = [
        each for each in documents(more)
        if each.kind == "TokenIssuer" or each.name in ("only", "q")
    ]  # fmt: skip
    alone = compile_snapshot(found, namespace="default", labels={})
    outcome = authorize(
        request("GET", "/q", {}), alone, evidence(Unavailable("subject_unavailable")), NOW
    )
    assert isinstance(outcome, Permit)
    assert outcome.customer == ""
    assert asked_nobody(alone)


def asked_nobody(found: Snapshot) -> bool:
    return introduce(found.journey, None, "") is None


CLAIMS: dict[str, Any] = {"email": "a@b.example", "email_verified": True}


def introduced(**claims: Any) -> Introduction:
    told = "identifiers: [{type: email, claim: email}]"
    more = f"""
---
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {{name: aaa}}
spec: {{{told}}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {{name: filled}}
spec: {{words: {{en: {{label: a}}}}, claims: [first, second]}}
"""
    verified = Verified(
        Identity(ISSUER, "alice"), {**CLAIMS, **claims}, frozenset(), NOW + 60, None, 0
    )
    found = introduce(snapshot(more).journey, verified, "")
    assert found is not None
    return found


def test_addresses_are_one_without_regard_to_the_case_of_ascii_alone() -> None:
    assert introduced(email="Kim@B.example").others == (("email", "kim@b.example"),)
    for other in ("\u212aim@b.example", "KİM@b.example"):  # both lower to what begins as above
        assert introduced(email=other).others != introduced(email=other.lower()).others


@pytest.mark.parametrize("nothing", ["", 2**64, [2**64], {"a": -(2**80)}])
def test_a_claim_that_tells_nothing_fills_nothing(nothing: Any) -> None:
    assert "default/filled" not in dict(introduced(first=nothing).attributes)


def test_an_empty_claim_leaves_the_next_one_its_turn() -> None:
    found = introduced(first="", second="x")
    assert dict(found.attributes)["default/filled"] == '"x"'


def test_risk_is_forgotten_by_halves() -> None:
    subject = Subject(risk=80, since=NOW, half_life=100.0)
    assert [subject.risk_at(NOW + after) for after in (-5, 0, 100, 200)] == [80, 80, 40, 20]
    assert Subject(risk=80).risk_at(NOW) == 80


# What of it is sent.


def test_a_sidecar_is_shown_what_its_policies_read() -> None:
    seen = view(documents(), "default")
    assert seen.values == frozenset()
    assert seen.present == {"default/phone_number"}
    assert seen.purposes is None  # an expression reads them all
    assert seen.shows_purpose("default/anything")
    assert not seen.shows_purpose("other/anything")
    assert seen.risk
    assert not seen.segments
    assert not seen.shows_value("default/phone_number")
    assert seen.shows_presence("default/phone_number")
    assert seen.takes("default/phone_number")
    assert not seen.takes("default/other")


def test_a_value_that_is_read_is_more_than_its_presence() -> None:
    more = """
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec: {rules: [{name: a, when: "subject.profile.phone_number.startsWith('+49')"}]}
"""
    seen = view(documents(more), "default")
    assert seen.shows_value("default/phone_number")
    assert not seen.shows_presence("default/phone_number")
    assert not seen.shows_value("default/tier")
    all_of_it = view(
        documents(
            more.replace(
                "subject.profile.phone_number.startsWith('+49')", "size(subject.profile) > 1"
            )
        ),
        "default",
    )
    assert all_of_it.shows_value("default/tier")
    assert not all_of_it.shows_value("other/tier")


# What documents get wrong.


@pytest.mark.parametrize(
    ("kind", "spec", "pointer", "message"),
    [
        ("ConsentPurpose", "{words: {en: {title: a, text: b}}, attributes: [nothing]}", "spec.attributes[0]", "there is no ProfileAttribute 'nothing'"),
        ("ConsentPurpose", "{words: {English!: {title: a, text: b}}}", "spec.words.English!", "is no language tag"),
        ("ConsentPurpose", "{words: {en: {title: a, text: b}}, expires: 0s}", "spec.expires", "over at once"),
        ("ConsentPurpose", "{words: {en: {title: a, text: b}}, attributes: [tier], maxUses: 2}", "spec.maxUses", "every response would be a use"),
        ("ProfileAttribute", "{words: {en: {label: a}}, type: choice}", "spec.choices", "a choice has some"),
        ("ProfileAttribute", "{words: {en: {label: a}}, choices: [a]}", "spec.choices", "nothing else has any"),
        ("ProfileAttribute", "{words: {en: {label: a}}, validation: {minimum: 1}}", "spec.validation.minimum", "says nothing of text"),
        ("ProfileAttribute", "{words: {en: {label: a}}, validation: {pattern: '('}}", "spec.validation.pattern", "no RE2 expression"),
        ("ProfileAttribute", "{words: {en: {label: a}}, validation: {minLength: 3, maxLength: 2}}", "spec.validation.maxLength", "no answer is from 3 to 2"),
        ("ProfileAttribute", "{words: {en: {label: a}}, type: number, validation: {minimum: 1, maximum: 0.5}}", "spec.validation.maximum", "no answer is from 1 to 0.5"),
        ("ProfileAttribute", "{words: {en: {label: a}}, retention: 0s}", "spec.retention", "over at once"),
        ("ProfileAttribute", "{words: {en: {label: a, choices: {c: C}}}, type: choice, choices: [b]}", "spec.words.en.choices.c", "not one of its choices"),
        ("ProfileAttribute", "{words: {en: {label: a}}, attribute: a b}", "spec.attribute", "not an attribute's name"),
        ("ProfileAttribute", "{words: {en: {label: a}}, attribute: tier}", "spec.attribute", "already has this name"),
        ("ProfileAttribute", "{words: {en: {label: a}}, enricher: {name: crm, member: x}}", "spec.enricher.name", "there is no Enricher 'crm'"),
        ("IdentityPolicy", "{identifiers: [{type: subject, claim: sub}]}", "spec.identifiers[0].type", "not a type of identifier"),
        ("IdentityPolicy", "{identifiers: [{type: a, claim: b}, {type: a, claim: c}]}", "spec.identifiers[1].type", "named twice"),
        ("IdentityPolicy", "{visitor: {insecureCookie: true}}", "spec.visitor.cookie", "over TLS only"),
        ("IdentityPolicy", "{visitor: {cookie: 'a;b'}}", "spec.visitor.cookie", "no cookie name"),
        ("IdentityPolicy", "{visitor: {maxAge: 401d}}", "spec.visitor.maxAge", "not from 1m to 400d"),
    ],
)  # fmt: skip
def test_mistakes_are_named(kind: str, spec: str, pointer: str, message: str) -> None:
    text = (
        f"\n---\napiVersion: authz.sidecar/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
    )
    found = [each for each in validate(documents(text)) if each.document.endswith("/x")]
    assert any(each.pointer == pointer and message in each.message for each in found), found


def test_names_without_documents_are_warned_of_once_there_are_some() -> None:
    text = """
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: x}
spec: {rules: [{name: a, require: {consent: [no-such], profile: [none]}}]}
"""
    found = [each for each in validate(documents(text)) if each.document.endswith("/x")]
    assert {each.code for each in found} == {"unknown-purpose", "unknown-attribute"}


def test_no_team_uncovers_what_platform_covers() -> None:
    text = """
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: ssn, namespace: platform}
spec: {words: {en: {label: a}}, responses: [$.ssn]}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: x}
spec: {words: {en: {title: a, text: b}}, attributes: [ssn]}
"""
    found = [each.message for each in validate(documents(text)) if each.document.endswith("/x")]
    assert found == ["ssn is platform's, so only platform says who may see it"]


def test_what_no_purpose_covers_nobody_is_shown() -> None:
    before = "attributes: [phone_number]"
    found = snapshot(**{before: "attributes: []"})
    everything = Subject(consents=frozenset({"analytics", "pay"}), customer="cus_1")
    outcome = authorize(request("GET", "/accounts/7", {}), found, evidence(everything), NOW)
    assert isinstance(outcome, Permit)
    assert outcome.obligations.redact


def test_what_is_shown_to_nobody_is_warned_of() -> None:
    text = """
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: shoe-size}
spec: {words: {en: {label: a}}, responses: [$.shoeSize]}
"""
    [found] = [each for each in validate(documents(text)) if each.document.endswith("/shoe-size")]
    assert (found.code, found.warning) == ("never-shown", True)


# What an Enricher knows.

CRM = """
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: crm}
spec: {url: "https://crm.example/customers", parameters: {who: token.sub}, type: {shoe: integer}, optional: [shoe]}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: shoe}
spec: {type: integer, words: {en: {label: Shoe size}}, enricher: {name: crm, member: shoe}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec:
  rules:
  - {name: a, match: {paths: [/shoes]}, require: {profile: [shoe]}}
  - {name: b, match: {paths: [/large]}, when: subject.profile.shoe > 45}
"""


@pytest.mark.parametrize("path", ["/shoes", "/large"])
def test_what_an_enricher_knows_nobody_is_asked(path: str) -> None:
    found = snapshot(CRM)
    known = evidence(Subject(customer="cus_1"))
    asked = request("GET", path, {})
    need = authorize(asked, found, known, NOW)
    assert isinstance(need, Need)
    (want,) = need.wants
    assert isinstance(want, NeedEnrichment)
    answers: ExpiringCache[bytes, Enriched | Unavailable] = ExpiringCache(10)
    told = replace(known, enriched=answers)
    answers.put(want.key, Enriched({"shoe": 46}, NOW + 30), inf)
    assert isinstance(authorize(asked, found, told, NOW), Permit)
    assert asked.memo is None, "the answer's parameters are in no key"
    answers.put(want.key, Enriched({}, NOW + 30), inf)
    refused = authorize(request("GET", path, {}), found, told, NOW)
    assert isinstance(refused, Refuse)
    assert refused.code == ("profile_required" if path == "/shoes" else "denied")
    answers.put(want.key, Unavailable("enricher_unavailable"), inf)
    unknown = authorize(request("GET", path, {}), found, told, NOW)
    assert isinstance(unknown, Refuse)
    assert unknown.code == "unavailable"


def test_nor_is_the_enricher_asked_what_the_customer_told() -> None:
    told = Subject(customer="cus_1", profile={"shoe": 44})
    assert isinstance(
        authorize(request("GET", "/shoes", {}), snapshot(CRM), evidence(told), NOW), Permit
    )


def test_a_decision_about_a_transaction_can_be_replayed() -> None:
    found = snapshot()
    subject = Subject(
        customer="cus_1", grants=(Grant("default/pay", 1, PAID, since=NOW - 1, left=1),)
    )
    asked = request("POST", "/pay", {}, PAY)
    known = evidence(subject)
    outcome = authorize(asked, found, known, NOW)
    assert isinstance(outcome, Permit)
    known.tokens.clear()
    used_up = replace(known, subjects=lambda identity, now: Subject(customer="cus_1"))
    read = records.inputs(asked, outcome, found, used_up, NOW)
    assert read["subject.grants"] == [f"default/pay 1 {PAID}"]
    line = orjson.dumps(
        {
            "time": NOW, "decision_id": "d", "method": "POST", "host": "bank.example",
            "path": "/pay", "outcome": "permit", "issuer": ISSUER, "subject": "alice",
            "input": read,
        }
    )  # fmt: skip
    again = Recorded(found).again(msgspec.json.decode(line, type=Record))
    assert again.lacking == ()
    assert again.verdict is not None
    assert (again.verdict.permitted, again.verdict.rule) == (True, "default/p/pay")


def test_of_several_issuers_it_is_said_who_is_believed() -> None:
    text = """
---
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: x}
spec: {issuer: "https://social.example", audiences: [bank], jwks: {inline: {keys: []}}}
"""
    assert [each.code for each in validate(documents()) if each.code == "any-issuer"] == []
    found = [each for each in validate(documents(text)) if each.code == "any-issuer"]
    assert [each.pointer for each in found] == ["spec.identifiers[0].issuers"]
    assert found[0].warning
