"""(token, keys, now) -> Verified, Rejected, or a Need for keys.

The envelope is read by us, once and strictly (PyJWT alone accepts some forgeries); signatures are
checked by PyJWT's algorithms. Everything that costs little is checked before the signature, so that
junk is refused before it costs a key fetch. Sources: RFC 7515, RFC 7519, RFC 8725, RFC 9068.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sidecar.decide.keys import KeySet
from sidecar.decide.outcomes import Code, Identity, NeedKeys
from sidecar.decide.strict import base64url, beyond_cel, json_object

MAX_TOKEN: Final = 16 * 1024  # bytes
WEIGHT: Final = 2048  # bytes that a verified token takes beside its text, roughly
MAX_TRIES: Final = 4  # keys tried for a token without `kid`

Path = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Issuer:
    """A TokenIssuer, compiled for one sidecar. `keys` is set when the document holds them itself.

    `jwks_uri` is where to fetch them otherwise; None asks for OpenID discovery at `issuer`.
    """

    name: str
    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    token_types: frozenset[str]
    skew: float
    subject: str
    scopes: str
    keys: KeySet | None
    jwks_uri: str | None


@dataclass(frozen=True)
class KeyState:
    """What is known of an issuer's keys. `keys` None: the fetch failed, `error` says why.

    From `since`, the time of the last try, to `retry_at` another fetch would not be made.
    """

    keys: KeySet | None
    retry_at: float
    error: str = ""
    since: float = 0.0

    def may_fetch(self, now: float) -> bool:
        """Whether the cool-down is over; also when the clock was set back behind the last try."""
        return not self.since <= now < self.retry_at


class Verified:
    """A credential that stands. `opaque` are claims that expressions cannot read (`beyond_cel`).
    `fetched` are the keys of its issuer that verified it; None: a document held what did. `weight`
    is what remembering it takes in bytes, roughly.

    Equal to itself only: another check of the same token is another one. Nobody changes it.
    """

    __slots__ = ("claims", "expires", "fetched", "identity", "opaque", "weight")

    def __init__(
        self,
        identity: Identity,
        claims: Mapping[str, Any],
        opaque: frozenset[str],
        expires: float,
        fetched: KeySet | None,
        weight: int,
    ) -> None:
        self.identity = identity
        self.claims = claims
        self.opaque = opaque
        self.expires = expires
        self.fetched = fetched
        self.weight = weight


@dataclass(frozen=True)
class Rejected:
    """A credential that does not stand. `reason` is for logs, `detail` may be shown."""

    reason: str
    detail: str
    code: Code = Code.INVALID_TOKEN


@dataclass(frozen=True)
class KeysUnavailable:
    """The token cannot be checked because its issuer's keys cannot be had."""

    issuer: str


class _Bad(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.rejected = Rejected(reason, detail)


def digest(token: bytes) -> bytes:
    """What a credential is remembered by."""
    state = _SHA256.copy()  # half the price of asking the library for a new one
    state.update(token)
    return state.digest()


_SHA256: Final = hashlib.sha256()


def verify(
    token: bytes,
    issuers: Mapping[str, Issuer],
    keys: Mapping[str, KeyState],
    now: float,
) -> Verified | Rejected | KeysUnavailable | NeedKeys:
    """Check a compact JWS as an access token. `keys` is evidence, by issuer."""
    try:
        return _verify(token, issuers, keys, now)
    except _Bad as bad:
        return bad.rejected


def _verify(
    token: bytes, issuers: Mapping[str, Issuer], keys: Mapping[str, KeyState], now: float
) -> Verified | KeysUnavailable | NeedKeys:
    header, claims, signed, signature = _envelope(token)
    name = claims.get("iss")
    issuer = issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        raise _Bad("issuer_unknown", "The token's issuer is not admitted.")
    algorithm, kid = _header(header, issuer)
    expires = _times(claims, issuer.skew, now)
    _audience(claims, issuer)
    identity = _identity(claims, issuer)
    held = issuer.keys
    if held is None:
        state = keys.get(issuer.issuer)
        if state is None:
            return NeedKeys(issuer.issuer)
        if state.keys is None:
            if state.may_fetch(now):
                return NeedKeys(issuer.issuer)
            return KeysUnavailable(issuer.issuer)
        held = state.keys
        if not held.fitting(algorithm, kid):
            if state.may_fetch(now):
                return NeedKeys(issuer.issuer, "unknown_kid")
            if state.error:  # perhaps a new key that could not be fetched: not the caller's fault
                return KeysUnavailable(issuer.issuer)
    candidates = held.fitting(algorithm, kid)
    if not candidates:
        raise _Bad(
            "key_unknown", "The token is signed with a key that its issuer does not publish."
        )
    for key in candidates[:MAX_TRIES]:
        if key.verifies(algorithm, signed, signature):
            opaque = frozenset([name for name, value in claims.items() if beyond_cel(value)])
            weight = WEIGHT + 2 * len(token)
            fetched = held if issuer.keys is None else None
            return Verified(identity, claims, opaque, expires, fetched, weight)
    raise _Bad("signature_invalid", "The token's signature is not valid.")


def _envelope(token: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    if len(token) > MAX_TOKEN:
        raise _Bad("too_large", "The token is too large.")
    parts = token.split(b".")
    if len(parts) == 5:
        raise _Bad("encrypted", "An encrypted token (JWE) is not admitted.")
    if len(parts) != 3:
        raise _Bad("malformed", "The token is not a JWT.")
    try:
        protected = parts[0]
        header = _known_header(protected) if len(protected) <= 512 else _decoded(protected)
        claims = json_object(base64url(parts[1]))
        signature = base64url(parts[2])
    except ValueError:
        raise _Bad("malformed", "The token is not a well-formed JWT.") from None
    return header, claims, token[: len(parts[0]) + 1 + len(parts[1])], signature


def _decoded(part: bytes) -> dict[str, Any]:
    return json_object(base64url(part))


# An issuer says the same in every token's header. Nobody changes what is remembered.
_known_header: Final = lru_cache(maxsize=256)(_decoded)


def _header(header: dict[str, Any], issuer: Issuer) -> tuple[str, str | None]:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise _Bad("algorithm_not_admitted", "The token's algorithm is not admitted.")
    if "crit" in header or "zip" in header or header.get("b64", True) is not True:
        # RFC 7515 section 4.1.11: no extension is understood here, so every `crit` is unknown.
        raise _Bad("header_not_admitted", "The token's header asks for what is not admitted.")
    kind = header.get("typ", "JWT")
    if (
        not isinstance(kind, str)
        or kind.lower().removeprefix("application/") not in issuer.token_types
    ):
        raise _Bad("type_not_admitted", "The token's type is not admitted.")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _Bad("malformed", "The token's key id is not text.")
    return algorithm, kid


def _number(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise _Bad("malformed", f"The token's {name} is not a date.")
    return float(value)


def _times(claims: dict[str, Any], skew: float, now: float) -> float:
    """RFC 7519 sections 4.1.4 to 4.1.6. Returns when the token stops being valid, skew included."""
    expires = _number(claims, "exp")
    if expires is None:
        raise _Bad("malformed", "The token has no expiry.")
    if now >= expires + skew:
        raise _Bad("expired", "The token has expired.")
    for name in ("nbf", "iat"):
        start = _number(claims, name)
        if start is not None and now < start - skew:
            raise _Bad("not_yet_valid", "The token is not valid yet.")
    return expires + skew


def _audience(claims: dict[str, Any], issuer: Issuer) -> None:
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(item, str) for item in named):
        raise _Bad("audience_mismatch", "The token names no audience.")
    if issuer.audiences.isdisjoint(named):
        raise _Bad("audience_mismatch", "The token is for another audience.")


def _identity(claims: dict[str, Any], issuer: Issuer) -> Identity:
    subject = claim(claims, issuer.subject)
    if not isinstance(subject, str) or not subject:
        raise _Bad("subject_missing", "The token names no subject.")
    return Identity(issuer.issuer, subject, _scopes(claim(claims, issuer.scopes)))


def _scopes(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset()
    if isinstance(value, str):
        return frozenset(value.split(" ")) - {""}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value) - {""}
    raise _Bad("malformed", "The token's scopes are neither text nor a list.")


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at `path`: a claim of that very name, else dots lead inwards; None if absent."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
