"""Explanations: they say what `authorize` decided, and each part of it for what it is."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.explain import explain
from sidecar.decide.explanation import Explanation, RuleSeen
from sidecar.decide.outcomes import Code, Need, Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.scenario import JUNK, Decided, Scenario, decide
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subject
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
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: open, match: {paths: [/open]}, auth: none}
  - {name: cheap, match: {methods: [POST], paths: ["/pay/{id}"]}, require: {scopes: [pay, pay:more], consent: [payments]}}
  - {name: dear, match: {methods: [POST], paths: ["/pay/{id}"]}, require: {stepUp: {acr: [mfa], maxAge: 5m}}}
  - {name: hidden, match: {paths: ["/pay/{id}"]}, offer: false, require: {scopes: [root]}}
  - {name: staff, match: {paths: ["/pay/{id}"]}, require: {issuers: ["https://staff.example"], audiences: [staff], workloads: ["spiffe://prod/**"]}}
  - {name: others, match: {methods: [GET], hosts: [api.example.com], paths: ["/pay/*"]}}
  - {name: large, effect: guard, match: {paths: ["/pay/{id}"]}, when: "request.headers['x-amount'] != '1'", require: {proof: [dpop]}}
  - {name: frozen, effect: deny, when: "token.?status.orValue('') == 'frozen' || subject.risk > 90"}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec: {mode: shadow, rules: [{name: nothing, effect: deny, match: {paths: [/open]}}]}
"""


@functools.cache
def snapshot(text: str = DOCUMENTS) -> Snapshot:
    found, problems = parse([Source("f", text)])
    assert not problems
    return compile_snapshot(found, namespace="default", labels={})


def seen(target: str, **more: Any) -> Explanation:
    scenario = Scenario(target=target, now=NOW, **more)
    return explain(decide(scenario, snapshot()), snapshot())


def rule(found: Explanation, name: str) -> RuleSeen:
    return next(each for each in found.rules if each.rule == f"default/p/{name}")


def pay(**more: Any) -> Explanation:
    return seen("/pay/7", method="POST", **more)


def test_a_refusal_says_what_it_lacks_and_what_each_way_costs() -> None:
    found = pay(claims={"scope": "pay"}, headers=(("x-amount", "1"),))
    assert (found.outcome, found.reason) == ("refused", "scope_missing")
    cheap = rule(found, "cheap")
    assert [(asked.what, asked.met) for asked in cheap.requires] == [
        ("a token", True), ("scope pay", True), ("scope pay:more", False),
        ("consent to payments", None),
    ]  # fmt: skip
    assert [(way.rule[10:], way.cost, way.chosen) for way in found.ways] == [
        ("cheap", 3, True), ("dear", 5, False), ("hidden", 1, False), ("staff", 0, False),
    ]  # fmt: skip
    assert found.ways[2].not_proposed == "offer: false"
    assert "no challenge can obtain" in found.ways[3].not_proposed
    assert found.plan == {"kind": "scope", "needs": {"scopes": ["pay:more"]}}
    assert found.answer is not None
    assert found.answer.status == 403
    assert found.answer.www_authenticate.endswith('scope="pay pay:more"')
    assert found.answer.body is not None
    assert found.answer.body["code"] == "insufficient_scope"
    assert "lacks scope pay:more" in found.essence()


def test_requirements_that_nothing_can_obtain_one_by_one() -> None:
    found = pay(claims={"scope": "pay"}, headers=(("x-amount", "1"),))
    assert [(asked.what, asked.met) for asked in rule(found, "staff").requires] == [
        ("a token", True), ("issuer https://staff.example", False), ("audience staff", False),
        ("one of the workloads", False),
    ]  # fmt: skip


def test_a_guard_is_named_with_what_selected_it() -> None:
    found = pay(claims={"scope": "pay pay:more"}, headers=(("x-amount", "5000"),))
    large = rule(found, "large")
    assert (large.verdict, large.decisive, large.selected) == ("is not met", True, True)
    assert large.when is not None
    assert (large.when.value, large.when.read) == ("true", {"request.headers.x-amount": "5000"})
    assert found.guards == ("default/p/large",)
    met = pay(
        claims={"scope": "pay pay:more"}, proof=("dpop",), subject=Subject(frozenset(["payments"]))
    )
    assert met.outcome == "permitted"
    assert rule(met, "large").verdict == "holds, selected as its condition failed"
    assert rule(met, "large").when == replace(
        large.when, value="failed", read={"request.headers.x-amount": "(absent)"}
    )


def test_what_is_known_of_the_subject_is_looked_at_last() -> None:
    found = pay(claims={"scope": "pay pay:more"}, headers=(("x-amount", "1"),))
    assert (found.reason, found.plan) == (
        "consent_missing",
        {"kind": "consent", "needs": {"consent": ["payments"]}},
    )
    assert rule(found, "cheap").requires[-1].met is False


def test_who_calls() -> None:
    assert seen("/open").caller.kind == "not looked at"
    assert pay().caller.kind == "anonymous"
    bad = pay(bad=JUNK).caller
    assert (bad.kind, bad.why) == ("bad", "malformed: The token is not a well-formed JWT.")
    token = pay(
        claims={"sub": "alice", "scope": "b a"}, proof=("dpop",), workload="spiffe://prod/a"
    ).caller
    assert (token.subject, token.scopes, token.proof) == ("alice", ("a", "b"), ("dpop",))
    assert token.workload == "spiffe://prod/a"
    expired = pay(claims={"exp": -60})
    assert expired.caller.why == "expired: The token has expired."
    assert expired.answer is not None
    assert "The token has expired." in expired.answer.www_authenticate


def test_rules_that_are_about_others() -> None:
    found = pay(claims={})
    assert rule(found, "others").verdict == (
        "about others: method POST is not GET or HEAD, host localhost is not api.example.com"
    )
    assert found.passed_over == {"path": 2, "method or host": 1}
    nothing = seen("/nothing")
    assert [each.rule for each in nothing.rules] == ["default/p/frozen"]


def test_unknown_facts() -> None:
    from sidecar.decide.outcomes import Unavailable

    found = seen("/open", subject=Unavailable("down"))
    assert found.outcome == "permitted"  # an anonymous caller has no record to be had
    found = pay(
        claims={"scope": "pay pay:more"}, headers=(("x-amount", "1"),), subject=Unavailable("down")
    )
    assert (found.code, found.reason) == ("unavailable", "down")
    frozen = rule(found, "frozen")
    assert frozen.when is not None
    assert (frozen.verdict, frozen.when.read["subject.risk"]) == ("unknown", "(cannot be had)")


def test_shadows_are_told_apart() -> None:
    found = seen("/open")
    assert found.shadow == {
        "outcome": "refuse",
        "code": "authentication_required",
        "reason": "no_credential",
        "rule": "default/q/nothing",
    }
    assert [each.shadow for each in found.rules] == [False, False, True]


def test_secrets_are_left_out() -> None:
    text = DOCUMENTS.replace(
        "request.headers['x-amount'] != '1'",
        "request.headers['x-api-key'] != token.api_key || request.query.?code.orValue('') != ''",
    )
    held = snapshot(text)
    scenario = Scenario(
        "POST", "/pay/7?code=HUSH", headers=(("x-api-key", "HUSH"),), claims={"api_key": "HUSH"}, now=NOW
    )  # fmt: skip
    found = explain(decide(scenario, held), held)
    assert "HUSH" not in json.dumps(found.plain())


def plain(found: Explanation) -> Any:
    return json.loads(json.dumps(found.plain()))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_it_agrees_with_the_decision(case: Case) -> None:
    """For every case of the casebook: the decisive rule's verdict fits the outcome."""
    held = compile_snapshot(documents(case.documents), namespace="default", labels=case.labels)
    evidence, known = evidence_of(case)
    outcome, request = made(case, case.request(NOW), held, evidence, known, NOW)
    assert type(outcome) is not Need
    found = explain(Decided(outcome, request, evidence, NOW), held)
    assert plain(found)["rule"] == outcome.rule
    enforced = [each for each in found.rules if not each.shadow]
    decisive = [each for each in enforced if each.decisive]
    assert len(decisive) == (1 if outcome.rule else 0)
    if type(outcome) is Permit:
        assert decisive[0].verdict == "permits"
        assert all(asked.met for asked in decisive[0].requires)
        for each in enforced:
            assert not (each.effect == "deny" and each.verdict.startswith("denies"))
            assert not (each.effect == "guard" and each.verdict.startswith("is not met"))
    else:
        assert type(outcome) is Refuse
        assert found.answer is not None
        assert found.answer.status == case.spec["expect"]["refuse"]
        permitting = [
            each for each in enforced if each.effect == "allow" and each.verdict == "permits"
        ]
        stopped = [
            each
            for each in enforced
            if each.effect != "allow" and each.verdict.startswith(("denies", "is not met"))
        ]
        undecided = outcome.code in (Code.BAD_REQUEST, Code.TOO_LARGE, Code.UNAVAILABLE)
        assert not permitting or stopped or undecided or found.caller.kind == "bad"
        if outcome.plan is not None and any(way.chosen for way in found.ways):
            assert sum(way.chosen for way in found.ways) == 1
