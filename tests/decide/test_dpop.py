"""Attacks on DPoP proofs, one by one (RFC 9449 sections 4.3 and 11).

Each is signed by the key that the token is bound to wherever it can be, so that nothing but the attack
itself can be why it is refused; the reason says which check it was.
"""

from __future__ import annotations

import hmac
import json
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from sidecar.decide.documents import ALGORITHMS
from sidecar.decide.dpop import AHEAD, MAX_JTI, Dpop, Proof, examine, thumbprint
from sidecar.decide.nonces import current, known
from sidecar.decide.outcomes import Code, RememberProof
from sidecar.decide.request import Request, canonical_authority, canonical_target
from sidecar.decide.tokens import Rejected
from tests.proofs import Prover, b64

NOW: Final = 1_800_000_000.0
TOKEN: Final = "abc.def.ghi"
TARGET: Final = "https://api.example/transfers/7"
ME: Final = Prover()
OTHER: Final = Prover()
RSA: Final = rsa.generate_private_key(65537, 2048)
KEY: Final = b"k" * 32
ANY: Final = Dpop()


def request(
    *proofs: bytes, method: str = "POST", path: str = "/transfers/7", scheme: str = "https",
    authority: str = "api.example",
) -> Request:  # fmt: skip
    canonical, segments, query = canonical_target(path.encode())
    host, name = canonical_authority(authority.encode()) if authority else ("", "")
    headers = [(b"dpop", proof) for proof in proofs]
    return Request(method, canonical, segments, query, host, name, scheme, headers, "192.0.2.1")


def judged(
    asked: Request, wanted: Dpop = ANY, *, key: Prover = ME, now: float = NOW, fresh: bool = True
) -> Proof | Rejected:
    found = examine(asked, TOKEN.encode(), key.thumbprint, wanted, KEY, now, fresh=fresh)
    if isinstance(found, Rejected):
        return found
    return found.stands() or found


def reason(asked: Request | bytes, wanted: Dpop = ANY, **more: Any) -> str:
    """Why it is refused; empty: it stands."""
    found = judged(asked if isinstance(asked, Request) else request(asked), wanted, **more)
    return found.reason if isinstance(found, Rejected) else ""


def right(**more: Any) -> bytes:
    return ME.proof("POST", TARGET, TOKEN, NOW, **more)


def headed(**more: Any) -> bytes:
    return ME.signed(ME.header(**more), ME.claims("POST", TARGET, TOKEN, NOW))


def test_what_attacks_start_from_stands() -> None:
    found = judged(request(right(jti="once", iat=NOW - 1)))
    assert isinstance(found, Proof)
    assert found.effect == RememberProof(ME.thumbprint, "once", NOW - 1, 60.0)
    assert found.nonce == ""


@pytest.mark.parametrize(("key", "algorithm"), [
    (RSA, "RS256"), (RSA, "PS384"), (ec.generate_private_key(ec.SECP384R1()), "ES384"),
    (ec.generate_private_key(ec.SECP521R1()), "ES512"), (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
])  # fmt: skip
def test_every_kind_of_key(key: Any, algorithm: str) -> None:
    prover = Prover(key, algorithm)
    assert reason(prover.proof("POST", TARGET, TOKEN, NOW), key=prover) == ""
    assert reason(prover.proof("POST", TARGET, TOKEN, NOW), key=ME) == "proof_key_mismatch"


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    """Its section 3.1 has this example."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebW"
        "KRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQM"
        "icAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcR"
        "wr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    assert thumbprint({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}) == (
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )


# -- one proof, well-formed


def test_there_is_one_proof() -> None:
    assert reason(request()) == "proof_missing"
    assert reason(request(right(), right())) == "proof_repeated"
    assert reason(right() + b", " + right()) == "proof_malformed"


@pytest.mark.parametrize("junk", [
    b"", b".", b"..", b"...", b"a.b.c", b"\xff\xfe", right() + b".", right() + b"=", b" " + right(),
    right()[:-2], right().replace(b".", b"..", 1), b"{}", right() + b"\n",
])  # fmt: skip
def test_what_is_no_jwt(junk: bytes) -> None:
    assert reason(junk) in ("proof_malformed", "proof_signature")


def test_a_signature_that_is_cut_or_changed() -> None:
    said = right().rpartition(b".")[0]
    assert reason(said + b".") == "proof_signature"
    assert reason(said + b"." + b64(ME.sign(said)[:-1]).encode()) == "proof_signature"
    assert reason(said + b"." + b64(bytes(64)).encode()) == "proof_signature"
    assert reason(said + b"." + b64(ME.sign(b"another")).encode()) == "proof_signature"


def test_base64_has_one_spelling() -> None:
    said, _, signature = right().rpartition(b".")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1:])
    other = alphabet[last ^ 1 : (last ^ 1) + 1]  # of 64 bytes, the last character has unused bits
    assert reason(said + b"." + signature[:-1] + other) == "proof_malformed"


@pytest.mark.parametrize("head", [
    b'{"typ":"dpop+jwt","alg":"ES256","alg":"none","jwk":%s}',
    b'{"typ":"JWT","typ":"dpop+jwt","alg":"ES256","jwk":%s}',
    b'{"typ":"dpop+jwt","alg":"ES256","jwk":{},"jwk":%s}',
    b'{"typ":"dpop+jwt","alg":"ES256","jwk":%s}{}', b'\xef\xbb\xbf{"typ":"dpop+jwt","jwk":%s}',
    b'{"typ":"dpop+jwt","alg":"ES256","x":' + b"[" * 40 + b"]" * 40 + b',"jwk":%s}', b"[%s]",
])  # fmt: skip
def test_a_header_has_one_reading(head: bytes) -> None:
    said = head % json.dumps(ME.jwk).encode()
    assert reason(ME.signed(said, ME.claims("POST", TARGET, TOKEN, NOW))) == "proof_malformed"


@pytest.mark.parametrize("more", [
    b'"htm":"GET"', b'"iat":1', b'"jti":"x"', b'"ath":""', b'"x":NaN', b'"x":"\\ud800"',
    b'"\\u0068tu":"https://evil.example/"', b'"x":' + b"[" * 1000 + b"]" * 1000,
])  # fmt: skip
def test_claims_have_one_reading(more: bytes) -> None:
    body = json.dumps(ME.claims("POST", TARGET, TOKEN, NOW)).encode()[:-1] + b"," + more + b"}"
    assert reason(ME.signed(ME.header(), body)) == "proof_malformed"


def test_very_large_proofs() -> None:
    assert reason(right(x="x" * 8192)) == "proof_too_large"


# -- type and algorithm


@pytest.mark.parametrize("kind", [
    "JWT", "at+jwt", "application/dpop+jwt", "DPoP+jwt", "dpop+jwt ", "", None, 1, ["dpop+jwt"],
])  # fmt: skip
def test_another_type(kind: Any) -> None:
    assert reason(headed(typ=kind)) == "proof_type"


@pytest.mark.parametrize("algorithm", [
    "none", "None", "NONE", "HS256", "HS512", "ES256K", "es256", "", "RSA-OAEP", None, 1, ["ES256"],
])  # fmt: skip
def test_algorithms_that_are_not_asymmetric_signatures(algorithm: Any) -> None:
    assert reason(headed(alg=algorithm)) == "proof_algorithm"


def test_no_signature_at_all() -> None:
    claims = ME.claims("POST", TARGET, TOKEN, NOW)
    assert reason(ME.signed(ME.header(alg="none"), claims, lambda said: b"")) == "proof_algorithm"


def test_a_mac_keyed_with_the_public_key() -> None:
    def sign(said: bytes) -> bytes:
        return hmac.digest(json.dumps(ME.jwk).encode(), said, "sha256")

    claims = ME.claims("POST", TARGET, TOKEN, NOW)
    assert reason(ME.signed(ME.header(alg="HS256"), claims, sign)) == "proof_algorithm"


def test_an_algorithm_that_the_service_does_not_admit() -> None:
    assert reason(right(), Dpop(frozenset(("EdDSA",)))) == "proof_algorithm"


@pytest.mark.parametrize("algorithm", sorted({*ALGORITHMS} - {"ES256"}))
def test_an_algorithm_that_does_not_fit_the_key(algorithm: str) -> None:
    assert reason(headed(alg=algorithm)) == "proof_algorithm"


@pytest.mark.parametrize("more", [
    {"crit": ["exp"]}, {"crit": []}, {"crit": None}, {"zip": "DEF"}, {"b64": False}, {"b64": True},
])  # fmt: skip
def test_no_extension_is_understood(more: dict[str, Any]) -> None:
    assert reason(headed(**more)) == "proof_header"


# -- the key


def test_another_key_than_the_token_is_bound_to() -> None:
    stolen = OTHER.proof("POST", TARGET, TOKEN, NOW)
    assert reason(stolen) == "proof_key_mismatch"
    # The right key is named, the wrong one signs.
    claims = ME.claims("POST", TARGET, TOKEN, NOW)
    assert reason(OTHER.signed(ME.header(), claims)) == "proof_signature"


@pytest.mark.parametrize("more", [
    {"kid": "mine"}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/c"},
    {"x5c": ["MIIB"]}, {"x5t": "AAAA"},
])  # fmt: skip
def test_other_ways_to_name_a_key_are_not_looked_at(more: dict[str, Any]) -> None:
    assert reason(headed(**more)) == ""
    claims = ME.claims("POST", TARGET, TOKEN, NOW)
    assert reason(ME.signed({**ME.header(**more), "jwk": None}, claims)) == "proof_key"


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_a_private_key(member: str) -> None:
    assert reason(headed(jwk={**ME.jwk, member: "AAAA"})) == "proof_key_private"


@pytest.mark.parametrize("jwk", [
    None, "x", [], {}, {"kty": "EC"}, {"kty": "oct", "k": "AAAA"}, {"kty": "oct"}, {**ME.jwk, "kty": "RSA"},
    {**ME.jwk, "kty": ["EC"]}, {**ME.jwk, "x": 7}, {**ME.jwk, "crv": None}, {**ME.jwk, "use": "enc"},
    {**ME.jwk, "alg": "ES384"}, {**ME.jwk, "alg": 1}, {"keys": [ME.jwk]},
])  # fmt: skip
def test_what_is_no_key_for_this(jwk: Any) -> None:
    assert reason(headed(jwk=jwk)) in ("proof_key", "proof_key_private")


@pytest.mark.parametrize("jwk", [
    {**ME.jwk, "crv": "P-384"}, {**ME.jwk, "crv": "secp256k1"}, {**ME.jwk, "y": ME.jwk["x"]},
    {**ME.jwk, "x": ME.jwk["x"] + "="}, {**ME.jwk, "x": b64(bytes(32))}, {**ME.jwk, "x": ""},
])  # fmt: skip
def test_a_key_that_is_on_no_curve_stands_for_nobody(jwk: dict[str, str]) -> None:
    """Even if an issuer had bound a token to it."""
    wrong = Prover()
    wrong.jwk = jwk
    assert reason(headed(jwk=jwk)) == "proof_key_mismatch"
    wrong.thumbprint = thumbprint(jwk)
    assert reason(headed(jwk=jwk), key=wrong) in ("proof_key", "proof_algorithm")


def test_weak_and_unusual_keys() -> None:
    weak = Prover(rsa.generate_private_key(65537, 1024), "RS256")
    assert reason(weak.proof("POST", TARGET, TOKEN, NOW), key=weak) == "proof_key"
    large = Prover(ed448.Ed448PrivateKey.generate(), "EdDSA")
    assert reason(large.proof("POST", TARGET, TOKEN, NOW), key=large) == ""


def test_more_members_make_no_other_key() -> None:
    """RFC 7638 section 3.2.1: only what is required counts, in whatever order it comes."""
    jwk = dict(reversed({**ME.jwk, "kid": "k", "use": "sig", "alg": "ES256", "x5c": []}.items()))
    assert reason(headed(jwk=jwk)) == ""


# -- this request


@pytest.mark.parametrize("method", ["GET", "post", "Post", " POST", "", None, 1, ["POST"]])
def test_another_method(method: Any) -> None:
    claims = {**ME.claims("POST", TARGET, TOKEN, NOW), "htm": method}
    assert reason(ME.signed(ME.header(), claims)) == "proof_method"


@pytest.mark.parametrize("target", [
    "http://api.example/transfers/7", "https://api.example/transfers/8", "https://api.example/transfers",
    "https://api.example/transfers/7/", "https://api.example/Transfers/7", "https://evil.example/transfers/7",
    "https://api.example:8443/transfers/7", "https://api.example:80/transfers/7",
    "https://user@api.example/transfers/7", "https://api.example.evil.example/transfers/7",
    "https://evil.example\\@api.example/transfers/7", "https://api.example/transfers%2F7",
    "https://api.example/transfers/7;x=1", "https://api.example/../../transfers/7",
    "//api.example/transfers/7", "/transfers/7", "api.example/transfers/7", "ftp://api.example/transfers/7",
    "https:///transfers/7", "https://api.example:99999/transfers/7", "https://api.example:x/transfers/7",
    "https://äpi.example/transfers/7", " https://api.example/transfers/7", "https://api.example/%zz", "",
    None, 7, [TARGET],
])  # fmt: skip
def test_another_target(target: Any) -> None:
    claims = {**ME.claims("POST", TARGET, TOKEN, NOW), "htu": target}
    assert reason(ME.signed(ME.header(), claims)) == "proof_target"


@pytest.mark.parametrize("target", [
    TARGET, "HTTPS://API.EXAMPLE/transfers/7", "https://api.example:443/transfers/7",
    "https://api.example./transfers/7", "https://api.example:/transfers/7", TARGET + "?a=b", TARGET + "#x",
    "https://api.example/transfers/%37", "https://api.example/x/../transfers/./7", TARGET + "?a#b?c",
    "https://api.example//transfers//7",
])  # fmt: skip
def test_the_same_target_in_another_spelling(target: str) -> None:
    """RFC 3986 section 6.2.2 and 6.2.3; query and fragment do not count (RFC 9449 section 4.3)."""
    assert reason(ME.proof("POST", target, TOKEN, NOW)) == ""


def test_the_query_of_the_request_does_not_count() -> None:
    assert reason(request(right(), path="/transfers/7?amount=1000")) == ""


@pytest.mark.parametrize(("scheme", "authority", "target"), [
    ("http", "api.example", "http://api.example/transfers/7"),
    ("http", "api.example:80", "http://api.example/transfers/7"),
    ("https", "api.example:443", TARGET), ("https", "api.example:8443", "https://api.example:8443/transfers/7"),
    ("http", "[::1]:7400", "http://[0:0::1]:7400/transfers/7"), ("http", "127.0.0.1:7400", "http://127.0.0.1:7400/transfers/7"),
])  # fmt: skip
def test_the_target_as_the_request_came(scheme: str, authority: str, target: str) -> None:
    proof = ME.proof("POST", target, TOKEN, NOW)
    assert reason(request(proof, scheme=scheme, authority=authority)) == ""
    other = "https" if scheme == "http" else "http"
    assert reason(request(proof, scheme=other, authority=authority)) == "proof_target"


def test_a_request_that_names_no_host() -> None:
    assert (
        reason(request(ME.proof("POST", "https:///transfers/7", TOKEN, NOW), authority=""))
        == "proof_target"
    )


def test_the_root() -> None:
    for target in ("https://api.example", "https://api.example/", "https://api.example?x"):
        assert reason(request(ME.proof("POST", target, TOKEN, NOW), path="/")) == ""


@pytest.mark.parametrize("ath", [
    None, "", 1, b64(bytes(32)), b64(b"x" * 32), TOKEN,
])  # fmt: skip
def test_another_token(ath: Any) -> None:
    claims = {**ME.claims("POST", TARGET, TOKEN, NOW), "ath": ath}
    assert reason(ME.signed(ME.header(), claims)) == "proof_token"
    assert reason(right(ath=None)) == "proof_token"
    stolen = ME.proof("POST", TARGET, TOKEN + "x", NOW)
    assert reason(stolen) == "proof_token"


# -- once, and now


@pytest.mark.parametrize("jti", ["", 1, [], True, {"a": 1}, "x" * (MAX_JTI + 1)])
def test_an_id_that_is_none(jti: Any) -> None:
    assert reason(right(jti=jti)) == "proof_id"
    assert reason(right(jti=None)) == "proof_id"
    assert reason(right(jti="x" * MAX_JTI)) == ""


@pytest.mark.parametrize(("iat", "why"), [
    (NOW - 60, ""), (NOW - 61, "proof_expired"), (0, "proof_expired"), (-1, "proof_expired"),
    (NOW + AHEAD, ""), (NOW + AHEAD + 1, "proof_not_yet_valid"), (NOW + 3600, "proof_not_yet_valid"),
    (str(int(NOW)), "proof_malformed"), (True, "proof_malformed"), ([NOW], "proof_malformed"),
    (2**70, "proof_malformed"), (1e300, "proof_malformed"), (NOW - 0.5, ""), (NOW * 1000, "proof_not_yet_valid"),
])  # fmt: skip
def test_when_it_was_made(iat: Any, why: str) -> None:
    assert reason(right(iat=iat)) == why


def test_it_says_when_it_was_made() -> None:
    assert reason(right(iat=None)) == "proof_malformed"
    claims = {**ME.claims("POST", TARGET, TOKEN, NOW), "iat": None}
    assert reason(ME.signed(ME.header(), claims)) == "proof_malformed"


def test_how_old_it_may_be_is_a_setting() -> None:
    assert reason(right(iat=NOW - 6), Dpop(max_age=5.0)) == "proof_expired"
    assert reason(right(iat=NOW - 300), Dpop(max_age=300.0)) == ""


def test_an_expiry_holds_where_it_is_said() -> None:
    assert reason(right(exp=NOW)) == "proof_expired"
    assert reason(right(exp=NOW + 1, nbf=NOW)) == ""
    assert reason(right(nbf=NOW + 60)) == "proof_not_yet_valid"
    assert reason(right(exp="never")) == "proof_malformed"


def test_what_is_looked_at_again_need_not_be_fresh() -> None:
    late = NOW + 3600
    assert reason(right(), now=late) == "proof_expired"
    assert reason(right(), Dpop(nonce=True), now=late, fresh=False) == ""
    assert reason(right(htm="GET"), now=late, fresh=False) == "proof_method"
    assert reason(right(iat="x"), fresh=False) == "proof_malformed"


# -- nonces


def test_a_nonce_is_asked_for_and_accepted_for_two_windows() -> None:
    wanted = Dpop(nonce=True)
    refused = judged(request(right()), wanted)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.code) == ("proof_nonce_missing", Code.NONCE)
    given = current(KEY, 60.0, NOW)
    found = judged(request(right(nonce=given)), wanted)
    assert isinstance(found, Proof)
    assert found.nonce == "", "it is the current one"
    later = NOW + 60
    again = judged(request(right(nonce=given, iat=later)), wanted, now=later)
    assert isinstance(again, Proof)
    assert again.nonce == current(KEY, 60.0, later) != given, "the caller is told the next one"
    assert reason(right(nonce=given, iat=later + 60), wanted, now=later + 60) == "proof_nonce"


@pytest.mark.parametrize("nonce", ["", "x", 1, ["x"], True, "ä", current(b"j" * 32, 60.0, NOW)])
def test_a_nonce_that_is_not_ours(nonce: Any) -> None:
    assert reason(right(nonce=nonce), Dpop(nonce=True)) == "proof_nonce"
    assert reason(right(nonce=nonce)) == "", "nobody asked for one"


def test_nonces_cannot_be_told_without_the_key() -> None:
    made = {current(bytes([each]) * 32, 60.0, NOW) for each in range(20)}
    made |= {current(KEY, 60.0, NOW + 60 * each) for each in range(20)}
    assert len(made) == 40
    assert not known(KEY, 60.0, NOW, current(KEY, 60.0, NOW + 60)), "nor before their time"
