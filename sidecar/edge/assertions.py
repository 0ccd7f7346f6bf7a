"""What the upstream is told of a caller, signed: `x-sidecar-assertion`, a JWT of a few minutes.

Every worker of a sidecar derives the same keys from the secret that they share, a new one for each
day, so nothing has to be handed around and the JWK Set says tomorrow's key today. The secret ends
with the sidecar. Sources: RFC 7515, RFC 7519, RFC 7638 (key ids), RFC 9493 (`sub_id`), RFC 5869.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt import algorithms

from sidecar.decide.challenge import Answer
from sidecar.decide.keys import VERIFIERS, thumbprint
from sidecar.decide.outcomes import Permit
from sidecar.decide.snapshot import AssertionTerms
from sidecar.decide.tokens import Verified

PATH: Final = "/.well-known/sidecar/jwks.json"
HEADER: Final = b"x-sidecar-assertion: "
TYPE: Final = "sidecar-assertion+jwt"  # so that none is taken for another kind of token (RFC 8725)
PERIOD: Final = 86_400.0  # seconds that a key signs
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
# RFC 6749 section 3.3. Where scopes come as a list, one with a blank in it would become two.
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
_KINDS: Final = ("ES256", "EdDSA")
_MEMBERS: Final[tuple[str, ...]] = ("kty", "crv", "x", "y")


@dataclass(frozen=True, slots=True)
class _Key:
    """One day's key. `head` is the first part of every token that it signs, with its dot."""

    algorithm: str
    private: Any
    jwk: Mapping[str, Any]
    head: bytes


class _Made:
    """An assertion, as a header line, and until when it is said again."""

    __slots__ = ("customer", "line", "terms", "until")

    def __init__(self, line: bytes, terms: AssertionTerms, until: float, customer: str) -> None:
        self.customer = customer
        self.line = line
        self.terms = terms
        self.until = until


class Asserter:
    """One per process. `secret` is the sidecar's; left out, this process is all there is of it."""

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = secret or os.urandom(32)
        self._keys: dict[tuple[str, int], _Key] = {}
        self.signed = 0

    def line(self, permit: Permit, terms: AssertionTerms, now: float) -> bytes:
        """The header line with its end; empty for a caller without an identity.

        Said again for the same credential until half its life is over, so that who verifies it
        always has the other half.
        """
        identity = permit.identity
        if identity is None:
            return b""
        verified: Verified | None = permit.verified  # whose identity it is
        if verified is not None:
            known: _Made | None = verified.assertion
            if (
                known is not None
                and known.terms is terms
                and known.customer == permit.customer
                and now < known.until
            ):
                return known.line
        # Not `permit.expires`: an opaque token is believed for seconds and stands for longer.
        ends = [each.ends for each in (verified, permit.beside) if each is not None]
        expires = min(now + terms.lifetime, *(ends or [permit.expires]))
        claims: dict[str, Any] = {
            "iss": terms.issuer,
            "aud": terms.audience,
            "sub": identity.subject,
            "sub_id": {"format": "iss_sub", "iss": identity.issuer, "sub": identity.subject},
            "iat": int(now),
            "exp": int(expires),
            "jti": os.urandom(12).hex(),
        }
        if permit.customer:
            claims["customer_id"] = permit.customer
        scopes = [each for each in identity.scopes if _SCOPE.fullmatch(each)]
        if scopes:
            claims["scope"] = " ".join(sorted(scopes))
        key = self._key(terms.algorithm, int(now // PERIOD))
        signed = key.head + _base64url(orjson.dumps(claims))
        signature = VERIFIERS[key.algorithm].sign(signed, key.private)
        line = b"".join((HEADER, signed, b".", _base64url(signature), b"\r\n"))
        self.signed += 1
        if verified is not None:
            until = now + (expires - now) / 2
            verified.assertion = _Made(line, terms, until, permit.customer)
        return line

    def jwks(self, now: float) -> Answer:
        """The keys of yesterday, today and tomorrow, for whoever verifies (RFC 7517)."""
        today = int(now // PERIOD)
        keys = [
            self._key(algorithm, day).jwk
            for algorithm in _KINDS
            for day in (today - 1, today, today + 1)
        ]
        headers = [
            (b"content-type", b"application/jwk-set+json"),
            (b"cache-control", b"public, max-age=300"),
        ]
        return Answer(200, headers, orjson.dumps({"keys": keys}))

    def _key(self, algorithm: str, day: int) -> _Key:
        found = self._keys.get((algorithm, day))
        if found is None:
            found = _derived(self._secret, algorithm, day)
            self._keys = {at: key for at, key in self._keys.items() if at[1] >= day - 3}
            self._keys[(algorithm, day)] = found
        return found


def _derived(secret: bytes, algorithm: str, day: int) -> _Key:
    """48 bytes are 128 bits more than a P-256 scalar has, so that none is favoured (FIPS 186-5
    appendix A.2.1); any 32 bytes are an Ed25519 key (RFC 8032 section 5.1.5)."""
    info = f"sidecar assertion {algorithm} {day}".encode()
    material = HKDF(algorithm=hashes.SHA256(), length=48, salt=None, info=info).derive(secret)
    private: Any
    if algorithm == "ES256":
        scalar = int.from_bytes(material, "big") % (_ORDER - 1) + 1
        private = ec.derive_private_key(scalar, ec.SECP256R1())
        jwk = algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        private = ed25519.Ed25519PrivateKey.from_private_bytes(material[:32])
        jwk = algorithms.OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    members: dict[str, Any] = {name: jwk[name] for name in _MEMBERS if name in jwk}
    kid = thumbprint(members)
    head = {"alg": algorithm, "kid": kid, "typ": TYPE}
    public = {**members, "kid": kid, "alg": algorithm, "use": "sig"}
    return _Key(algorithm, private, public, _base64url(orjson.dumps(head)) + b".")


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
