"""Bound tokens: refused without what they are bound to, whatever rules ask, and each proof once."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from sidecar.decide import challenge
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.nonces import current
from sidecar.decide.outcomes import Code, Outcome, Permit, Refuse, RememberProof
from sidecar.decide.request import Request, canonical_target
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.workloads import Certificate
from tests.casebook import documents, token
from tests.proofs import Prover

NOW: Final = 1_800_000_000.0
ALGS: Final = "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA"
DOCUMENTS: Final = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {inline: $JWKS}}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {%s}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: any, match: {paths: [/any]}}
  - {name: optional, match: {paths: [/optional]}, auth: optional}
  - {name: open, match: {paths: [/open]}, auth: none}
  - {name: keyed, match: {paths: [/keyed]}, require: {proof: [dpop]}}
  - {name: certified, match: {paths: [/certified]}, require: {proof: [mtls]}}
  - {name: bound, match: {paths: [/bound]}, require: {proof: [dpop, mtls], scopes: [pay]}}
  - {name: guarded, match: {paths: [/guarded]}}
  - {name: g, effect: guard, match: {paths: [/guarded]}, require: {proof: [dpop, mtls]}}
"""
ME: Final = Prover()
SHOWN: Final = Certificate("c" * 43)
OTHER: Final = Certificate("d" * 43)


def snapshot(service: str = "") -> Snapshot:
    found = documents(DOCUMENTS % service)
    return compile_snapshot(found, namespace="default", labels={})


PLAIN: Final = snapshot()


def evidence(**more: Any) -> Evidence:
    return Evidence({}, ExpiringCache(100), ExpiringCache(100), **more)


def bearer(cnf: Any = None, **more: Any) -> str:
    return token(NOW, {**more} if cnf is None else {"cnf": cnf, **more})


KEYED: Final = bearer({"jkt": ME.thumbprint})
CERTIFIED: Final = bearer({"x5t#S256": SHOWN.thumbprint})
BOTH: Final = bearer({"jkt": ME.thumbprint, "x5t#S256": SHOWN.thumbprint})


def request(
    credential: str = "", path: str = "/any", scheme: str = "Bearer", *,
    proofs: tuple[bytes, ...] = (), certificate: Certificate | None = None,
) -> Request:  # fmt: skip
    canonical, segments, query = canonical_target(path.encode())
    headers = [(b"authorization", f"{scheme} {credential}".encode())] if credential else []
    headers += [(b"dpop", proof) for proof in proofs]
    return Request(
        "GET", canonical, segments, query, "bank.example", "bank.example", "https", headers,
        "192.0.2.1", certificate=certificate,
    )  # fmt: skip


def proven(
    credential: str = KEYED,
    path: str = "/any",
    *,
    certificate: Certificate | None = None,
    **more: Any,
) -> Request:
    proof = ME.proof("GET", f"https://bank.example{path}", credential, NOW, **more)
    return request(credential, path, "DPoP", proofs=(proof,), certificate=certificate)


def decided(
    asked: Request,
    held: Snapshot = PLAIN,
    known: Evidence | None = None,
    now: float = NOW,
    **more: Any,
) -> Outcome:
    return authorize(asked, held, known or evidence(), now, **more)


def refused(asked: Request, held: Snapshot = PLAIN, **more: Any) -> tuple[int, str, str, str]:
    """Status, code, reason and challenge."""
    outcome = decided(asked, held, **more)
    assert isinstance(outcome, Refuse), outcome
    answer = challenge.refusal(outcome, asked, "d1")
    found = dict(answer.headers).get(b"www-authenticate", b"").decode()
    return answer.status, outcome.code.value, outcome.reason, found


# -- bound to a key


def test_a_bound_token_with_its_proof() -> None:
    outcome = decided(proven(jti="once"))
    assert isinstance(outcome, Permit)
    assert outcome.effects == (RememberProof(ME.thumbprint, "once", NOW, 60.0),)
    assert outcome.identity is not None


@pytest.mark.parametrize("path", ["/any", "/optional", "/keyed", "/guarded"])
def test_a_bound_token_without_its_proof(path: str) -> None:
    """Whether or not a rule asks for one."""
    error = (
        'error="invalid_token", error_description="The token is bound to a key: it needs the scheme'
    )
    status, code, reason, said = refused(request(KEYED, path))
    assert (status, code, reason) == (401, "invalid_token", "proof_missing")
    assert said == f'DPoP realm="bank", {error} DPoP and a proof.", algs="{ALGS}"'
    status, code, reason, said = refused(request(KEYED, path, "DPoP"))
    assert (status, code, reason) == (401, "invalid_dpop_proof", "proof_missing")
    assert said.startswith('DPoP realm="bank", error="invalid_dpop_proof"')


def test_the_scheme_says_what_the_token_is() -> None:
    """RFC 9449 sections 7.1 and 7.2: no downgrade, with a proof or without one."""
    proof = ME.proof("GET", "https://bank.example/any", KEYED, NOW)
    assert refused(request(KEYED, proofs=(proof,)))[2] == "proof_missing"
    plain = bearer()
    proof = ME.proof("GET", "https://bank.example/any", plain, NOW)
    assert refused(request(plain, scheme="DPoP", proofs=(proof,)))[2] == "not_key_bound"
    assert refused(request(CERTIFIED, scheme="DPoP", certificate=SHOWN))[2] == "not_key_bound"
    assert isinstance(decided(request(plain, proofs=(b"junk",))), Permit), "it is bound to nothing"


def test_the_scheme_in_another_spelling() -> None:
    asked = proven()
    asked.headers[0] = (b"authorization", b"dPoP   " + KEYED.encode())
    assert isinstance(decided(asked), Permit)


def test_in_a_cookie_or_a_header_of_another_name_it_has_no_scheme() -> None:
    held = snapshot("credentials: [{header: x-token}, {cookie: sid}]")
    proof = ME.proof("GET", "https://bank.example/any", KEYED, NOW)
    for name, value in ((b"x-token", KEYED), (b"cookie", f"sid={KEYED}")):
        asked = request(proofs=(proof,))
        asked.headers.append((name, value.encode()))
        assert refused(asked, held)[2] == "proof_missing"
    asked = request(proofs=(proof,))
    asked.headers.append((b"x-token", b"DPoP " + KEYED.encode()))
    assert isinstance(decided(asked, held), Permit)


@pytest.mark.parametrize("cnf", [
    {}, [], "x", 1, True, None, {"jkt": None}, {"jkt": 1}, {"jkt": ""}, {"jkt": "x"}, {"jkt": ME.thumbprint + "="},
    {"jkt": [ME.thumbprint]}, {"x5t#S256": ""}, {"jkt": ME.thumbprint, "x5t#S256": None},
])  # fmt: skip
def test_a_binding_that_cannot_be_read(cnf: Any) -> None:
    credential = bearer(**{"cnf": cnf}) if cnf is not None else _null()
    assert refused(request(credential))[2] == "binding_malformed"
    assert refused(request(credential, certificate=SHOWN))[2] == "binding_malformed"


def _null() -> str:
    """`token` leaves out what is None."""
    import json

    import jwt

    from tests.casebook import ISSUER, ed25519_key

    claims = {"iss": ISSUER, "aud": "bank", "sub": "alice", "exp": NOW + 300, "cnf": None}
    return jwt.PyJWS().encode(json.dumps(claims).encode(), ed25519_key(), "EdDSA", {"kid": "ed"})


@pytest.mark.parametrize("more", [
    {"jwk": ME.jwk}, {"kid": "k"}, {"jwe": "x"}, {"jku": "https://x"}, {"x5t": "x"}, {"osc": {}},
])  # fmt: skip
def test_a_binding_that_is_not_known(more: dict[str, Any]) -> None:
    """Alone, or beside one that is: all of it would have to be proven."""
    assert refused(request(bearer(more)))[2] == "binding_unknown"
    both = bearer({"jkt": ME.thumbprint, **more})
    assert refused(proven(both))[2] == "binding_unknown"


def test_a_proof_of_another_key_token_or_request() -> None:
    thief = Prover()
    stolen = thief.proof("GET", "https://bank.example/any", KEYED, NOW)
    assert refused(request(KEYED, scheme="DPoP", proofs=(stolen,)))[1:3] == (
        "invalid_dpop_proof", "proof_key_mismatch",
    )  # fmt: skip
    elsewhere = ME.proof("GET", "https://bank.example/open", KEYED, NOW)
    assert refused(request(KEYED, scheme="DPoP", proofs=(elsewhere,)))[2] == "proof_target"
    two = (ME.proof("GET", "https://bank.example/any", KEYED, NOW),) * 2
    assert refused(request(KEYED, scheme="DPoP", proofs=two))[2] == "proof_repeated"


# -- bound to a certificate


def test_a_token_bound_to_a_certificate() -> None:
    outcome = decided(request(CERTIFIED, certificate=SHOWN))
    assert isinstance(outcome, Permit)
    assert outcome.effects == ()
    assert refused(request(CERTIFIED))[1:3] == ("invalid_token", "certificate_missing")
    status, code, reason, said = refused(request(CERTIFIED, certificate=OTHER))
    assert (status, code, reason) == (401, "invalid_token", "certificate_mismatch")
    assert said.startswith('Bearer realm="bank", error="invalid_token"')


def test_a_token_bound_to_both_needs_both() -> None:
    assert isinstance(decided(proven(BOTH, certificate=SHOWN)), Permit)
    assert refused(proven(BOTH))[2] == "certificate_missing"
    assert refused(proven(BOTH, certificate=OTHER))[2] == "certificate_mismatch"
    assert refused(request(BOTH, certificate=SHOWN))[2] == "proof_missing"


def test_the_same_bytes_over_another_connection() -> None:
    """What is remembered of a caller's token says nothing of another one's certificate."""
    known = evidence()
    for _ in range(3):
        assert isinstance(decided(request(CERTIFIED, certificate=SHOWN), known=known), Permit)
        assert (
            refused(request(CERTIFIED, certificate=OTHER), known=known)[2] == "certificate_mismatch"
        )
        assert refused(request(CERTIFIED), known=known)[2] == "certificate_missing"


# -- what rules ask


def test_a_rule_that_asks_for_a_proof() -> None:
    assert isinstance(decided(proven(path="/keyed")), Permit)
    assert isinstance(decided(request(CERTIFIED, "/certified", certificate=SHOWN)), Permit)
    for asked in (proven(path="/guarded"), request(CERTIFIED, "/guarded", certificate=SHOWN)):
        assert isinstance(decided(asked), Permit)


def test_a_certificate_or_a_proof_beside_an_unbound_token_proves_nothing() -> None:
    plain = bearer()
    proof = ME.proof("GET", "https://bank.example/guarded", plain, NOW)
    for path in ("/keyed", "/certified", "/guarded"):
        asked = request(plain, path, proofs=(proof,), certificate=SHOWN)
        assert refused(asked)[1:3] == ("invalid_token", "proof_required")


@pytest.mark.parametrize(("path", "said"), [
    ("/any", 'Bearer realm="bank"'), ("/keyed", f'DPoP realm="bank", algs="{ALGS}"'),
    ("/certified", 'Bearer realm="bank"'),
    ("/bound", f'Bearer realm="bank", scope="pay", DPoP realm="bank", scope="pay", algs="{ALGS}"'),
    ("/guarded", f'Bearer realm="bank", DPoP realm="bank", algs="{ALGS}"'),
])  # fmt: skip
def test_challenges_name_the_scheme_that_is_wanted(path: str, said: str) -> None:
    assert refused(request(path=path)) == (401, "authentication_required", "no_credential", said)


def test_a_challenge_asks_for_all_that_the_token_must_carry() -> None:
    asked = request(bearer(), "/bound")
    outcome = decided(asked)
    assert isinstance(outcome, Refuse)
    body = orjson.loads(challenge.refusal(outcome, asked, "d1").body)
    assert body["challenge"] == {
        "kind": "proof",
        "needs": {"scopes": ["pay"], "proof": ["dpop", "mtls"]},
    }
    assert refused(request(bearer(), "/keyed"))[3].startswith(
        'DPoP realm="bank", error="invalid_token"'
    )
    assert refused(request(bearer(), "/certified"))[3].startswith(
        'Bearer realm="bank", error="invalid_token"'
    )
    enough = bearer({"jkt": ME.thumbprint}, scope="pay")
    assert isinstance(decided(proven(enough, "/bound")), Permit)
    assert refused(proven(path="/bound"))[:3] == (403, "insufficient_scope", "scope_missing")
    assert refused(proven(path="/bound"))[3].startswith(
        'DPoP realm="bank", error="insufficient_scope"'
    )


def test_a_service_may_offer_the_scheme_to_everybody() -> None:
    held = snapshot("dpop: {algorithms: [ES256, EdDSA]}")
    said = refused(request(), held)[3]
    assert said == 'Bearer realm="bank", DPoP realm="bank", algs="ES256 EdDSA"'
    rs = proven()
    assert isinstance(decided(rs, held), Permit)


# -- caches, limits, second thoughts


def test_every_proof_is_checked_however_well_the_caller_is_known() -> None:
    used: set[str] = set()
    known = evidence(replayed=lambda proof: proof.jti in used)
    asked = proven()
    for _ in range(3):  # warm: token, decision, request
        outcome = decided(asked, known=known)
        assert isinstance(outcome, Permit)
        assert outcome.effects, "it is for whoever commits to say that it is the first"
        assert asked.memo is None
        [effect] = outcome.effects
    assert isinstance(effect, RememberProof)
    used.add(effect.jti)
    assert refused(asked, known=known)[1:3] == ("invalid_dpop_proof", "proof_replayed")
    fresh = decided(proven(), known=known)
    assert isinstance(fresh, Permit)
    assert fresh.effects != (effect,)
    assert refused(request(KEYED, scheme="DPoP"), known=known)[2] == "proof_missing"
    assert refused(asked, known=known, now=NOW + 61)[2] == "proof_expired"


def test_beyond_the_limit_no_signature_of_a_proof_is_checked() -> None:
    known = evidence()
    assert isinstance(decided(proven(), known=known), Permit)
    limited = Evidence({}, known.tokens, known.decisions, lambda address, rate, now: 7.5)
    outcome = decided(proven(), known=limited)
    assert isinstance(outcome, Refuse)
    assert (outcome.code, outcome.retry_after) == (Code.TOO_MANY_REQUESTS, 8)
    assert refused(request(KEYED, scheme="DPoP"), known=limited)[2] == "proof_missing", (
        "which is free"
    )
    assert isinstance(decided(request(CERTIFIED, certificate=SHOWN), known=evidence()), Permit)


def test_what_goes_on_is_held_to_all_but_its_time() -> None:
    asked = proven()
    assert refused(asked, now=NOW + 200)[2] == "proof_expired"
    again = decided(asked, now=NOW + 200, reviewed=True)
    assert isinstance(again, Permit)
    assert again.effects == ()
    assert refused(asked, now=NOW + 200)[2] == "proof_expired", "and that shows nowhere else"
    assert asked.memo is None
    assert refused(request(KEYED, scheme="DPoP"), reviewed=True)[2] == "proof_missing"


# -- nonces


def test_a_nonce_is_asked_for_told_and_renewed() -> None:
    held = snapshot("dpop: {nonce: required, maxAge: 30s}")
    known = evidence(nonce_key=b"k" * 32)
    nonce = current(b"k" * 32, 30.0, NOW)
    asked = proven()
    outcome = decided(asked, held, known)
    assert isinstance(outcome, Refuse)
    headers = dict(challenge.refusal(outcome, asked, "d1").headers)
    assert headers[b"dpop-nonce"] == nonce.encode()
    assert headers[b"www-authenticate"].startswith(b'DPoP realm="bank", error="use_dpop_nonce"')
    assert headers[b"cache-control"] == b"no-store"
    permit = decided(proven(nonce=nonce), held, known)
    assert isinstance(permit, Permit)
    assert permit.nonce == "", "nothing new to say"
    later = NOW + 30
    permit = decided(proven(nonce=nonce, iat=later), held, known, now=later)
    assert isinstance(permit, Permit)
    assert permit.nonce == current(b"k" * 32, 30.0, later)
    lacking = decided(proven(path="/bound", nonce=nonce, iat=later), held, known, now=later)
    assert isinstance(lacking, Refuse)
    assert (lacking.code, lacking.nonce) == (Code.INSUFFICIENT_SCOPE, permit.nonce)
    stale = decided(proven(nonce="stale"), held, known)
    assert isinstance(stale, Refuse)
    assert (stale.code, stale.reason, stale.nonce) == (Code.NONCE, "proof_nonce", nonce)
