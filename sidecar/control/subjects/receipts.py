"""Receipts of what a customer decided, signed: who, what, in which words, when, by which way.

Each names the digest of the one before it, so none can be left out of a customer's receipts. A
compact JWS (RFC 7515, RFC 8037), so that anybody can verify it who has the published key. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt import api_jws

from sidecar.control.subjects.records import to_json
from sidecar.decide.keys import thumbprint
from sidecar.errors import SidecarError

CONSENT: Final = "consent-receipt+jwt"  # types, so that none is taken for another (RFC 8725)
ERASURE: Final = "erasure-certificate+jwt"
LONGEST: Final = 262_144  # characters of one


class ReceiptRefused(SidecarError):
    """A receipt that is none of ours, or was changed."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """`number` counts from 1 within the customer; `jws` is what they are given."""

    id: str
    customer: str
    number: int
    consent: str
    at: float
    jws: str


def sign(claims: Mapping[str, Any], secret: bytes, type_: str) -> str:
    """`secret` is a raw Ed25519 key (32 bytes)."""
    key = Ed25519PrivateKey.from_private_bytes(secret)
    header = {"typ": type_, "kid": thumbprint(_jwk(key.public_key()))}
    return api_jws.encode(to_json(claims).encode("ascii"), key, "EdDSA", headers=header)


def published(secret: bytes) -> dict[str, Any]:
    """The JWK Set (RFC 7517) that verifies what `secret` signed."""
    jwk = _jwk(Ed25519PrivateKey.from_private_bytes(secret).public_key())
    return {"keys": [{**jwk, "kid": thumbprint(jwk), "alg": "EdDSA", "use": "sig"}]}


def verify(receipt: str, jwks: Mapping[str, Any], type_: str = CONSENT) -> dict[str, Any]:
    """The claims of one that was signed by a key of the set. Raises ReceiptRefused."""
    if len(receipt) > LONGEST:
        raise ReceiptRefused("longer than any receipt")
    try:
        header = jwt.get_unverified_header(receipt)
        if header.get("typ") != type_:
            raise ReceiptRefused(f"not of the type {type_}")
        for key in jwks["keys"]:
            if key.get("kid") == header.get("kid") and key.get("crv") == "Ed25519":
                payload = api_jws.decode(receipt, jwt.PyJWK(key, "EdDSA").key, ["EdDSA"])
                claims: dict[str, Any] = json.loads(payload)
                return claims
    except (jwt.PyJWTError, ValueError, KeyError, TypeError) as error:
        raise ReceiptRefused(f"not a receipt of this store: {type(error).__name__}") from None
    raise ReceiptRefused("signed by a key that is not in the set")


def verify_all(receipts: Sequence[str], jwks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The claims of all receipts of one customer, in order; none is missing before the last.
    Raises ReceiptRefused."""
    previous = ""
    found: list[dict[str, Any]] = []
    for number, receipt in enumerate(receipts, 1):
        claims = verify(receipt, jwks)
        if claims["number"] != number or claims["previous"] != previous:
            raise ReceiptRefused(f"receipt {number} does not follow the one before it")
        if found and claims["sub"] != found[0]["sub"]:
            raise ReceiptRefused(f"receipt {number} is somebody else's")
        previous = digest(receipt)
        found.append(claims)
    return found


def claims(receipt: str) -> dict[str, Any]:
    """Of one that comes from the store itself."""
    payload = receipt.split(".")[1]
    found: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return found


def digest(receipt: str) -> str:
    """By which the next one names it: SHA-256 of the compact form, base64url."""
    found = hashlib.sha256(receipt.encode("ascii")).digest()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode("ascii")


def _jwk(key: Ed25519PublicKey) -> dict[str, str]:
    x = base64.urlsafe_b64encode(key.public_bytes_raw()).rstrip(b"=").decode("ascii")
    return {"kty": "OKP", "crv": "Ed25519", "x": x}
