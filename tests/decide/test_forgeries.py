"""Attacks on tokens, one by one (RFC 8725 and the public collections of them).

Where it can be, the token is signed by the right key, so that nothing but the attack itself can be why
it is refused; the reason says which check it was.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.documents import ALGORITHMS
from sidecar.decide.keys import parse_jwks
from sidecar.decide.tokens import Issuer, Rejected, Verified, verify

NOW: Final = 1_800_000_000
ISS: Final = "https://idp.example"
RSA: Final = rsa.generate_private_key(65537, 2048)
OTHER: Final = rsa.generate_private_key(65537, 2048)
P256: Final = ec.generate_private_key(ec.SECP256R1())
P384: Final = ec.generate_private_key(ec.SECP384R1())
ED: Final = ed25519.Ed25519PrivateKey.generate()
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED_ORDER: Final = 2**252 + 27742317777372353535851937790883648493


def _jwk(key: Any, kid: str) -> dict[str, Any]:
    kinds: dict[type, Any] = {
        rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
    }
    public = key.public_key()
    [kind] = [found for base, found in kinds.items() if isinstance(public, base)]
    return {**kind.to_jwk(public, as_dict=True), "kid": kid}


KEYS: Final = parse_jwks({
    "keys": [_jwk(RSA, "rsa"), _jwk(P256, "p256"), _jwk(P384, "p384"), _jwk(ED, "ed")]
})  # fmt: skip


def judged(token: bytes, **changed: Any) -> Verified | Rejected:
    """What becomes of a token; `changed` of the issuer that admits it."""
    known = {
        "name": "default/corp", "issuer": ISS, "audiences": frozenset(("bank",)),
        "algorithms": frozenset(ALGORITHMS), "token_types": frozenset(("jwt", "at+jwt")),
        "skew": 30.0, "subject": "sub", "scopes": "scope", "keys": KEYS, "jwks_uri": None,
    }  # fmt: skip
    found = verify(token, {ISS: Issuer(**{**known, **changed})}, {}, float(NOW))
    assert isinstance(found, Verified | Rejected)
    return found


def reason(token: bytes, **changed: Any) -> str:
    """Why it is refused; empty: it stands."""
    found = judged(token, **changed)
    return found.reason if isinstance(found, Rejected) else ""


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def claims(**more: Any) -> dict[str, Any]:
    return {"iss": ISS, "aud": "bank", "sub": "alice", "exp": NOW + 300, **more}


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def signed(header: Any = None, body: Any = None, key: rsa.RSAPrivateKey = RSA) -> bytes:
    """RS256 over exactly these bytes, whatever they say."""
    head = {"alg": "RS256", "kid": "rsa"} if header is None else header
    said = b".".join((b64(_text(head)), b64(_text(claims() if body is None else body))))
    return said + b"." + b64(key.sign(said, padding.PKCS1v15(), hashes.SHA256()))


def header(**more: Any) -> dict[str, Any]:
    return {"alg": "RS256", "kid": "rsa", **more}


def by(algorithm: str, kid: str, sign: Callable[[bytes], bytes]) -> bytes:
    """A token whose signature `sign` makes."""
    said = b".".join((b64(_text({"alg": algorithm, "kid": kid})), b64(_text(claims()))))
    return said + b"." + b64(sign(said))


def test_what_attacks_start_from_stands() -> None:
    assert reason(signed()) == ""
    assert reason(by("ES256", "p256", lambda said: _raw(P256, said, 32))) == ""
    assert reason(by("ES384", "p384", lambda said: _raw(P384, said, 48, hashes.SHA384()))) == ""
    assert reason(by("EdDSA", "ed", ED.sign)) == ""


# -- the algorithm


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "nOnE", "none ", "", "null", "RS256 ", "rs256"]
)
@pytest.mark.parametrize("keep", [True, False])
def test_no_algorithm_by_any_name(name: str, keep: bool) -> None:
    """With a signature and without, which `none` asks for."""
    token = signed(header(alg=name))
    token = token if keep else token.rpartition(b".")[0] + b"."
    assert reason(token) == "algorithm_not_admitted"


@pytest.mark.parametrize("value", [None, 1, ["RS256"], {"alg": "RS256"}, True])
def test_an_algorithm_is_text(value: Any) -> None:
    assert reason(signed(header(alg=value))) == "algorithm_not_admitted"


PEM: Final = RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize(
    "secret", [b"", b"secret", PEM, PEM.strip(), _text(_jwk(RSA, "rsa")), b"AQAB"]
)
def test_a_public_key_is_no_secret(algorithm: str, secret: bytes) -> None:
    digest = f"sha{algorithm[2:]}"
    token = by(algorithm, "rsa", lambda said: hmac.digest(secret, said, digest))
    assert reason(token) == "algorithm_not_admitted"


@pytest.mark.parametrize(("algorithm", "kid"), [
    ("ES256", "rsa"), ("RS256", "p256"), ("RS256", "ed"), ("ES384", "p256"), ("ES256", "p384"),
    ("EdDSA", "p256"), ("ES512", "p384"), ("PS256", "ed"),
])  # fmt: skip
def test_an_algorithm_needs_a_key_of_its_kind(algorithm: str, kid: str) -> None:
    assert reason(by(algorithm, kid, lambda said: bytes(64))) == "key_unknown"


def test_the_issuer_says_which_algorithms_it_uses() -> None:
    assert reason(signed(), algorithms=frozenset(("ES256",))) == "algorithm_not_admitted"


def test_a_signature_of_another_padding_does_not_stand() -> None:
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    sign = lambda said: RSA.sign(said, salted, hashes.SHA256())  # noqa: E731
    assert reason(by("PS256", "rsa", sign)) == ""
    assert reason(by("RS256", "rsa", sign)) == "signature_invalid"


# -- signatures


def _raw(key: Any, said: bytes, size: int, hash_: Any = None) -> bytes:
    r, s = utils.decode_dss_signature(key.sign(said, ec.ECDSA(hash_ or hashes.SHA256())))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


N: Final = P256_ORDER.to_bytes(32, "big")


@pytest.mark.parametrize("forged", [
    bytes(64), bytes(32) + b"\1" * 32, b"\1" * 32 + bytes(32), N + N, N + bytes(32), bytes(32) + N,
    bytes(31) + b"\1" + bytes(31) + b"\1", b"\xff" * 64, b"", bytes(63), bytes(65), bytes(96),
])  # fmt: skip
def test_no_elliptic_signature_out_of_range(forged: bytes) -> None:
    """CVE-2022-21449 and its kind: r or s zero, or not below the order; or of another length."""
    assert reason(by("ES256", "p256", lambda said: forged)) == "signature_invalid"


def test_r_and_s_beyond_the_order_are_not_reduced() -> None:
    def shifted(said: bytes) -> bytes:
        raw = _raw(P256, said, 32)
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        return (r + P256_ORDER).to_bytes(33, "big") + (s + P256_ORDER).to_bytes(33, "big")

    assert reason(by("ES256", "p256", shifted)) == "signature_invalid"


def test_an_elliptic_signature_is_two_numbers_and_not_der() -> None:
    der = by("ES256", "p256", lambda said: P256.sign(said, ec.ECDSA(hashes.SHA256())))
    assert reason(der) == "signature_invalid"


def test_an_edwards_signature_has_one_form() -> None:
    """RFC 8032 section 5.1.7: S is below the order, or the signature could be made another."""

    def shifted(said: bytes) -> bytes:
        raw = ED.sign(said)
        return raw[:32] + (int.from_bytes(raw[32:], "little") + ED_ORDER).to_bytes(32, "little")

    assert reason(by("EdDSA", "ed", shifted)) == "signature_invalid"


@pytest.mark.parametrize("cut", [0, 1, 128, 255])
def test_a_signature_cut_short(cut: int) -> None:
    said, _, signature = signed().rpartition(b".")
    raw = base64.urlsafe_b64decode(signature + b"==")[:cut]
    assert reason(said + b"." + b64(raw)) == "signature_invalid"


@given(st.integers(0, 255), st.integers(1, 255))
def test_no_byte_of_a_signature_may_differ(place: int, by_how_much: int) -> None:
    said, _, signature = signed().rpartition(b".")
    raw = bytearray(base64.urlsafe_b64decode(signature + b"=="))
    raw[place] ^= by_how_much
    assert reason(said + b"." + b64(bytes(raw))) == "signature_invalid"


# -- keys


@pytest.mark.parametrize("kid", [
    "../../../../dev/null", "/dev/null", "rsa' OR '1'='1", "rsa\x00", "RSA", " rsa", "rsa,p256", "",
    "http://127.0.0.1/key", "x" * 5000,
])  # fmt: skip
def test_a_key_id_is_compared_and_nothing_else(kid: str) -> None:
    assert reason(signed(header(kid=kid))) == "key_unknown"


@pytest.mark.parametrize("kid", [1, ["rsa"], {"kid": "rsa"}, True])
def test_a_key_id_is_text(kid: Any) -> None:
    assert reason(signed(header(kid=kid))) == "malformed"


CARRIED: Final = {
    "jwk": _jwk(OTHER, "rsa"), "jku": "https://evil.example/jwks", "x5u": "https://evil.example/c",
    "x5c": ["MIIB"], "x5t": "AAAA", "x5t#S256": "AAAA",
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIED)
def test_a_key_that_the_token_brings_is_not_looked_at(name: str) -> None:
    brought = header(**{name: CARRIED[name]})
    assert reason(signed(brought, key=OTHER)) == "signature_invalid"
    assert reason(signed({**brought, "kid": "mine"}, key=OTHER)) == "key_unknown"
    assert reason(signed(brought)) == ""


def test_weak_keys_verify_nothing() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(ValueError, match="1024 bits"):
        parse_jwks({"keys": [_jwk(weak, "rsa")]})


# -- the header


@pytest.mark.parametrize("more", [
    {"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": ["b64"], "b64": True}, {"crit": None},
    {"crit": "b64"}, {"b64": False}, {"b64": 0}, {"b64": "true"}, {"zip": "DEF"}, {"zip": None},
])  # fmt: skip
def test_no_extension_is_understood(more: dict[str, Any]) -> None:
    assert reason(signed(header(**more))) == "header_not_admitted"


@pytest.mark.parametrize("kind", [
    "id_token", "logout+jwt", "dpop+jwt", "secevent+jwt", "application/dpop+jwt", "JWTs", "", 1, None,
    ["JWT"],
])  # fmt: skip
def test_a_token_of_another_type(kind: Any) -> None:
    assert reason(signed(header(typ=kind))) == "type_not_admitted"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_a_token_of_an_admitted_type(kind: str) -> None:
    assert reason(signed(header(typ=kind))) == ""


def test_access_tokens_only_is_a_setting() -> None:
    """RFC 9068 section 4: an ID token, which says `JWT` or nothing, is no access token."""
    only = frozenset(("at+jwt",))
    assert reason(signed(header(typ="at+jwt")), token_types=only) == ""
    assert reason(signed(header(typ="JWT")), token_types=only) == "type_not_admitted"
    assert reason(signed(), token_types=only) == "type_not_admitted"


@pytest.mark.parametrize("head", [
    b'{"alg":"RS256","alg":"none","kid":"rsa"}', b'{"alg":"none","alg":"RS256","kid":"rsa"}',
    b'{"alg":"RS256","kid":"x","kid":"rsa"}', b'{"alg":"RS256","\\u0061lg":"none","kid":"rsa"}',
    b'\xef\xbb\xbf{"alg":"RS256","kid":"rsa"}', b'{"alg":"RS256","kid":"rsa"}{}', b"[]", b"null", b"",
    b'{"alg":"RS256","kid":"rsa",}', b"{'alg':'RS256'}", b'{"alg":"RS256","kid":"\\ud800"}',
    b'{"alg":"RS256","kid":"rsa","x":' + b"[" * 30 + b"]" * 30 + b"}", b'{"alg":"RS256" "kid":"rsa"}',
])  # fmt: skip
def test_a_header_has_one_reading(head: bytes) -> None:
    assert reason(signed(head)) == "malformed"


# -- the claims


def _body(said: bytes) -> bytes:
    """Claims that stand, and one more member."""
    return _text(claims())[:-1] + b"," + said + b"}"


@pytest.mark.parametrize("said", [
    b'"iss":"https://evil.example"', b'"sub":"bob"', b'"exp":99999999999', b'"x":NaN', b'"x":Infinity',
    b'"x":-Infinity', b'"x":01', b'"x":"\\udc00"', b'"x":"\xff"', b'"x":{"y":1,"y":2}',
    b'"\\u0073ub":"bob"', b'"x":' + b"[" * 17 + b"]" * 17, b'"x":' + b"[" * 3000 + b"]" * 3000,
    b'"x":"a\nb"', b'"x":' + b"9" * 5000,
])  # fmt: skip
def test_claims_have_one_reading(said: bytes) -> None:
    assert reason(signed(body=_body(said))) == "malformed"


@pytest.mark.parametrize(("more", "why"), [
    ({"sub": 7}, "subject_missing"), ({"sub": ["alice"]}, "subject_missing"),
    ({"sub": {"id": "alice"}}, "subject_missing"), ({"sub": ""}, "subject_missing"),
    ({"sub": None}, "subject_missing"), ({"iss": [ISS]}, "issuer_unknown"),
    ({"iss": ISS + "/"}, "issuer_unknown"), ({"iss": ISS.upper()}, "issuer_unknown"),
    ({"iss": None}, "issuer_unknown"), ({"iss": {"iss": ISS}}, "issuer_unknown"),
    ({"aud": None}, "audience_mismatch"), ({"aud": []}, "audience_mismatch"),
    ({"aud": ["bank", 1]}, "audience_mismatch"), ({"aud": {"bank": True}}, "audience_mismatch"),
    ({"aud": "bank,x"}, "audience_mismatch"), ({"aud": "BANK"}, "audience_mismatch"),
    ({"scope": 1}, "malformed"), ({"scope": ["a", 1]}, "malformed"),
    ({"exp": str(NOW + 300)}, "malformed"), ({"exp": True}, "malformed"), ({"exp": None}, "malformed"),
    ({"exp": [NOW]}, "malformed"), ({"exp": 1e300}, "malformed"), ({"exp": 2**53}, "malformed"),
    ({"exp": 2**64 + NOW + 300}, "malformed"), ({"exp": -1}, "expired"), ({"exp": 0}, "expired"),
    ({"exp": NOW - 30}, "expired"), ({"nbf": NOW + 31}, "not_yet_valid"), ({"nbf": "1"}, "malformed"),
    ({"iat": NOW + 31}, "not_yet_valid"), ({"iat": 2**70}, "malformed"), ({"nbf": False}, "malformed"),
])  # fmt: skip
def test_claims_of_another_shape(more: dict[str, Any], why: str) -> None:
    assert reason(signed(body=claims(**more))) == why


# -- the envelope


@pytest.mark.parametrize("wrong", [
    b"%b=", b"%b==", b" %b", b"%b ", b"%b\n", b"\xef\xbb\xbf%b", b"%b.", b".%b", b"%b.x", b'"%b"',
])  # fmt: skip
def test_nothing_stands_beside_a_token(wrong: bytes) -> None:
    token = wrong.replace(b"%b", signed())
    assert reason(token) == "malformed"


def test_base64_has_one_spelling() -> None:
    """The last character's unused bits: the same bytes, another text (RFC 4648 section 3.5)."""
    said, _, signature = signed().rpartition(b".")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1:])
    others = [alphabet[n : n + 1] for n in range(64) if n >> 4 == last >> 4 and n != last]
    assert others
    for other in others:
        assert reason(said + b"." + signature[:-1] + other) == "malformed"


@pytest.mark.parametrize("wrong", [b"+", b"/"])
def test_the_standard_alphabet_is_another(wrong: bytes) -> None:
    said, _, signature = signed().rpartition(b".")
    assert reason(said + b"." + wrong + signature[1:]) == "malformed"


def test_json_serialisation_is_no_compact_token() -> None:
    """RFC 7515 section 7.2."""
    head, body, signature = signed().split(b".")
    whole = {"protected": head.decode(), "payload": body.decode(), "signature": signature.decode()}
    assert reason(_text(whole)) == "malformed"


def test_encrypted_tokens() -> None:
    assert reason(signed() + b".x.y") == "encrypted"


def test_very_large_tokens() -> None:
    assert reason(signed(body=claims(x="x" * 12_000))) == "too_large"
