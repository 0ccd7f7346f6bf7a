"""The way to the privacy page: who is sent there, and what stands in their way."""

from __future__ import annotations

import pytest

from sidecar.decide.outcomes import Code, Need, Refuse
from sidecar.decide.privacy import PATH, is_asked_for, way_to
from sidecar.decide.subjects import Subject
from tests.decide.test_journey import NOW, evidence, request, snapshot

ALICE = Subject(customer="cus_1", risk=70.0)

POLICY = """
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: everywhere, namespace: %s}
spec: {mode: %s, rules: [{name: x, %s}]}
"""


def way(
    rule: str = "", namespace: str = "default", enforcement: str = "enforce", sub: str | None = "a"
) -> Refuse | Need:
    text = POLICY % (namespace, enforcement, rule) if rule else ""
    found = snapshot(text)
    asked = request("GET", PATH, None if sub is None else {"sub": sub})
    assert is_asked_for(asked, found)
    return way_to(asked, found, evidence(ALICE), NOW)


def test_who_is_logged_in_is_sent_there_and_nobody_else() -> None:
    sent, not_sent = way(), way(sub=None)
    assert isinstance(sent, Refuse)
    assert sent.code is Code.PRIVACY
    assert isinstance(not_sent, Refuse)
    assert not_sent.code is Code.AUTHENTICATION_REQUIRED


@pytest.mark.parametrize("namespace", ["default", "platform"])
@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("effect: deny, when: token.sub == 'mallory'", Code.DENIED),
        ("effect: deny, when: subject.risk >= 60.0", Code.DENIED),
        ("effect: deny, when: 1 / (size(token.sub) - 7) == 0", Code.DENIED),  # it fails
        ("effect: guard, require: {scopes: [all]}", Code.INSUFFICIENT_SCOPE),
        ("effect: guard, require: {stepUp: {acr: ['urn:mfa']}}", Code.STEP_UP),
        ("effect: guard, require: {segments: [staff]}", Code.DENIED),
        ("effect: guard, require: {issuers: [none], consent: [pay]}", Code.DENIED),
        (f"effect: guard, match: {{paths: [{PATH}]}}, require: {{scopes: [all]}}",
         Code.INSUFFICIENT_SCOPE),
    ],
)  # fmt: skip
def test_denies_and_guards_hold_there_too(rule: str, code: Code, namespace: str) -> None:
    found = way(rule, namespace, sub="mallory")
    assert isinstance(found, Refuse)
    assert found.code is code
    assert found.rule == f"{namespace}/everywhere/x"


@pytest.mark.parametrize(
    "rule",
    [
        "effect: deny, when: token.sub == 'mallory'",
        "effect: deny, match: {paths: [/accounts/**]}",
        "effect: guard, require: {consent: [analytics], profile: [phone_number]}",
        "effect: guard, require: {consent: [{purpose: pay, bind: [request.body.amount]}]}",
        "effect: guard, match: {methods: [POST]}, require: {scopes: [all]}",
        "effect: allow, match: {paths: [/x]}, require: {scopes: [all]}",
    ],
)
def test_what_holds_elsewhere_or_asks_for_consent_does_not(rule: str) -> None:
    found = way(rule)
    assert isinstance(found, Refuse)
    assert found.code is Code.PRIVACY


def test_a_shadow_policy_refuses_nobody() -> None:
    found = way("effect: deny", enforcement="shadow")
    assert isinstance(found, Refuse)
    assert found.code is Code.PRIVACY


def test_what_is_only_observed_refuses_nobody_but_platform_does() -> None:
    observing = {"spec: {interaction": "spec: {mode: observe, interaction"}
    asked = request("GET", PATH, {"sub": "a"})
    for namespace, code in (("default", Code.PRIVACY), ("platform", Code.DENIED)):
        text = POLICY % (namespace, "enforce", "effect: deny")
        found = way_to(asked, snapshot(text, **observing), evidence(ALICE), NOW)
        assert isinstance(found, Refuse)
        assert found.code is code


def test_what_is_not_known_yet_is_wanted_first() -> None:
    found = snapshot(POLICY % ("default", "enforce", "effect: deny, when: subject.risk >= 60.0"))
    asked = request("GET", PATH, {"sub": "a"})
    assert isinstance(way_to(asked, found, evidence(None), NOW), Need)
