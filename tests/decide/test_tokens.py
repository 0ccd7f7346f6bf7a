"""Tokens with fetched keys, and forgeries of the envelope."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar.decide.documents import ALGORITHMS
from sidecar.decide.keys import KeySet, parse_jwks
from sidecar.decide.outcomes import NeedKeys
from sidecar.decide.tokens import (
    Issuer,
    KeyState,
    KeysUnavailable,
    Rejected,
    Verified,
    claim,
    verify,
)

NOW = 1_800_000_000.0
ISS = "https://idp.example"
RSA = rsa.generate_private_key(65537, 2048)
EC = {name: ec.generate_private_key(curve) for name, curve in (
    ("ES256", ec.SECP256R1()), ("ES384", ec.SECP384R1()), ("ES512", ec.SECP521R1()),
)}  # fmt: skip
ED = ed25519.Ed25519PrivateKey.generate()


def issuer(keys: KeySet | None = None) -> Issuer:
    return Issuer(
        "default/corp", ISS, frozenset(("bank",)), frozenset(ALGORITHMS), frozenset(("jwt",)), 30.0,
        "sub", "scope", keys, None,
    )  # fmt: skip


def jwk(key: Any, kid: str | None = "k") -> dict[str, Any]:
    match key:
        case rsa.RSAPrivateKey():
            found = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            found = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            found = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": kid} if kid is not None else dict(found)


def claims(**more: Any) -> dict[str, Any]:
    return {"iss": ISS, "aud": "bank", "sub": "alice", "exp": NOW + 300, **more}


def signed(key: Any, algorithm: str, **header: Any) -> bytes:
    headers = {"kid": "k", **header}
    return jwt.encode(claims(), key, algorithm, headers=headers).encode()


def check(token: bytes, *keys: Any, state: KeyState | None = None) -> Any:
    if state is not None:
        return verify(token, {ISS: issuer()}, {ISS: state}, NOW)
    held = parse_jwks({"keys": list(keys)})
    return verify(token, {ISS: issuer(held)}, {}, NOW)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(algorithm: str) -> None:
    key: Any = EC.get(algorithm) or (ED if algorithm == "EdDSA" else RSA)
    result = check(signed(key, algorithm), jwk(key))
    assert isinstance(result, Verified)
    assert result.identity.subject == "alice"
    assert result.expires == NOW + 330


def test_keys_are_needed_then_unavailable_then_used() -> None:
    token = signed(RSA, "RS256")
    assert verify(token, {ISS: issuer()}, {}, NOW) == NeedKeys(ISS)
    assert check(token, state=KeyState(None, NOW + 1, "down")) == KeysUnavailable(ISS)
    assert check(token, state=KeyState(None, NOW, "down")) == NeedKeys(ISS)
    keys = parse_jwks({"keys": [jwk(RSA)]})
    assert isinstance(check(token, state=KeyState(keys, NOW + 1)), Verified)


def test_an_unknown_kid_asks_again_only_after_the_cool_down() -> None:
    keys = parse_jwks({"keys": [jwk(RSA, "old")]})
    token = signed(RSA, "RS256")
    assert check(token, state=KeyState(keys, NOW)) == NeedKeys(ISS, "unknown_kid")
    result = check(token, state=KeyState(keys, NOW + 1))
    assert isinstance(result, Rejected)
    assert result.reason == "key_unknown"


def test_an_unknown_kid_while_the_issuer_is_away_is_not_the_callers_fault() -> None:
    keys = parse_jwks({"keys": [jwk(RSA, "old")]})
    state = KeyState(keys, NOW + 1, "answered 500", NOW - 1)
    assert check(signed(RSA, "RS256"), state=state) == KeysUnavailable(ISS)


def test_a_clock_set_back_does_not_stop_fetching() -> None:
    state = KeyState(None, NOW + 3602, "down", NOW + 3600)
    assert check(signed(RSA, "RS256"), state=state) == NeedKeys(ISS)


def test_junk_is_refused_before_it_costs_a_fetch() -> None:
    expired = jwt.encode({**claims(), "exp": NOW - 31}, RSA, "RS256").encode()
    assert verify(expired, {ISS: issuer()}, {}, NOW) == Rejected(
        "expired", "The token has expired."
    )


def test_a_token_without_kid_tries_the_keys_that_fit() -> None:
    token = jwt.encode(claims(), RSA, "RS256").encode()
    assert isinstance(check(token, jwk(EC["ES256"]), jwk(RSA)), Verified)


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def forged(header: Any, body: Any = None, signature: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    payload = body if isinstance(body, bytes) else json.dumps(body or claims()).encode()
    return b".".join((b64(head), b64(payload), b64(signature)))


def with_hmac(kid: str) -> bytes:
    """HMAC with the public key's PEM as the secret: the classic confusion."""
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = forged({"alg": "HS256", "kid": kid}).rpartition(b".")[0]
    return head + b"." + b64(hmac.new(pem, head, hashlib.sha256).digest())


def der_for_raw() -> bytes:
    head = forged({"alg": "ES256", "kid": "k"}).rpartition(b".")[0]
    from cryptography.hazmat.primitives import hashes

    return head + b"." + b64(EC["ES256"].sign(head, ec.ECDSA(hashes.SHA256())))


GOOD = signed(RSA, "RS256")
HEAD, BODY, SIGNATURE = GOOD.split(b".")
FORGERIES = {
    **{f"alg {alg}": forged({"alg": alg}) for alg in ("none", "None", "NONE", "nOnE", "", "HS256")},
    "no alg": forged({"kid": "k"}),
    "alg is a list": forged({"alg": ["RS256"]}),
    "hmac with the public key": with_hmac("k"),
    "another curve": forged({"alg": "ES384", "kid": "k"}, signature=bytes(96)),
    "ES256 with r and s zero": forged({"alg": "ES256", "kid": "k"}, signature=bytes(64)),
    "ES256 in DER": der_for_raw(),
    "no signature": HEAD + b"." + BODY + b".",
    "signature of another token": HEAD + b"." + b64(json.dumps(claims(sub="bob")).encode()) + b"." + SIGNATURE,
    "padding": GOOD + b"=",
    "white space": HEAD + b"." + BODY + b"\n." + SIGNATURE,
    "standard alphabet": forged({"alg": "RS256"}, signature=b"\xff\xef\xfe").replace(b"-", b"+").replace(b"_", b"/"),
    "trailing bits": b"eyJhbGciOiJSUzI1NiJ8." + BODY + b"." + SIGNATURE,
    "duplicate alg": forged(b'{"alg":"RS256","alg":"none"}'),
    "duplicate iss": forged({"alg": "RS256"}, b'{"iss":"https://idp.example","iss":"x"}'),
    "NaN": forged({"alg": "RS256"}, b'{"iss":"https://idp.example","exp":NaN}'),
    "deep": forged({"alg": "RS256"}, b'{"iss":"https://idp.example","x":' + b"[" * 40 + b"]" * 40 + b"}"),
    "very deep": forged({"alg": "RS256"}, b'{"x":' + b"[" * 4000 + b"]" * 4000 + b"}"),
    "half a surrogate pair": forged({"alg": "RS256"}, b'{"iss":"https://idp.example","sub":"\\ud800"}'),
    "not UTF-8": forged({"alg": "RS256"}, b'{"iss":"\xff"}'),
    "not an object": forged({"alg": "RS256"}, b"[]"),
    "huge number": forged({"alg": "RS256"}, b'{"exp":' + b"9" * 5000 + b"}"),
    "too large": forged({"alg": "RS256"}, {"iss": ISS, "x": "a" * 20_000}),
    "byte order mark": forged(b"\xef\xbb\xbf" + b'{"alg":"RS256"}'),
    "kid is a path": forged({"alg": "RS256", "kid": "../../dev/null"}, signature=b"x"),
    "kid is a number": forged({"alg": "RS256", "kid": 1}),
    "its own key": forged({"alg": "RS256", "jwk": jwk(RSA), "kid": "mine"}, signature=b"x"),
    "its own key's address": forged({"alg": "RS256", "jku": "https://evil.example", "kid": "e"}),
    "b64 false": forged({"alg": "RS256", "b64": False, "crit": ["b64"]}),
    "zip": forged({"alg": "RS256", "zip": "DEF"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries(name: str) -> None:
    result = check(FORGERIES[name], jwk(RSA), jwk(EC["ES256"]))
    assert isinstance(result, Rejected), result


def test_the_token_that_forgeries_start_from_is_good() -> None:
    assert isinstance(check(GOOD, jwk(RSA)), Verified)


@pytest.mark.parametrize(
    ("body", "path", "found"),
    [
        ({"a": 1}, "a", 1),
        ({"a": {"b": 1}}, "a.b", 1),
        ({"a.b": 2, "a": {"b": 1}}, "a.b", 2),
        ({"https://x.example/c": 3}, "https://x.example/c", 3),
        ({"a": 1}, "a.b", None),
        ({}, "a", None),
    ],
)
def test_claim(body: dict[str, Any], path: str, found: Any) -> None:
    assert claim(body, path) == found


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ({"kty": "oct", "k": "AAAA"}, "not one for signatures"),
        ({**jwk(RSA), "use": "enc"}, "not for signatures"),
        ({**jwk(RSA), "key_ops": ["encrypt"]}, "not for verifying"),
        ({**jwk(RSA), "alg": "ES256"}, "does not fit"),
        ({**jwk(RSA), "kid": 7}, "`kid` is not text"),
        ({**jwk(RSA), "alg": ["RS256"]}, "does not fit"),
        ({**jwk(RSA), "alg": {}}, "does not fit"),
        ({**jwk(RSA), "n": 7}, ""),
        ({**jwk(RSA), "e": ["AQAB"]}, ""),
        ({**jwk(RSA), "e": ""}, ""),
        ({**jwk(ED), "x": {}}, ""),
        ({**jwk(RSA), "use": ["sig"]}, "not for signatures"),
        ({"kty": ["RSA"]}, "not one for signatures"),
        (jwk(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (jwk(ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "Coords"),
        ({}, "None"),
        ("x", "not an object"),
    ],
)  # fmt: skip
def test_keys_that_cannot_verify_are_left_out(key: Any, says: str) -> None:
    keys = parse_jwks({"keys": [key, jwk(ED)]})
    assert len(keys.keys) == 1
    assert says in keys.left_out[0]
    with pytest.raises(ValueError, match="without a usable key"):
        parse_jwks({"keys": [key]})


def test_a_private_key_is_held_as_its_public_half() -> None:
    private = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)
    [key] = parse_jwks({"keys": [private]}).keys
    assert isinstance(key.key, rsa.RSAPublicKey)
