"""DPoP proofs: a JWT by the key that a token is bound to, about this one request. Pure.

All that costs little is checked before the signature, which is left to who asks (`Proof`). A proof
brings its key itself; it counts because the token's issuer signed that key's thumbprint. Sources:
RFC 9449 section 4.3 (the checks, by its numbers), RFC 7638 (thumbprints), RFC 8725.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from sidecar.decide import nonces
from sidecar.decide.documents import ALGORITHMS
from sidecar.decide.keys import PRIVATE_MEMBERS, VerificationKey, parse_jwk
from sidecar.decide.outcomes import Code, DpopScheme, RememberProof
from sidecar.decide.request import Request, canonical_authority, canonical_path
from sidecar.decide.strict import base64url, json_object
from sidecar.decide.tokens import Rejected
from sidecar.errors import BadRequest

MAX_PROOF: Final = 8 * 1024  # bytes; one with an RSA key of 8192 bits has 4.5 KiB
MAX_JTI: Final = 256  # characters
AHEAD: Final = 10.0  # seconds that a caller's clock may be ahead of ours
LONGEST_WINDOW: Final = 300.0  # seconds, of `max_age`

_TYPE: Final = "dpop+jwt"
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "EC": ("crv", "kty", "x", "y"),
    "RSA": ("e", "kty", "n"),
    "OKP": ("crv", "kty", "x"),
}
"""By key type, what RFC 7638 section 3.2 (RFC 8037 section 2) makes a thumbprint of, in order."""


@dataclass(frozen=True, slots=True)
class Dpop:
    """What a service asks of proofs. `offered`: its challenges name the scheme to everybody."""

    algorithms: frozenset[str] = frozenset(ALGORITHMS)
    max_age: float = 60.0
    nonce: bool = False
    offered: bool = False
    algs: str = " ".join(ALGORITHMS)
    """The algorithms as challenges name them."""

    def scheme(self, *, used: bool) -> DpopScheme:
        """What a challenge says, to a caller who used the scheme or should have."""
        return _scheme(self.algs, used, self.offered)


_scheme: Final = lru_cache(maxsize=64)(DpopScheme)


class Proof(msgspec.Struct, frozen=True):
    """A proof that says what it must; whether its key signed it is yet to be checked.

    `nonce` is the one to be used from now on, where the caller should be told.
    """

    key: VerificationKey
    algorithm: str
    signed: bytes
    signature: bytes
    effect: RememberProof
    nonce: str = ""

    def stands(self) -> Rejected | None:
        """None, or why not."""
        if self.key.verifies(self.algorithm, self.signed, self.signature):
            return None
        return _rejected("proof_signature", "The proof's signature is not valid.")


class _Bad(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.rejected = _rejected(reason, detail)


def _rejected(reason: str, detail: str) -> Rejected:
    return Rejected(reason, detail, Code.INVALID_PROOF)


def examine(
    request: Request,
    token: bytes,
    thumbprint: str,
    wanted: Dpop,
    nonce_key: bytes,
    now: float,
    *,
    fresh: bool = True,
) -> Proof | Rejected:
    """The proof that came with a request whose `token` is bound to the key of this thumbprint.

    `fresh` False leaves out time and nonce: the request was admitted before and is looked at again.
    """
    try:
        return _examine(request, token, thumbprint, wanted, nonce_key, now, fresh)
    except _Bad as bad:
        return bad.rejected


def _examine(
    request: Request,
    token: bytes,
    thumbprint: str,
    wanted: Dpop,
    nonce_key: bytes,
    now: float,
    fresh: bool,
) -> Proof | Rejected:
    header, claims, signed, signature = _parts(request.values(b"dpop"))
    if header.get("typ") != _TYPE:
        raise _Bad("proof_type", "The proof's type is not dpop+jwt.")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in wanted.algorithms:
        raise _Bad("proof_algorithm", "The proof's algorithm is not admitted.")
    if "crit" in header or "zip" in header or "b64" in header:
        raise _Bad("proof_header", "The proof's header asks for what is not admitted.")
    key = _key(header.get("jwk"), algorithm, thumbprint)
    if claims.get("htm") != request.method:
        raise _Bad("proof_method", "The proof is for another method.")
    if not _is_target(claims.get("htu"), request):
        raise _Bad("proof_target", "The proof is for another address.")
    ath = base64.urlsafe_b64encode(hashlib.sha256(token).digest()).rstrip(b"=").decode("ascii")
    if claims.get("ath") != ath:
        raise _Bad("proof_token", "The proof is for another token.")
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI:
        raise _Bad("proof_id", f"The proof has no jti of 1 to {MAX_JTI} characters.")
    created = _created(claims, wanted, now if fresh else None)
    said = ""
    if fresh and wanted.nonce:
        said = nonces.current(nonce_key, wanted.max_age, now)
        given = claims.get("nonce")
        if not nonces.known(nonce_key, wanted.max_age, now, given):
            why = "proof_nonce_missing" if given is None else "proof_nonce"
            return Rejected(why, "The proof must carry the nonce that comes with this.", Code.NONCE)
        if given == said:
            said = ""
    effect = RememberProof(thumbprint, jti, created, wanted.max_age)
    return Proof(key, algorithm, signed, signature, effect, said)


def _parts(values: list[bytes]) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Checks 1, 2, and the form that every JWT has."""
    if not values:
        raise _Bad("proof_missing", "The token is bound to a key; its proof is missing.")
    if len(values) > 1:
        raise _Bad("proof_repeated", "More than one proof came.")
    proof = values[0]
    if len(proof) > MAX_PROOF:
        raise _Bad("proof_too_large", "The proof is too large.")
    parts = proof.split(b".")
    if len(parts) != 3:
        raise _Bad("proof_malformed", "The proof is not a JWT.")
    try:
        header, claims = json_object(base64url(parts[0])), json_object(base64url(parts[1]))
        signature = base64url(parts[2])
    except ValueError:
        raise _Bad("proof_malformed", "The proof is not a well-formed JWT.") from None
    return header, claims, proof[: len(parts[0]) + 1 + len(parts[1])], signature


def _key(jwk: Any, algorithm: str, thumbprint: str) -> VerificationKey:
    """Checks 5, 6 and 12: a public key of the algorithm's kind, and the very one of the token."""
    if not isinstance(jwk, dict):
        raise _Bad("proof_key", "The proof brings no key.")
    if not PRIVATE_MEMBERS.isdisjoint(jwk):
        raise _Bad("proof_key_private", "The proof's key is not public: it must not be used again.")
    kind = jwk.get("kty")
    members = {name: jwk.get(name) for name in _MEMBERS.get(str(kind), ())}
    if not members or not all(isinstance(value, str) for value in members.values()):
        raise _Bad("proof_key", "The proof's key is not one for signatures.")
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
        raise _Bad("proof_key", "The proof's key is for something else.")
    canonical = orjson.dumps(members)  # in the order of their names, without white space
    if _thumbprint(canonical) != thumbprint:
        raise _Bad("proof_key_mismatch", "The proof is made with another key than the token's.")
    try:
        key = _known_key(canonical)
    except ValueError:
        raise _Bad("proof_key", "The proof's key is not one for signatures.") from None
    if algorithm not in key.algorithms:
        raise _Bad("proof_algorithm", "The proof's algorithm does not fit its key.")
    return key


def _thumbprint(canonical: bytes) -> str:
    """RFC 7638 section 3."""
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode("ascii")


@lru_cache(maxsize=1024)  # at most 1.5 KiB each: the bytes are what an issuer made a thumbprint of
def _known_key(canonical: bytes) -> VerificationKey:
    """Raises ValueError, which is not remembered."""
    jwk = orjson.loads(canonical)
    for name in jwk.keys() - {"kty", "crv"}:  # which the library reads leniently
        base64url(jwk[name].encode())
    return parse_jwk(jwk)


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The thumbprint of a public JWK. Raises KeyError where it is none."""
    return _thumbprint(orjson.dumps({name: jwk[name] for name in _MEMBERS[jwk["kty"]]}))


def _created(claims: dict[str, Any], wanted: Dpop, now: float | None) -> float:
    """Check 11. `exp` and `nbf` are not asked for, but hold where they are said."""
    created = _number(claims, "iat")
    if created is None:
        raise _Bad("proof_malformed", "The proof does not say when it was made.")
    expires, start = _number(claims, "exp"), _number(claims, "nbf")
    if now is None:
        return created
    if now > created + wanted.max_age or (expires is not None and now >= expires):
        raise _Bad("proof_expired", "The proof is too old.")
    if created > now + AHEAD or (start is not None and start > now + AHEAD):
        raise _Bad("proof_not_yet_valid", "The proof is made in the future.")
    return created


def _number(claims: dict[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise _Bad("proof_malformed", f"The proof's {name} is not a date.")
    return float(value)


def _is_target(htu: Any, request: Request) -> bool:
    """Check 9: the same URI after normalisation (RFC 3986 section 6.2), but for query, fragment."""
    if not isinstance(htu, str) or not request.authority:
        return False
    try:
        found = _known_target(htu) if len(htu) <= 512 else _target(htu)
    except BadRequest:
        return False
    authority = request.authority.removesuffix(_DEFAULT_PORTS.get(request.scheme, ":"))
    return found == (request.scheme, authority, request.path)


_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def _target(htu: str) -> tuple[str, str, str]:
    """Scheme, authority without a default port, and path, canonical. Raises BadRequest."""
    scheme, mark, rest = htu.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in _DEFAULT_PORTS or not htu.isascii():
        raise BadRequest("not an http URI")
    rest = rest.partition("#")[0].partition("?")[0]
    authority, slash, path = rest.partition("/")
    host = canonical_authority(authority.encode("ascii"))[0].removesuffix(_DEFAULT_PORTS[scheme])
    return scheme, host, canonical_path((slash + path or "/").encode("ascii"))


_known_target: Final = lru_cache(maxsize=1024)(_target)


def remembered() -> dict[str, int]:
    """Entries by table of what came before; every one of them is bounded."""
    return {
        "proof_keys": _known_key.cache_info().currsize,
        "proof_targets": _known_target.cache_info().currsize,
    }
