"""Opaque tokens: who is asked, what an answer is worth, what never compiles."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot, validate
from sidecar.decide.credentials import Location
from sidecar.decide.introspection import (
    INACTIVE,
    Introspector,
    Unknown,
    held,
    key_of,
    overlap,
    read,
    whose,
)
from sidecar.decide.outcomes import Need, NeedIntrospection, Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.tokens import Rejected, Verified
from sidecar.errors import DocumentsInvalid
from tests.casebook import token

from .test_authorize import request

NOW = 1_800_000_000.0
IDP = "https://idp.example"
ISSUER = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: NAME}
spec:
  issuer: ISS
  audiences: [bank]
  introspection: {endpoint: "https://idp.example/introspect", clientId: sidecar, MORE}
---
"""
SECRET = "clientSecret: {fromFile: /run/secrets/idp}"
POLICY = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: scoped, match: {paths: [/x]}, require: {scopes: [read]}}
---
"""
KEY = """
apiVersion: authz.sidecar/v1
kind: ApiKey
metadata: {name: key}
spec: {id: opq_key, hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}
---
"""


def issuer(more: str = SECRET, name: str = "corp", iss: str = IDP) -> str:
    text = ISSUER.replace("NAME", name).replace("ISS", iss)
    return text.replace("MORE", more)


def snapshot(text: str) -> Snapshot:
    documents, problems = parse([Source("f.yaml", text)])
    assert not problems
    return compile_snapshot(documents, namespace="default", labels={})


def problems(text: str) -> list[str]:
    documents, found = parse([Source("f.yaml", text)])
    found = [*found, *validate(documents)]
    with pytest.raises(DocumentsInvalid):
        compile_snapshot(documents, namespace="default", labels={})
    return [str(each) for each in found if not each.warning]


def introspector(more: str = SECRET) -> Introspector:
    (found,) = snapshot(issuer(more)).introspectors
    return found


def body(**claims: Any) -> bytes:
    full = {
        "active": True, "sub": "alice", "aud": "bank", "exp": int(NOW) + 600, "scope": "read",
        **claims,
    }  # fmt: skip
    return json.dumps({name: each for name, each in full.items() if each != "absent"}).encode()


def answer(raw: bytes, asked: Introspector | None = None) -> Any:
    return read(raw, asked or introspector(), b"opq_1", NOW)


# Who is asked.


def test_what_is_no_jwt_is_asked_about() -> None:
    asked = introspector()
    assert whose(b"opaque", None, [asked]) is asked
    assert whose(b"ya29.a0Af", None, [asked]) is asked
    assert whose(b"a.b.c", None, [asked]) is None
    assert whose(b"a.b.c.d.e", None, [asked]) is None
    assert whose(b"opaque", None, []) is None


def test_a_prefix_says_so_of_whatever_form() -> None:
    asked = introspector(SECRET + ", tokenPrefix: opq_")
    assert whose(b"opq_a.b.c", None, [asked]) is asked
    assert whose(b"other", None, [asked]) is None


def test_a_location_says_so_too() -> None:
    asked = introspector(SECRET + ", location: {header: X-Session}")
    assert whose(b"t", Location(b"x-session"), [asked]) is asked
    assert whose(b"t", Location(b"authorization"), [asked]) is None
    cookie = introspector(SECRET + ", location: {cookie: sid}")
    assert whose(b"t", Location(b"sid", cookie=True), [cookie]) is cookie
    assert whose(b"t", Location(b"sid"), [cookie]) is None


A, AB, B = (SECRET + f", tokenPrefix: {each}" for each in ("a_", "a_b", "b_"))
HERE, THERE = (SECRET + f", location: {{header: {each}}}" for each in ("here", "there"))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (SECRET, SECRET, True),
        (SECRET, A, True),
        (A, AB, True),
        (A, B, False),
        (HERE, THERE, False),
        (HERE, HERE, True),
        (HERE, A, True),
        (HERE + ", tokenPrefix: a_", HERE + ", tokenPrefix: b_", False),
        (HERE + ", tokenPrefix: a_", THERE + ", tokenPrefix: a_", False),
    ],
)
def test_two_issuers_that_could_be_asked_about_the_same_do_not_compile(
    one: str, other: str, both: bool
) -> None:
    text = issuer(one) + issuer(other, "second", "https://second.example")
    assert overlap(introspector(one), introspector(other)) is both
    if both:
        (found,) = problems(text)
        assert "f.yaml:17:18: error: TokenIssuer/default/corp could be asked" in found
    else:
        assert len(snapshot(text).introspectors) == 2


@pytest.mark.parametrize("more", [SECRET, SECRET + ", tokenPrefix: opq_"])
def test_an_api_key_that_could_be_one_of_its_tokens_does_not_compile(more: str) -> None:
    (found,) = problems(issuer(more) + KEY)
    assert "ApiKey/default/key could be taken for one of its tokens" in found


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "one way to authenticate"),
        (SECRET + ", privateKey: {fromFile: /run/secrets/k}", "one way to authenticate"),
        ("certificate: {fromFile: /run/secrets/c}", "one way to authenticate"),
        ("clientSecret: {}", "exactly one of fromFile and fromEnv"),
        ("clientSecret: {fromFile: secrets/idp}", "not an absolute path"),
        ("clientSecret: {fromFile: /run/secrets/../x}", "not an absolute path"),
        ("clientSecret: {fromEnv: HOME}", "not the name of a secret"),
        (
            "certificate: {fromEnv: SIDECAR_SECRET_C}, privateKey: {fromFile: /run/secrets/k}",
            "from a file only",
        ),
        (SECRET + ", tokenPrefix: 'a b'", "is not a prefix"),
        (SECRET + ", tokenPrefix: eyJhbGci", "is how JWTs begin"),
        (SECRET + ", tokenPrefix: ey", "is how JWTs begin"),
        (SECRET + ", tokenPrefix: e", "is how JWTs begin"),
        (SECRET + ", cache: 2h", "more than 1h"),
        (SECRET + ", negativeCache: 2h", "more than 1h"),
        (SECRET + ", location: {}", "exactly one of header and cookie"),
    ],
)
def test_mistakes_are_said_with_their_place(more: str, said: str) -> None:
    found = problems(issuer(more))
    assert any(said in each and each.startswith("f.yaml:") for each in found), found


def test_an_endpoint_is_https() -> None:
    text = issuer().replace("https://idp.example/introspect", "http://idp.example/introspect")
    assert any("https address is expected" in each for each in problems(text))


@pytest.mark.parametrize(
    ("more", "method"),
    [
        (SECRET, "client_secret_basic"),
        ("clientSecret: {fromEnv: SIDECAR_SECRET_IDP}", "client_secret_basic"),
        ("privateKey: {fromEnv: SIDECAR_SECRET_IDP}", "private_key_jwt"),
        (
            "certificate: {fromFile: /run/secrets/c}, privateKey: {fromFile: /run/secrets/k}",
            "tls_client_auth",
        ),
    ],
)
def test_how_to_authenticate_follows_from_what_is_given(more: str, method: str) -> None:
    assert introspector(more).method == method


# What an answer is worth.


def test_an_active_token_is_believed_for_the_setting_and_no_longer_than_it_lasts() -> None:
    found = answer(body(tier="gold", jti="j"))
    assert isinstance(found, Verified)
    assert (found.identity.issuer, found.identity.subject) == (IDP, "alice")
    assert found.identity.scopes == {"read"}
    assert (found.expires, found.ends) == (NOW + 30, NOW + 630)
    assert found.claims["tier"] == "gold"
    assert found.claims["iss"] == IDP
    assert "active" not in found.claims
    assert held(found, introspector(), NOW) == NOW + 30
    short = answer(body(exp=int(NOW) - 20))  # within the skew
    assert (short.expires, short.ends) == (NOW + 10, NOW + 10)
    endless = answer(body(exp="absent"))
    assert (endless.expires, endless.ends) == (NOW + 30, float("inf"))


def test_inactive_is_inactive_whatever_else_is_said() -> None:
    assert answer(b'{"active": false, "sub": "alice"}') is INACTIVE
    assert held(INACTIVE, introspector(), NOW) == NOW + 5


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b"true", b"{}", b"not json", b'{"active": "true"}', b'{"active": 1}',
        b'{"active": null}', b'{"active": false, "active": true}', b'{"active": true} x',
        b'{"active": true, "sub": "\xff"}', b'{"active":true,"x":' + b"[" * 200 + b"]" * 200 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_answer_says_nothing(raw: bytes) -> None:
    found = answer(raw)
    assert isinstance(found, Unknown)
    assert held(found, introspector(), NOW) == NOW + 1


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://other.example"}, "issuer_unknown"),
        ({"iss": None}, "issuer_unknown"),
        ({"aud": "other"}, "audience_mismatch"),
        ({"aud": "absent"}, "audience_mismatch"),
        ({"aud": None}, "audience_mismatch"),
        ({"aud": [7]}, "audience_mismatch"),
        ({"exp": int(NOW) - 30}, "expired"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"nbf": int(NOW) + 31}, "not_yet_valid"),
        ({"sub": "absent"}, "subject_missing"),
        ({"sub": ""}, "subject_missing"),
        ({"sub": 7}, "subject_missing"),
        ({"scope": 7}, "malformed"),
        ({"token_type": "refresh_token"}, "type_not_admitted"),
        ({"token_type": "N_A"}, "type_not_admitted"),
        ({"token_type": None}, "type_not_admitted"),
        ({"token_use": "refresh_token"}, "type_not_admitted"),
        ({"token_use": "id"}, "type_not_admitted"),
    ],
)
def test_an_active_token_may_be_none_for_us(claims: dict[str, Any], reason: str) -> None:
    found = answer(body(**claims))
    assert isinstance(found, Rejected)
    assert found.reason == reason


def test_an_audience_may_be_left_to_the_issuer() -> None:
    asked = introspector(SECRET + ", audience: insecureIfPresent")
    assert isinstance(answer(body(aud="absent"), asked), Verified)
    assert isinstance(answer(body(aud="other"), asked), Rejected)


def test_a_client_has_no_subject_unless_the_document_says_where() -> None:
    assert isinstance(answer(body(sub="absent", client_id="c")), Rejected)
    text = issuer().replace("audiences:", "claims: {subject: client_id}\n  audiences:")
    (asked,) = snapshot(text).introspectors
    found = answer(body(sub="absent", client_id="c"), asked)
    assert found.identity.subject == "c"


# In a decision.


def evidence(asking: bool = False, wait: float = 0.0) -> Evidence:
    return Evidence(
        {}, ExpiringCache(10), ExpiringCache(10), lambda *_: wait,
        answers=ExpiringCache(10), asking=lambda _: asking,
    )  # fmt: skip


HELD = snapshot(issuer() + POLICY)


def wanted(known: Evidence, credential: str = "opaque", held_: Snapshot = HELD) -> Any:
    return authorize(request(credential=credential), held_, known, NOW)


def test_it_needs_an_answer_and_shows_no_token() -> None:
    outcome = wanted(evidence())
    assert isinstance(outcome, Need)
    (want,) = outcome.wants
    assert isinstance(want, NeedIntrospection)
    assert (want.issuer, want.token, want.address) == (IDP, b"opaque", "192.0.2.1")
    assert want.key == key_of(HELD.introspectors[0], b"opaque")
    assert "opaque" not in repr(outcome)


def test_with_an_answer_it_decides() -> None:
    known = evidence()
    asked = HELD.introspectors[0]
    known.answers.put(key_of(asked, b"opaque"), answer(body(), asked), NOW + 30)
    assert isinstance(wanted(known), Permit)
    known.answers.put(key_of(asked, b"opaque"), answer(body(scope=""), asked), NOW + 30)
    refuse = wanted(known)
    assert isinstance(refuse, Refuse)
    assert refuse.code == "insufficient_scope"
    known.answers.put(key_of(asked, b"opaque"), INACTIVE, NOW + 5)
    assert wanted(known).reason == "introspection_inactive"
    known.answers.put(key_of(asked, b"opaque"), Unknown("down"), NOW + 1)
    refuse = wanted(known)
    assert (refuse.code, refuse.reason) == ("unavailable", "introspection_unavailable")


def test_a_permit_lasts_as_long_as_the_answer() -> None:
    known, asked = evidence(), request(credential="opaque")
    introspector_ = HELD.introspectors[0]
    key = key_of(introspector_, b"opaque")
    known.answers.put(key, answer(body(), introspector_), NOW + 30)
    assert isinstance(authorize(asked, HELD, known, NOW), Permit)
    assert isinstance(authorize(asked, HELD, known, NOW + 29.9), Permit)
    assert isinstance(authorize(asked, HELD, known, NOW + 30), Need)


def test_an_address_that_asks_too_much_or_fails_too_often_is_told_to_wait() -> None:
    for known in (evidence(asking=True), evidence(wait=3.0)):
        refuse = wanted(known)
        assert isinstance(refuse, Refuse)
        assert refuse.code == "too_many_requests"
        assert refuse.reason == (
            "introspection_crowded" if known.asking("") else "failed_credentials"
        )
        # Nobody keeps a tunnel open that way.
        again = authorize(request(credential="opaque"), HELD, known, NOW, reviewed=True)
        assert isinstance(again, Need)
    # What is known already passes.
    known = evidence(asking=True, wait=3.0)
    asked = HELD.introspectors[0]
    known.answers.put(key_of(asked, b"opaque"), answer(body(), asked), NOW + 30)
    assert isinstance(wanted(known), Permit)


def test_another_description_of_the_issuer_asks_anew() -> None:
    other = snapshot(issuer(SECRET + ", cache: 10s") + POLICY).introspectors[0]
    assert key_of(other, b"t") != key_of(HELD.introspectors[0], b"t")


def test_nobody_is_asked_about_what_is_too_large() -> None:
    assert wanted(evidence(), "x" * 20_000).reason == "too_large"


def test_a_jwt_is_checked_here() -> None:
    outcome = wanted(evidence(), token(NOW, {"exp": 60}))
    assert isinstance(outcome, Need)
    assert not isinstance(outcome.wants[0], NeedIntrospection)


def test_withdrawn_by_what_the_answer_says() -> None:
    from sidecar.decide.revocations import Revocation, target

    known, asked = evidence(), HELD.introspectors[0]
    known.answers.put(key_of(asked, b"opaque"), answer(body(jti="j1"), asked), NOW + 30)
    known.revocations.add([Revocation(target("token", IDP, "j1"), None, NOW + 60)])
    assert wanted(known).reason == "revoked"


def test_an_answer_weighs_what_it_keeps() -> None:
    small, large = answer(body()), answer(body(groups=["g" * 50] * 1000))
    assert large.weight - small.weight > 200_000


def test_nobody_is_asked_about_nothing() -> None:
    refuse = wanted(evidence(), "")
    assert isinstance(refuse, Refuse)
    assert refuse.code in ("invalid_token", "authentication_required")


def test_bound_to_nothing_that_anybody_knows() -> None:
    assert answer(body(token_type="DPoP")).reason == "binding_malformed"
    assert isinstance(answer(body(token_type="Bearer")), Verified)


def test_replacing_keeps_it_frozen() -> None:
    asked = introspector()
    assert replace(asked, cache=1.0).cache == 1.0


# RFC 9068 by setting.


@pytest.mark.parametrize(
    ("claims", "header", "reason"),
    [
        ({}, {"typ": "at+jwt"}, ""),
        ({}, {"typ": "application/at+jwt"}, ""),
        ({}, {"typ": "JWT"}, "type_not_admitted"),
        ({}, {}, "type_not_admitted"),
        ({"client_id": None}, {"typ": "at+jwt"}, "malformed"),
        ({"client_id": 7}, {"typ": "at+jwt"}, "malformed"),
        ({"jti": None}, {"typ": "at+jwt"}, "malformed"),
        ({"iat": None}, {"typ": "at+jwt"}, "malformed"),
        ({"sub": None}, {"typ": "at+jwt"}, "subject_missing"),
    ],
)
def test_access_tokens_by_their_profile(
    claims: dict[str, Any], header: dict[str, Any], reason: str
) -> None:
    from sidecar.decide.keys import parse_jwks
    from sidecar.decide.tokens import KeyState
    from tests.casebook import jwks

    text = issuer().replace("audiences:", "profile: rfc9068\n  audiences:")
    known = Evidence(
        {IDP: KeyState(parse_jwks(jwks()), NOW + 10)}, ExpiringCache(10), ExpiringCache(10)
    )
    full = {"exp": 60, "scope": "read", "client_id": "c", "jti": "j", **claims}
    header = {"typ": None, **header}
    outcome = wanted(known, token(NOW, full, header), snapshot(text + POLICY))
    if reason:
        assert isinstance(outcome, Refuse)
        assert outcome.reason == reason
    else:
        assert isinstance(outcome, Permit)
