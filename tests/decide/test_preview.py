"""What a kind of customer is asked: each way in by itself, up to the end or to where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.parse import Source, parse
from sidecar.decide.preview import Preview, preview
from sidecar.decide.scenario import Scenario
from sidecar.decide.subjects import Subject

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank]}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: terms}
spec: {words: {en: {title: Terms, text: The terms}}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: phone}
spec: {type: phone, words: {en: {label: Phone}}, claims: [phone_number]}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: nick}
spec: {required: false, words: {en: {label: Nickname}}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: pay, match: {methods: [POST], paths: [/pay]}, require: {scopes: [pay]}}
  - name: large
    effect: guard
    match: {methods: [POST], paths: [/pay]}
    when: request.body.amount >= 1000
    require:
      stepUp: {acr: ["urn:mfa"], maxAge: 5m}
      proof: [dpop]
      consent: [terms, {purpose: terms-of-payment, bind: [request.body.amount]}]
      profile: [phone]
  - {name: staff, match: {paths: [/staff]}, require: {segments: [staff]}}
  - {name: open, match: {paths: [/open]}, auth: none}
"""


def played(target: str, amount: int = 0, **more: Any) -> Preview:
    documents, problems = parse([Source("d.yaml", DOCUMENTS)])
    assert not problems
    snapshot = compile_snapshot(documents, namespace="default", labels={})
    method, body = ("POST", b'{"amount": %d}' % amount) if amount else ("GET", b"")
    headers = (("content-type", "application/json"),) if body else ()
    scenario = Scenario(
        method=method, target=target, body=body, headers=headers, now=1_800_000_000.0, **more
    )
    return preview(scenario, snapshot, documents)


def test_a_stranger_is_led_all_the_way() -> None:
    seen = played("/pay", 5000)
    # One login brings all that the token has to carry.
    assert [each.kind for each in seen.steps] == ["authentication", "proof", "consent", "profile"]
    assert seen.steps[1].needs["acr_values"] == ["urn:mfa"]
    assert seen.admitted == "default/p/pay"
    consent = next(each for each in seen.steps if each.kind == "consent")
    assert consent.needs == {
        "consent": ["terms", "terms-of-payment"],
        "transaction": {"terms-of-payment": {"amount": 5000}},
    }
    assert seen.optional == "nick"


def test_less_is_asked_where_less_is_at_stake() -> None:
    seen = played("/pay", 10, claims={"scope": "pay"})
    assert (seen.steps, seen.admitted, seen.optional) == ((), "default/p/pay", "")


def test_what_a_token_says_is_not_asked() -> None:
    claims = {"scope": "pay", "acr": "urn:mfa", "auth_time": 0, "phone_number": "+4930"}
    subject = Subject(consents=frozenset({"terms"}))
    seen = played("/pay", 5000, claims=claims, proof=("dpop",), subject=subject)
    assert [each.kind for each in seen.steps] == ["consent"]
    assert list(seen.known) == ["phone"]
    assert seen.admitted == "default/p/pay"


@pytest.mark.parametrize(
    ("target", "refused"),
    [("/staff", "denied: requirement_unmet"), ("/nothing", "denied: no_rule")],
)
def test_where_there_is_no_way_it_is_said(target: str, refused: str) -> None:
    seen = played(target, claims={})
    assert (seen.steps, seen.admitted, seen.refused) == ((), "", refused)


def test_nobody_is_asked_anything_of_an_open_door() -> None:
    assert played("/open") == Preview(admitted="default/p/open")
