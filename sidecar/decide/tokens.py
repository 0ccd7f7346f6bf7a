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
from math import inf
from typing import Any, Final, final

from sidecar.decide.keys import KeySet, VerificationKey
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
    access_token_profile: bool = False
    """Whether its tokens must be what RFC 9068 section 2.2 says."""


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
    `fetched` are the keys of its issuer that verified it; None: a document held what did. `key_id`
    names the one of them that did, where it has a name. `weight` is what remembering it takes in
    bytes, roughly. It is believed until `expires`; it may be asked about again until it `ends`.

    Equal to itself only: another check of the same token is another one. Nobody changes it, but
    for what others remember with it: `revocations` its `targets`, and when it was last `cleared`,
    `edge.assertions` the `assertion` that goes with it.
    """

    __slots__ = (
        "assertion", "claims", "cleared", "ends", "expires", "fetched", "identity", "key_id",
        "opaque", "targets", "weight",
    )  # fmt: skip

    def __init__(
        self,
        identity: Identity,
        claims: Mapping[str, Any],
        opaque: frozenset[str],
        expires: float,
        fetched: KeySet | None,
        weight: int,
        key_id: str = "",
        ends: float = 0.0,
    ) -> None:
        self.identity = identity
        self.claims = claims
        self.opaque = opaque
        self.expires = expires
        self.fetched = fetched
        self.weight = weight
        self.key_id = key_id
        self.ends = ends or expires
        self.targets: tuple[bytes, ...] | None = None
        self.cleared: object = None
        self.assertion: Any = None


@dataclass(frozen=True)
class Rejected:
    """A credential that does not stand. `reason` is for logs, `detail` may be shown."""

    reason: str
    detail: str
    code: Code = Code.INVALID_TOKEN


@dataclass(frozen=True)
class KeysUnavailable:
    """The token cannot be checked because its issuer's keys cannot be had, or, as `reason` then
    says, because the issuer does not say whether it stands."""

    issuer: str
    reason: str = "keys_unavailable"


class Bad(Exception):
    """What is wrong with a token, on its way to whoever makes a Rejected of it."""

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
    except Bad as bad:
        return bad.rejected


def _verify(
    token: bytes, issuers: Mapping[str, Issuer], keys: Mapping[str, KeyState], now: float
) -> Verified | KeysUnavailable | NeedKeys:
    header, claims, signed, signature = _envelope(token)
    name = claims.get("iss")
    issuer = issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        raise Bad("issuer_unknown", "The token's issuer is not admitted.")
    algorithm, kid = _header(header, issuer)
    expires = check_times(claims, issuer.skew, now)
    check_audience(claims, issuer)
    identity = identity_of(claims, issuer)
    if issuer.access_token_profile:
        _access_token(claims)
    found = _signer(issuer, algorithm, kid, signed, signature, keys, now)
    if type(found) is not _Signer:
        return found
    opaque = frozenset([name for name, value in claims.items() if beyond_cel(value)])
    weight = WEIGHT + 2 * len(token)
    fetched = found.held if issuer.keys is None else None
    return Verified(identity, claims, opaque, expires, fetched, weight, found.key.name)


def verify_statement(
    token: bytes, issuers: Mapping[str, Issuer], keys: Mapping[str, KeyState], now: float
) -> tuple[Issuer, dict[str, Any]] | Rejected | KeysUnavailable | NeedKeys:
    """Check a compact JWS that is no credential: envelope, algorithm, type and signature.

    What its claims must be, times and audience included, is for whoever asks for it. Its claims.
    """
    try:
        header, claims, signed, signature = _envelope(token)
        name = claims.get("iss")
        issuer = issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise Bad("issuer_unknown", "The token's issuer is not admitted.")
        algorithm, kid = _header(header, issuer)
        found = _signer(issuer, algorithm, kid, signed, signature, keys, now)
    except Bad as bad:
        return bad.rejected
    return (issuer, claims) if type(found) is _Signer else found


@final
class _Signer:
    """The key that made a signature, and the set that it is of."""

    __slots__ = ("held", "key")

    def __init__(self, key: VerificationKey, held: KeySet) -> None:
        self.key = key
        self.held = held


def _signer(
    issuer: Issuer,
    algorithm: str,
    kid: str | None,
    signed: bytes,
    signature: bytes,
    keys: Mapping[str, KeyState],
    now: float,
) -> _Signer | KeysUnavailable | NeedKeys:
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
        raise Bad("key_unknown", "The token is signed with a key that its issuer does not publish.")
    for key in candidates[:MAX_TRIES]:
        if key.verifies(algorithm, signed, signature):
            return _Signer(key, held)
    raise Bad("signature_invalid", "The token's signature is not valid.")


def _envelope(token: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    if len(token) > MAX_TOKEN:
        raise Bad("too_large", "The token is too large.")
    parts = token.split(b".")
    if len(parts) == 5:
        raise Bad("encrypted", "An encrypted token (JWE) is not admitted.")
    if len(parts) != 3:
        raise Bad("malformed", "The token is not a JWT.")
    try:
        protected = parts[0]
        header = _known_header(protected) if len(protected) <= 512 else _decoded(protected)
        claims = json_object(base64url(parts[1]))
        signature = base64url(parts[2])
    except ValueError:
        raise Bad("malformed", "The token is not a well-formed JWT.") from None
    return header, claims, token[: len(parts[0]) + 1 + len(parts[1])], signature


def _decoded(part: bytes) -> dict[str, Any]:
    return json_object(base64url(part))


# An issuer says the same in every token's header. Nobody changes what is remembered.
_known_header: Final = lru_cache(maxsize=256)(_decoded)


def _header(header: dict[str, Any], issuer: Issuer) -> tuple[str, str | None]:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise Bad("algorithm_not_admitted", "The token's algorithm is not admitted.")
    if "crit" in header or "zip" in header or header.get("b64", True) is not True:
        # RFC 7515 section 4.1.11: no extension is understood here, so every `crit` is unknown.
        raise Bad("header_not_admitted", "The token's header asks for what is not admitted.")
    kind = header.get("typ", "JWT")
    if (
        not isinstance(kind, str)
        or kind.lower().removeprefix("application/") not in issuer.token_types
    ):
        raise Bad("type_not_admitted", "The token's type is not admitted.")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise Bad("malformed", "The token's key id is not text.")
    return algorithm, kid


def _number(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise Bad("malformed", f"The token's {name} is not a date.")
    return float(value)


def check_times(claims: dict[str, Any], skew: float, now: float, *, required: bool = True) -> float:
    """RFC 7519 sections 4.1.4 to 4.1.6. Returns when the token stops being valid, skew included.

    `required`: whether it must say so; if it need not and does not, that is never. Raises Bad.
    """
    expires = _number(claims, "exp")
    if expires is None:
        if required:
            raise Bad("malformed", "The token has no expiry.")
        expires = inf
    if now >= expires + skew:
        raise Bad("expired", "The token has expired.")
    for name in ("nbf", "iat"):
        start = _number(claims, name)
        if start is not None and now < start - skew:
            raise Bad("not_yet_valid", "The token is not valid yet.")
    return expires + skew


def check_audience(claims: dict[str, Any], issuer: Issuer) -> None:
    """RFC 7519 section 4.1.3: it must name one of ours. Raises Bad."""
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(item, str) for item in named):
        raise Bad("audience_mismatch", "The token names no audience.")
    if issuer.audiences.isdisjoint(named):
        raise Bad("audience_mismatch", "The token is for another audience.")


def identity_of(claims: dict[str, Any], issuer: Issuer) -> Identity:
    """Whose it is, by the claims that the issuer's document names. Raises Bad."""
    subject = claim(claims, issuer.subject)
    if not isinstance(subject, str) or not subject:
        raise Bad("subject_missing", "The token names no subject.")
    return Identity(issuer.issuer, subject, _scopes(claim(claims, issuer.scopes)))


def _access_token(claims: dict[str, Any]) -> None:
    """RFC 9068 section 2.2: what is required beyond `iss`, `exp` and `aud`, which always are."""
    for name in ("sub", "client_id", "jti"):
        if not isinstance(claims.get(name), str) or not claims[name]:
            raise Bad("malformed", f"The token lacks {name}, which RFC 9068 requires.")
    if _number(claims, "iat") is None:
        raise Bad("malformed", "The token lacks iat, which RFC 9068 requires.")


def _scopes(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset()
    if isinstance(value, str):
        return frozenset(value.split(" ")) - {""}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value) - {""}
    raise Bad("malformed", "The token's scopes are neither text nor a list.")


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
