"""Opaque tokens: which issuer is asked about one, and what its answer is worth.

Pure: whoever fetches answers (`facts.introspection`) has them read here. An answer is believed no
longer than the setting says and never beyond the token's own `exp`. Source: RFC 7662.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

from sidecar.decide.credentials import Location
from sidecar.decide.keys import KeySet
from sidecar.decide.strict import beyond_cel, json_object
from sidecar.decide.tokens import (
    MAX_TOKEN,
    WEIGHT,
    Bad,
    Issuer,
    Rejected,
    Verified,
    check_audience,
    check_times,
    identity_of,
)

NO_KEYS: Final = KeySet(())
INACTIVE: Final = Rejected("introspection_inactive", "The token is not valid.")
_TYPES: Final = frozenset(("bearer", "dpop"))
_USES: Final = frozenset(("access_token", "access"))
TOO_LARGE: Final = Rejected("too_large", "The token is too large.")


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is; never the secret. `file` and `variable`: one of them is set."""

    file: str = ""
    variable: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Introspector:
    """A TokenIssuer that is asked about opaque tokens, compiled. Times are seconds.

    It is asked about credentials that begin with `prefix` (any, where it is empty) and that stand
    at `location` (any, where it is None). `mark` tells it from every other description of it.
    """

    issuer: Issuer
    endpoint: str
    client_id: str
    method: Literal["client_secret_basic", "private_key_jwt", "tls_client_auth"]
    secret: Secret
    """The client's secret, or its private key (PEM)."""
    certificate: Secret
    ca: Secret
    key_id: str
    prefix: bytes
    location: Location | None
    cache: float
    negative_cache: float
    audience_optional: bool
    mark: bytes

    def asked_about(self, token: bytes, location: Location | None) -> bool:
        """Whether a credential that stands there is one of its own."""
        if self.location is not None and self.location != location:
            return False
        return token.startswith(self.prefix)


@final
class Unknown:
    """Nobody could say whether a token stands. `why` is for logs."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


Answer = Verified | Rejected | Unknown
"""What is known of one token."""


def whose(
    token: bytes, location: Location | None, introspectors: Sequence[Introspector]
) -> Introspector | None:
    """Who is asked about a credential: exactly one, since they are disjoint (`overlap`), or none.

    What has the form of a JWT is checked here instead, unless its prefix says that it is none.
    """
    for each in introspectors if token else ():
        if each.asked_about(token, location) and (each.prefix or token.count(b".") not in (2, 4)):
            return each
    return None


def overlap(one: Introspector, other: Introspector) -> bool:
    """Whether some credential could be of both."""
    apart = (
        one.location is not None and other.location is not None and one.location != other.location
    )
    return not apart and (
        one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)
    )


def key_of(introspector: Introspector, token: bytes) -> bytes:
    """What an answer is remembered by; another description of its issuer asks anew."""
    return introspector.mark + hashlib.sha256(token).digest()


def read(body: bytes, introspector: Introspector, token: bytes, now: float) -> Answer:
    """What the endpoint's 200 says (RFC 7662 section 2.2). Never raises."""
    try:
        claims = json_object(body)
    except ValueError:
        return Unknown("it answered with no sound JSON")
    active = claims.pop("active", None)
    if active is False:
        return INACTIVE
    if active is not True:
        return Unknown("its answer does not say whether the token is active")
    try:
        return _read(claims, introspector, WEIGHT + 2 * len(token) + 4 * len(body), now)
    except Bad as bad:
        return bad.rejected


def _read(claims: dict[str, Any], introspector: Introspector, weight: int, now: float) -> Verified:
    issuer = introspector.issuer
    if claims.get("iss", issuer.issuer) != issuer.issuer:
        raise Bad("issuer_unknown", "The token is of another issuer.")
    expires = check_times(claims, issuer.skew, now, required=False)
    if "aud" in claims or not introspector.audience_optional:
        check_audience(claims, issuer)
    _access_token(claims)
    identity = identity_of(claims, issuer)
    claims["iss"] = issuer.issuer
    opaque = frozenset([name for name, value in claims.items() if beyond_cel(value)])
    until = min(expires, now + introspector.cache)
    return Verified(identity, claims, opaque, until, None, weight, ends=expires)


def _access_token(claims: Mapping[str, Any]) -> None:
    """Issuers know refresh tokens as active too (RFC 7662 section 2.1); some say which is which, in
    `token_type` or in a `token_use` of their own. Neither those nor ID tokens are for us."""
    kind = claims.get("token_type", "bearer")
    use = claims.get("token_use", "access_token")
    known = isinstance(kind, str) and kind.lower() in _TYPES
    if not known or not isinstance(use, str) or use.lower() not in _USES:
        raise Bad("type_not_admitted", "The token is not an access token.")
    if kind.lower() == "dpop" and "cnf" not in claims:
        raise Bad("binding_malformed", "The token is bound, and its issuer does not say to what.")


def held(answer: Answer, introspector: Introspector, now: float) -> float:
    """Until when an answer is believed."""
    if type(answer) is Verified:
        return answer.expires
    if type(answer) is Rejected:
        return now + introspector.negative_cache
    return now + UNKNOWN_FOR


UNKNOWN_FOR: Final = 1.0  # seconds until somebody who could not answer is asked again about a token


def too_large(token: bytes) -> bool:
    """Whether nobody is asked about it."""
    return len(token) > MAX_TOKEN


def describes(spec: Mapping[str, Any]) -> bytes:
    """A mark of everything that an answer may depend on."""
    return hashlib.sha256(repr(sorted(spec.items())).encode()).digest()[:8]
