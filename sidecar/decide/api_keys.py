"""(id.secret, keys, now) -> Verified or Rejected: credentials that a document holds the hash of.

A secret is long and random, so one SHA-256 is enough to keep it: there is nothing to guess, and a
slow hash would only slow the requests (NIST SP 800-63B section 5.1.2.2 asks for no more). No key is
remembered once verified: a look-up and a hash cost less than finding a remembered token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sidecar.decide.outcomes import Identity
from sidecar.decide.strict import beyond_cel
from sidecar.decide.tokens import WEIGHT, Rejected, Verified

ISSUER: Final = "api-key"
"""Who vouches for the caller, where tokens name their `iss`."""
RESERVED: Final = frozenset(("iss", "sub", "scope", "exp", "cnf"))
"""Attributes that say what the document says elsewhere."""
MAX_KEY: Final = 512  # bytes of `id.secret`

_UNKNOWN: Final = Rejected("api_key_unknown", "The API key is not valid.")
_WRONG: Final = Rejected("api_key_wrong", "The API key is not valid.")
_EXPIRED: Final = Rejected("expired", "The API key has expired.")


class ApiKey:
    """One key, compiled. `digest` is the SHA-256 of the secret; `expires` is seconds since the
    epoch."""

    __slots__ = ("_attributes", "_id", "_scopes", "_subject", "_verified", "digest", "expires")

    def __init__(
        self,
        id_: str,
        digest: bytes,
        subject: str,
        scopes: tuple[str, ...],
        attributes: Mapping[str, Any],
        expires: float,
    ) -> None:
        self.digest = digest
        self.expires = expires
        self._id = id_
        self._subject = subject
        self._scopes = scopes
        self._attributes = attributes
        self._verified: Verified | None = None

    def verified(self) -> Verified:
        """What the key stands for; the same object each time. Made when it first comes: of many
        keys few are used at one sidecar."""
        known = self._verified
        if known is None:
            claims = {
                **self._attributes,
                "iss": ISSUER,
                "sub": self._subject,
                "scope": " ".join(self._scopes),
            }
            opaque = frozenset([name for name, value in claims.items() if beyond_cel(value)])
            identity = Identity(ISSUER, self._subject, frozenset(self._scopes))
            known = Verified(identity, claims, opaque, self.expires, None, WEIGHT, self._id)
            self._verified = known
        return known


ApiKeys = Mapping[bytes, ApiKey]
"""By id."""


def looks_like(credential: bytes) -> bool:
    """Whether a credential has the form `id.secret`: one dot, where a JWT has two."""
    return credential.count(b".") == 1


def check(credential: bytes, keys: ApiKeys, now: float) -> Verified | Rejected:
    """Whose key it is. All that is wrong looks the same to the caller, and takes as long."""
    if len(credential) > MAX_KEY:
        return _UNKNOWN
    id_, _, secret = credential.partition(b".")
    key = keys.get(id_)
    digest = hashlib.sha256(secret).digest()
    if not hmac.compare_digest(digest, _NOBODYS if key is None else key.digest):
        return _UNKNOWN if key is None else _WRONG
    if key is None:
        return _UNKNOWN
    return _EXPIRED if now >= key.expires else key.verified()


_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_NOBODYS: Final = bytes(32)  # the hash of nothing that anybody knows


def expiry(text: str) -> float:
    """RFC 3339 as seconds since the epoch. Raises ValueError."""
    if not _MOMENT.fullmatch(text):
        raise ValueError("not as in RFC 3339")
    moment = datetime.fromisoformat(text.upper())
    if moment.tzinfo is None:
        raise ValueError("without a time zone")
    return moment.timestamp()
