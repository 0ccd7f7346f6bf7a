"""The issuer of the benchmark: one RS256 key, good tokens, and each kind of bad one."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ISSUER: Final = "https://idp.example"
AUDIENCE: Final = "accounts"
SCOPE: Final = "accounts:read"
_KID: Final = "bench"
_LIFE: Final = 6 * 3600  # longer than any run


class Mint:
    """Makes tokens of about 650 bytes, the size of a usual access token."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self._key.public_key()
        self.pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
        self.jwks = json.dumps({"keys": [{**jwk, "kid": _KID, "alg": "RS256", "use": "sig"}]})

    def good(self, number: int = 0) -> str:
        return self._token(number)

    def expired(self) -> str:
        now = int(time.time())
        return self._token(0, iat=now - 7200, exp=now - 3600)

    def badly_signed(self) -> str:
        """Another token's signature: well-formed, of the right length, and wrong."""
        signed, _, _ = self._token(0).rpartition(".")
        _, _, signature = self._token(1).rpartition(".")
        return f"{signed}.{signature}"

    def without_scope(self) -> str:
        return self._token(0, scope="accounts:list profile")

    def for_another(self) -> str:
        return self._token(0, aud="another")

    def _token(self, number: int, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": f"customer-{number:06}", "iat": now,
            "exp": now + _LIFE, "jti": f"{number:032x}", "scope": f"openid {SCOPE} profile",
            "tenant": f"tenant-{number % 7}", "client_id": "mobile-app",
        }  # fmt: skip
        return jwt.encode({**claims, **changes}, self._key, "RS256", headers={"kid": _KID})
