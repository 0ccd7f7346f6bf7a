"""Rules about workloads: who is one, what expressions see of it, and what caches may not confuse."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.decide import challenge
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot, validate
from sidecar.decide.outcomes import Outcome, Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request, canonical_target
from sidecar.decide.revocations import Revocation, target
from sidecar.decide.workloads import Certificate, workload
from tests.casebook import documents, token

NOW: Final = 1_800_000_000.0
DOCUMENTS: Final = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {inline: $JWKS}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: inside, match: {paths: [/inside]}, auth: workload, then: {setHeaders: {x-from: source.serviceAccount}}}
  - {name: billing, match: {paths: [/billing]}, auth: workload, require: {workloads: ["spiffe://prod/ns/pay/sa/billing"]}}
  - {name: pay, match: {paths: [/pay]}, auth: workload, require: {workloads: ["spiffe://prod/ns/pay/**"]}}
  - {name: either, match: {paths: [/either]}, auth: either}
  - {name: token, match: {paths: [/token]}}
  - {name: by way of, match: {paths: [/via]}, require: {workloads: ["spiffe://prod/ns/edge/sa/gateway"]}}
  - {name: acting, match: {paths: [/acting]}, auth: workload, require: {scopes: [pay]}}
  - {name: optional, match: {paths: [/optional]}, auth: optional}
  - {name: open, match: {paths: [/open]}, auth: none, when: source.namespace == 'pay'}
  - {name: proven, match: {paths: [/proven]}, auth: either, require: {proof: [mtls]}}
  - {name: keyed, match: {paths: [/keyed]}, auth: either, require: {proof: [dpop]}}
  - {name: tier, match: {paths: [/tier]}, auth: either, then: {setHeaders: {x-source: source.spiffe, x-me: subject.id}}}
  - {name: not dev, effect: deny, match: {paths: ["/**"]}, when: source.namespace == 'dev'}
"""
SNAPSHOT: Final = compile_snapshot(documents(DOCUMENTS), namespace="default", labels={})


def certificate(path: str = "ns/pay/sa/billing", expires: float = NOW + 600) -> Certificate:
    return Certificate("c" * 43, workload(f"spiffe://prod/{path}", expires))


BILLING: Final = certificate()
REPORTS: Final = certificate("ns/pay/sa/reports")
DEV: Final = certificate("ns/dev/sa/billing")
PLAIN: Final = Certificate("d" * 43)


def evidence() -> Evidence:
    return Evidence({}, ExpiringCache(100), ExpiringCache(100))


def request(path: str, shown: Certificate | None = None, credential: str = "") -> Request:
    canonical, segments, query = canonical_target(path.encode())
    headers = [(b"authorization", f"Bearer {credential}".encode())] if credential else []
    return Request(
        "GET",
        canonical,
        segments,
        query,
        "h",
        "h",
        "https",
        headers,
        "192.0.2.1",
        certificate=shown,
    )


def decided(
    path: str, shown: Certificate | None = None, credential: str = "", *,
    known: Evidence | None = None, now: float = NOW,
) -> Outcome:  # fmt: skip
    """The same thrice: at first sight, from memory, as an equal request."""
    known = known or evidence()
    asked = request(path, shown, credential)
    outcome = authorize(asked, SNAPSHOT, known, now)
    for again in (asked, request(path, shown, credential)):
        assert authorize(again, SNAPSHOT, known, now) == outcome
    return outcome


def said(*of: Any, **more: Any) -> tuple[int, str]:
    """Status and reason, or 200 and who it was."""
    outcome = decided(*of, **more)
    if isinstance(outcome, Permit):
        return 200, outcome.identity.subject if outcome.identity else ""
    assert isinstance(outcome, Refuse)
    return challenge.refusal(outcome, request("/"), "d").status, outcome.reason


ID: Final = "spiffe://prod/ns/pay/sa/billing"


def test_a_verified_certificate_is_an_identity() -> None:
    outcome = decided("/inside", BILLING)
    assert isinstance(outcome, Permit)
    assert outcome.identity is not None
    assert (outcome.identity.issuer, outcome.identity.subject) == ("spiffe://prod", ID)
    assert outcome.expires == NOW + 600
    assert outcome.obligations.set_headers == (("x-from", "billing"),)


@pytest.mark.parametrize(("path", "shown", "expected"), [
    ("/inside", None, (401, "no_credential")), ("/inside", PLAIN, (401, "no_credential")),
    ("/billing", BILLING, (200, ID)), ("/billing", REPORTS, (403, "requirement_unmet")),
    ("/billing", None, (401, "no_credential")), ("/pay", REPORTS, (200, "spiffe://prod/ns/pay/sa/reports")),
    ("/pay", certificate("ns/x/sa/y"), (403, "requirement_unmet")), ("/pay", DEV, (403, "denied_by_rule")),
    ("/either", BILLING, (200, ID)), ("/either", None, (401, "no_credential")),
    ("/token", BILLING, (401, "no_credential")), ("/nowhere", BILLING, (403, "no_rule")),
    ("/nowhere", None, (401, "no_credential")), ("/optional", BILLING, (200, "")),
    ("/open", BILLING, (200, "")), ("/open", None, (401, "no_credential")), ("/open", DEV, (403, "denied_by_rule")),
    ("/proven", BILLING, (200, ID)), ("/keyed", BILLING, (401, "proof_required")),
    ("/via", BILLING, (403, "requirement_unmet")), ("/acting", BILLING, (401, "no_credential")),
])  # fmt: skip
def test_without_a_token(path: str, shown: Certificate | None, expected: tuple[int, str]) -> None:
    assert said(path, shown) == expected


@pytest.mark.parametrize(("path", "shown", "expected"), [
    ("/inside", None, (403, "requirement_unmet")), ("/inside", BILLING, (200, ID)),
    ("/either", BILLING, (200, "alice")), ("/either", None, (200, "alice")),
    ("/via", None, (403, "requirement_unmet")), ("/via", BILLING, (403, "requirement_unmet")),
    ("/via", certificate("ns/edge/sa/gateway"), (200, "alice")), ("/token", DEV, (403, "denied_by_rule")),
    ("/acting", BILLING, (403, "scope_missing")), ("/proven", BILLING, (401, "proof_required")),
])  # fmt: skip
def test_with_a_token(path: str, shown: Certificate | None, expected: tuple[int, str]) -> None:
    """An unbound token is not bound by whose connection it comes over."""
    assert said(path, shown, token(NOW, {})) == expected


def test_a_workload_that_acts_with_somebody_elses_token() -> None:
    assert said("/acting", BILLING, token(NOW, {"scope": "pay"})) == (200, ID)
    assert said("/acting", None, token(NOW, {"scope": "pay"})) == (403, "requirement_unmet")


@pytest.mark.parametrize("path", ["/inside", "/either", "/optional", "/pay"])
def test_a_bad_token_is_never_made_good(path: str) -> None:
    assert said(path, BILLING, "junk") == (401, "malformed")


def test_it_holds_as_long_as_the_certificate() -> None:
    """Which a connection outlives."""
    known = evidence()
    for path in ("/inside", "/pay", "/either", "/open"):
        asked = request(path, BILLING)
        assert isinstance(authorize(asked, SNAPSHOT, known, NOW), Permit)
        assert isinstance(authorize(asked, SNAPSHOT, known, NOW + 599), Permit)
        late = authorize(asked, SNAPSHOT, known, NOW + 600)
        assert isinstance(late, Refuse), path
        assert late.reason == "no_credential"


def test_nothing_remembered_of_one_is_told_of_another() -> None:
    known = evidence()
    credential = token(NOW, {})
    shown = [BILLING, REPORTS, None, certificate("ns/edge/sa/gateway"), PLAIN]
    for _ in range(2):
        for each in shown:
            outcome = decided("/tier", each, credential, known=known)
            assert isinstance(outcome, Permit)
            source = each.workload.spiffe if each and each.workload else ""
            assert outcome.obligations.set_headers == (("x-source", source), ("x-me", "alice"))
            alone = decided("/either", each, known=known)
            assert isinstance(alone, Permit) == bool(source)
            if isinstance(alone, Permit):
                assert alone.identity is not None
                assert alone.identity.subject == source
    assert known.decisions.hits > 0


def test_a_shorter_life_is_not_lengthened_by_a_longer_one() -> None:
    known = evidence()
    long, short = certificate(expires=NOW + 600), certificate(expires=NOW + 60)
    assert isinstance(decided("/inside", long, known=known), Permit)
    outcome = decided("/inside", short, known=known)
    assert isinstance(outcome, Permit)
    assert outcome.expires == NOW + 60
    late = authorize(request("/tier", short), SNAPSHOT, known, NOW + 61)
    assert isinstance(late, Refuse)


@pytest.mark.parametrize("withdrawn", [
    target("subject", "spiffe://prod", ID), target("key", "spiffe://prod", "c" * 43),
])  # fmt: skip
def test_a_workload_that_is_withdrawn_is_nobody(withdrawn: bytes) -> None:
    """From the next request on, also where its permit is remembered."""
    known = evidence()
    asked = {path: request(path, certificate(), credential) for path, credential in (
        ("/inside", ""), ("/pay", ""), ("/either", ""), ("/tier", token(NOW, {})), ("/open", ""),
    )}  # fmt: skip
    other = Certificate("e" * 43, workload("spiffe://prod/ns/pay/sa/reports", NOW + 600))
    for each in asked.values():
        permit = authorize(each, SNAPSHOT, known, NOW)
        assert isinstance(permit, Permit)
        if each.path in ("/inside", "/pay", "/either"):
            assert permit.verified is not None
            assert not known.revocations.revokes(permit.verified, NOW)
    known.revocations.add([Revocation(withdrawn, None, NOW + 1000)])
    assert permit_of(asked["/tier"], known).obligations.set_headers[0] == ("x-source", "")
    for path in ("/inside", "/pay", "/either", "/open"):
        refused = authorize(asked[path], SNAPSHOT, known, NOW)
        assert isinstance(refused, Refuse)
        assert refused.reason == "no_credential"
        assert isinstance(authorize(request(path, other), SNAPSHOT, known, NOW), Permit)


def permit_of(asked: Request, known: Evidence) -> Permit:
    outcome = authorize(asked, SNAPSHOT, known, NOW)
    assert isinstance(outcome, Permit)
    return outcome


def test_what_is_shown_since_then_stands() -> None:
    known = evidence()
    known.revocations.add(
        [Revocation(target("subject", "spiffe://prod", ID), NOW - 100, NOW + 1000)]
    )
    for since, stands in ((NOW - 200, False), (NOW - 50, True)):
        shown = Certificate("c" * 43, workload(ID, NOW + 600, since))
        outcome = authorize(request("/inside", shown), SNAPSHOT, known, NOW)
        assert isinstance(outcome, Permit) == stands


def test_a_workload_is_never_proposed() -> None:
    outcome = decided("/billing", None)
    assert isinstance(outcome, Refuse)
    assert outcome.plan is not None
    assert outcome.plan.kind == "authentication"
    answer = challenge.refusal(outcome, request("/"), "d")
    assert dict(answer.headers)[b"www-authenticate"] == b'Bearer realm="sidecar"'


@pytest.mark.parametrize(("text", "message"), [
    ("spiffe://prod", "not the path of a workload"), ("*", "not a whole"), ("spiffe://*/x", "whole segment"),
])  # fmt: skip
def test_a_pattern_that_is_none_is_a_mistake(text: str, message: str) -> None:
    found, problems = parse([Source("f", f"""
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: p}}
spec: {{rules: [{{name: r, require: {{workloads: ["{text}"]}}}}]}}
""")])  # fmt: skip
    assert not problems
    [problem] = validate(found)
    assert problem.pointer == "spec.rules[0].require.workloads[0]"
    assert message in problem.message or "segment" in problem.message


VIA: Final = certificate("ns/edge/sa/gateway", NOW + 60)


@pytest.mark.parametrize(
    ("path", "shown", "lifetime"),
    [
        ("/via", VIA, 60),  # a token that came by a workload
        (
            "/acting",
            certificate(expires=NOW + 600),
            330,
        ),  # a workload that acts for a token's subject
        ("/acting", certificate(expires=NOW + 60), 60),
        ("/open", certificate(expires=NOW + 60), 60),  # nobody's rule that reads a workload
        ("/token", None, 330),
    ],
)
def test_a_permit_lasts_no_longer_than_all_who_stand_behind_it(
    path: str, shown: Certificate | None, lifetime: int
) -> None:
    outcome = decided(path, shown, token(NOW, {"exp": 300, "scope": "pay"}))
    assert isinstance(outcome, Permit)
    assert outcome.expires == NOW + lifetime
    behind = {each.identity.issuer for each in (outcome.verified, outcome.beside) if each}
    assert ("spiffe://prod" in behind) is (shown is not None)


def test_a_permit_of_two_certificates_is_not_shared() -> None:
    """Though they name the same workload until the same moment: one may be withdrawn."""
    known = evidence()
    one, other = certificate(), Certificate("e" * 43, BILLING.workload)
    first, second = (
        authorize(request("/billing", shown), SNAPSHOT, known, NOW) for shown in (one, other)
    )
    assert isinstance(first, Permit)
    assert isinstance(second, Permit)
    assert first.verified is one.standing
    assert second.verified is other.standing
