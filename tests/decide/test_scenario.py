"""A request as somebody describes it: the decision is the one that a sidecar would make of it."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.outcomes import Code, Identity, Need, Permit, Refuse, Unavailable
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Unread
from sidecar.decide.scenario import JUNK, UNREACHED, Decided, Scenario, ScenarioInvalid, decide
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subject
from sidecar.errors import BadRequest
from tests.casebook import Case, cases, documents, evidence_of
from tests.casebook import decided as made

NOW = 1_800_000_000.0
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank]}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {credentials: [{cookie: sid}, {header: authorization}], dpop: {algorithms: [ES256]}}
---
apiVersion: authz.sidecar/v1
kind: ApiKey
metadata: {name: partner, labels: {tier: gold}}
spec: {id: partner-7, hash: "sha256:d88487eabf94194abc5ff8ffc946c11c802b026f7c5ce162050f87e876d0ccfd", subject: partner, scopes: [read], expires: "2030-01-01T00:00:00Z"}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: account}
spec: {url: "https://facts.example/{id}", parameters: {id: token.sub}, type: {limit: number, since: time}, optional: [since]}
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {name: gold}
spec: {labels: {tier: gold}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: open, match: {paths: [/open]}, auth: none}
  - {name: any, match: {paths: [/any]}}
  - {name: read, match: {paths: [/read]}, require: {scopes: [read]}}
  - {name: fresh, match: {paths: [/fresh]}, require: {stepUp: {maxAge: 5m}}}
  - {name: bound, match: {paths: [/bound]}, require: {proof: [dpop]}}
  - {name: certified, match: {paths: [/certified]}, require: {proof: [mtls]}}
  - {name: inside, match: {paths: [/inside]}, auth: workload, require: {workloads: ["spiffe://prod/**"]}}
  - {name: pay, match: {methods: [POST], paths: [/pay]}, when: request.body.amount < 10}
  - {name: consented, match: {paths: [/consented]}, require: {consent: [payments], profile: [phone]}}
  - {name: risky, match: {paths: [/risky]}, when: subject.risk < 50}
  - {name: rich, match: {paths: [/rich]}, when: "enriched.account.limit >= 10"}
  - {name: golden, match: {paths: [/golden]}, require: {segments: [gold]}}
  - {name: late, match: {paths: [/late]}, auth: none, when: "request.time.getHours('UTC') >= 8"}
"""


@functools.cache
def snapshot(text: str = DOCUMENTS) -> Snapshot:
    found, problems = parse([Source("f", text)])
    assert not problems
    return compile_snapshot(found, namespace="default", labels={})


def decided(path: str, **more: Any) -> Decided:
    return decide(Scenario(**{"target": path, "now": NOW, **more}), snapshot())


def said(path: str, **more: Any) -> str:
    """The rule that permits, or the reason of a refusal."""
    outcome = decided(path, **more).outcome
    return outcome.rule.removeprefix("default/p/") if type(outcome) is Permit else outcome.reason


TOKEN: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        ("/open", {}, "open"),
        ("/any", {}, "no_credential"),
        ("/any", {"claims": TOKEN}, "any"),
        ("/any", {"bad": JUNK}, "malformed"),
        ("/open", {"bad": JUNK}, "open"),
        ("/any", {"claims": {"exp": -31}}, "expired"),
        ("/any", {"claims": {"exp": -29}}, "any"),
        ("/any", {"claims": {"nbf": 60}}, "not_yet_valid"),
        ("/any", {"claims": {"exp": None}}, "malformed"),
        ("/any", {"claims": {"iss": "https://elsewhere.example"}}, "issuer_unknown"),
        ("/any", {"claims": {"iss": ["https://idp.example"]}}, "issuer_unknown"),
        ("/any", {"claims": {"aud": "shop"}}, "audience_mismatch"),
        ("/any", {"claims": {"sub": ""}}, "subject_missing"),
        ("/read", {"claims": {"scope": "read write"}}, "read"),
        ("/read", {"claims": {"scope": "write"}}, "scope_missing"),
        ("/fresh", {"claims": {"auth_time": -299}}, "fresh"),
        ("/fresh", {"claims": {"auth_time": -301}}, "step_up_required"),
        ("/fresh", {"claims": {"auth_time": int(NOW) - 10}}, "fresh"),
        ("/bound", {"claims": TOKEN}, "proof_required"),
        ("/bound", {"claims": TOKEN, "proof": ("dpop",)}, "bound"),
        ("/any", {"claims": TOKEN, "proof": ("dpop", "mtls")}, "any"),
        ("/certified", {"claims": TOKEN, "proof": ("dpop",)}, "proof_required"),
        ("/certified", {"claims": TOKEN, "proof": ("mtls",)}, "certified"),
        ("/inside", {"workload": "spiffe://prod/ns/pay/sa/billing"}, "inside"),
        ("/inside", {"workload": "spiffe://dev/ns/pay/sa/billing"}, "requirement_unmet"),
        ("/inside", {}, "no_credential"),
        ("/any", {"api_key": "partner-7"}, "any"),
        ("/read", {"api_key": "partner-7"}, "read"),
        ("/any", {"api_key": "partner-8"}, "api_key_unknown"),
        ("/any", {"api_key": "partner-7", "now": 2_000_000_000.0}, "expired"),
        ("/golden", {"api_key": "partner-7"}, "golden"),
        ("/golden", {"claims": TOKEN}, "requirement_unmet"),
        ("/golden", {"claims": TOKEN, "subject": Subject(segments=frozenset(["gold"]))}, "golden"),
        ("/consented", {"claims": TOKEN}, "consent_missing"),
        ("/consented", {"claims": TOKEN, "subject": Subject(frozenset(["payments"]), {"phone": "1"})}, "consented"),
        ("/consented", {"claims": TOKEN, "subject": Subject(frozenset(["payments"]))}, "profile_missing"),
        ("/consented", {"claims": TOKEN, "subject": Unavailable("subject_unavailable")}, "subject_unavailable"),
        ("/consented", {"subject": Unavailable("subject_unavailable")}, "no_credential"),
        ("/risky", {"claims": TOKEN, "subject": Subject(risk=50)}, "no_rule"),
        ("/risky", {"claims": TOKEN, "subject": Subject(risk=49)}, "risky"),
        ("/rich", {"claims": TOKEN}, "enricher_unavailable"),
        ("/rich", {"claims": TOKEN, "enriched": {"account": {"limit": 10}}}, "rich"),
        ("/rich", {"claims": TOKEN, "enriched": {"account": {"limit": 9}}}, "no_rule"),
        ("/rich", {"claims": TOKEN, "enriched": {"account": Unavailable("x")}}, "x"),
        ("/rich", {"claims": TOKEN, "otherwise": Unavailable("y")}, "y"),
        ("/rich", {}, "no_credential"),
        ("/late", {"now": 1_800_000_000.0}, "late"),
        ("/late", {"now": 1_800_000_000.0 - 8 * 3600}, "no_credential"),
    ],
)  # fmt: skip
def test_scenarios(path: str, more: dict[str, Any], expected: str) -> None:
    assert said(path, **more) == expected


@pytest.mark.parametrize(
    ("body", "more", "expected"),
    [
        (b'{"amount": 9}', {}, "pay"),
        (b'{"amount": 10}', {}, "no_rule"),
        (b"{", {}, "bad_body"),
        (b"amount=9", {"headers": (("Content-Type", "application/x-www-form-urlencoded"),)}, "expression_failed"),
        (b'"' + b"x" * 70_000 + b'"', {}, "body_too_large"),
        (Unread(503, "not_here"), {}, "not_here"),
        (b"", {}, "expression_failed"),
    ],
)  # fmt: skip
def test_bodies(body: Any, more: dict[str, Any], expected: str) -> None:
    assert said("/pay", method="POST", claims=TOKEN, body=body, **more) == expected


def test_who_it_is_may_be_settled_before() -> None:
    claims = {"iss": "https://idp.example", "aud": "bank"}
    known = {
        "claims": claims,
        "identity": Identity("https://idp.example", "c1", frozenset(["read"])),
    }
    assert said("/read", **known) == "read"
    assert said("/read", **{**known, "claims": {**claims, "aud": "shop"}}) == "audience_mismatch"


def test_a_page_of_another_origin() -> None:
    assert said("/any", claims=TOKEN, cross_origin=True) == "cross_origin"
    assert said("/any", claims=TOKEN, cross_origin=True, method="POST") == "cross_origin"
    assert said("/open", claims=TOKEN, cross_origin=True) == "open"


def test_what_cannot_be_described() -> None:
    with pytest.raises(ScenarioInvalid, match=r"enriched.account: limit is missing"):
        decided("/rich", claims=TOKEN, enriched={"account": {}})
    with pytest.raises(ScenarioInvalid, match=r"acount: there is no such Enricher; did you mean"):
        decided("/any", claims=TOKEN, enriched={"acount": {"limit": 5.0}})
    with pytest.raises(ScenarioInvalid, match="workload"):
        decided("/inside", workload="https://prod")
    with pytest.raises(BadRequest):
        decided("/a/../../b")
    two = (
        DOCUMENTS + "---\n" + DOCUMENTS.split("---")[0].replace("corp", "two").replace("idp", "two")
    )
    with pytest.raises(ScenarioInvalid, match="iss is missing"):
        decide(Scenario(target="/any", claims={}), snapshot(two))
    rsa = DOCUMENTS.replace("[ES256]", "[RS256]")
    with pytest.raises(ScenarioInvalid, match="proof"):
        decide(Scenario(target="/any", claims={}, proof=("dpop",)), snapshot(rsa))


def test_nonces_are_followed() -> None:
    held = snapshot(DOCUMENTS.replace("[ES256]", "[EdDSA, ES256], nonce: required"))
    outcome = decide(Scenario(target="/bound", claims={}, proof=("dpop",), now=NOW), held).outcome
    assert type(outcome) is Permit


def describable(case: Case) -> bool:
    """Not what is about signatures, headers of tokens and where they stand; nor what lacks the
    claims that a described token is given."""
    spec = case.spec
    if spec["name"] in ("a token type that is not admitted", "no type at all"):
        return False
    if any(part in spec for part in ("header", "damage", "scheme", "proof")):
        return False
    if {"Authorization", "Cookie", "X-Api-Key"} & spec.get("request", {}).get("headers", {}).keys():
        return False
    token = spec.get("token", {})
    return isinstance(token, str) or not ("cnf" in token or None in token.values())


def subject_of(case: Case) -> Subject | Unavailable:
    said = case.spec.get("subject", {})
    if said == "unavailable":
        return Unavailable("subject_unavailable")
    return Subject(
        frozenset(said.get("consents", ())), said.get("profile", {}),
        frozenset(said.get("segments", ())), said.get("risk", 0),
    )  # fmt: skip


@pytest.mark.parametrize(
    "case", [case for case in cases() if describable(case)], ids=lambda case: case.id
)
def test_it_is_what_authorize_makes_of_the_same_request(case: Case) -> None:
    """Wherever a case of the casebook can be described, the outcome is the same."""
    held = compile_snapshot(documents(case.documents), namespace="default", labels=case.labels)
    request = case.request(NOW)
    headers = tuple((n.decode(), v.decode()) for n, v in request.headers)
    token = case.spec.get("token")
    claims = None
    if isinstance(token, dict):
        claims = {"iss": "https://idp.example", "aud": "bank", "sub": "alice", "iat": 0, **token}
    described = Scenario(
        method=request.method,
        target=case.spec.get("request", {}).get("path", "/"),
        host=case.spec.get("request", {}).get("host", "bank.example"),
        scheme=request.scheme,
        address=request.address,
        headers=tuple(each for each in headers if each[0] not in ("host", "authorization")),
        claims=claims,
        bad=JUNK if isinstance(token, str) else None,
        body=case.body(),
        subject=subject_of(case),
        enriched={
            name: UNREACHED if values is None else values
            for name, values in case.spec.get("enriched", {}).items()
        },
        now=NOW,
    )
    evidence, known = evidence_of(case)
    real, _ = made(case, request, held, evidence, known, NOW)
    found = decide(described, held).outcome
    assert type(real) is not Need
    assert (type(found), found.rule) == (type(real), real.rule)
    assert found.identity == real.identity
    if type(found) is Refuse and type(real) is Refuse and not isinstance(token, str):
        assert (found.code, found.reason, found.plan) == (real.code, real.reason, real.plan)


def test_there_is_a_code_for_each() -> None:
    outcome = decided("/any", bad=JUNK).outcome
    assert type(outcome) is Refuse
    assert (outcome.code, outcome.presented) == (Code.INVALID_TOKEN, True)
