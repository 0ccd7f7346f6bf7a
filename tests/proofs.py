"""DPoP proofs as callers make them, and as attackers do."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Callable
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from sidecar.decide.dpop import thumbprint

_jti: Final = itertools.count()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class Prover:
    """Who holds a key. `proof` is right unless told otherwise."""

    def __init__(self, key: Any = None, algorithm: str = "ES256") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        self.algorithm = algorithm
        self._signer = jwt.get_algorithm_by_name(algorithm)
        self.jwk = _jwk(self.key)
        self.thumbprint = thumbprint(self.jwk)

    def sign(self, said: bytes) -> bytes:
        return bytes(self._signer.sign(said, self.key))

    def header(self, **more: Any) -> dict[str, Any]:
        return {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk, **more}

    def claims(
        self, method: str, target: str, token: str, now: float, **more: Any
    ) -> dict[str, Any]:
        """`more` over what is right; None leaves a claim out."""
        found = {
            "jti": f"jti-{next(_jti)}", "htm": method, "htu": target, "iat": int(now),
            "ath": b64(hashlib.sha256(token.encode()).digest()), **more,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def signed(
        self, header: Any, claims: Any, sign: Callable[[bytes], bytes] | None = None
    ) -> bytes:
        """Exactly these, whatever they say; bytes go as they are."""
        said = f"{b64(text(header))}.{b64(text(claims))}".encode()
        return said + b"." + b64((sign or self.sign)(said)).encode()

    def proof(self, method: str, target: str, token: str, now: float, **more: Any) -> bytes:
        return self.signed(self.header(), self.claims(method, target, token, now, **more))


def _jwk(key: Any) -> dict[str, Any]:
    public = key.public_key()
    match public:
        case rsa.RSAPublicKey():
            found = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            found = jwt.algorithms.OKPAlgorithm.to_jwk(public, as_dict=True)
        case _:
            found = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    return {
        name: value for name, value in found.items() if name in ("kty", "crv", "x", "y", "n", "e")
    }
