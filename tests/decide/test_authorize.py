"""What is remembered with a request shows in nothing but time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.keys import parse_jwks
from sidecar.decide.outcomes import Need, Outcome, Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.tokens import KeyState
from tests.casebook import ISSUER, jwks, token

NOW = 1_800_000_000.0
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], clockSkew: 0s}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: scoped, match: {paths: [/x]}, require: {scopes: [read]}}
  - {name: open, match: {paths: [/open]}, auth: none}
  - name: timed
    match: {paths: [/timed]}
    auth: none
    when: request.time < timestamp('2027-01-15T08:00:10Z')
"""


def snapshot(text: str = DOCUMENTS) -> Snapshot:
    documents, problems = parse([Source("f", text.replace("https://idp.example", ISSUER))])
    assert not problems
    return compile_snapshot(documents, namespace="default", labels={}, version="v1")


def request(path: str = "/x", credential: str = "") -> Request:
    headers = [(b"authorization", f"Bearer {credential}".encode())] if credential else []
    return Request("GET", path, path.split("/")[1:], None, "h", "h", "http", headers, "192.0.2.1")


def evidence() -> Evidence:
    return Evidence(
        {ISSUER: KeyState(parse_jwks(jwks()), NOW + 10)}, ExpiringCache(10), ExpiringCache(10)
    )


@pytest.fixture
def asked() -> Request:
    return request(credential=token(NOW, {"exp": 60, "scope": "read"}))


def kind(outcome: Outcome) -> type:
    return type(outcome)


def test_the_same_request_again_gets_the_same_permit(asked: Request) -> None:
    held, known = snapshot(), evidence()
    first = authorize(asked, held, known, NOW)
    assert isinstance(first, Permit)
    assert authorize(asked, held, known, NOW + 59) is first
    assert known.tokens.hits == 1


def test_an_expired_token_is_refused_although_remembered(asked: Request) -> None:
    held, known = snapshot(), evidence()
    assert kind(authorize(asked, held, known, NOW)) is Permit
    assert kind(authorize(asked, held, known, NOW + 60)) is Refuse


def test_another_snapshot_decides_anew(asked: Request) -> None:
    known = evidence()
    assert kind(authorize(asked, snapshot(), known, NOW)) is Permit
    assert (
        kind(authorize(asked, snapshot(DOCUMENTS.replace("read", "write")), known, NOW)) is Refuse
    )


def test_other_keys_decide_anew(asked: Request) -> None:
    held, known = snapshot(), evidence()
    assert kind(authorize(asked, held, known, NOW)) is Permit
    gone = replace(known, keys={})
    assert kind(authorize(asked, held, gone, NOW)) is Need


def test_what_reads_the_clock_is_not_remembered() -> None:
    held, known, asked = snapshot(), evidence(), request("/timed")
    assert kind(authorize(asked, held, known, NOW)) is Permit
    assert kind(authorize(asked, held, known, NOW + 11)) is Refuse


def test_nor_is_what_a_bad_credential_was_permitted() -> None:
    """It may be good a moment later (`nbf`, a new key)."""
    guarded = (
        DOCUMENTS
        + "  - {name: member, match: {paths: [/open]}, require: {scopes: [read]}}\n"
        + '  - {name: known, effect: guard, match: {paths: [/open]}, when: "has(token.bad)"}\n'
    )
    held, known, asked = snapshot(guarded), evidence(), request("/open", "not a token")
    assert kind(authorize(asked, held, known, NOW)) is Permit
    assert asked.memo is None


def test_a_remembered_permit_keeps_no_snapshot_alive(asked: Request) -> None:
    import gc
    import weakref

    held, known = snapshot(), evidence()
    authorize(asked, held, known, NOW)

    class Canary:
        pass

    routes = held.routes
    canary = Canary()
    routes._found[("", "", "")] = canary  # type: ignore[assignment]
    alive = weakref.ref(canary)
    known.decisions.clear()  # as the authorizer does with each new snapshot
    del held, routes, canary
    gc.collect()
    assert alive() is None
