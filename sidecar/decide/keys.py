"""JWK Set -> keys that can verify signatures. Keys that cannot are left out, never misused.

The algorithm a key may verify follows from the key itself and, where given, its `alg`; never from
the token. Sources: RFC 7517, RFC 7518, RFC 8037; RFC 8725 section 3.1 for binding key to algorithm.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt import algorithms
from jwt.exceptions import InvalidKeyError

from sidecar.decide.pace import pause

MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
MAX_RSA_BITS: Final = 8192  # beyond it one check costs a millisecond and more

_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
PRIVATE_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
"""Of a JWK (RFC 7518 section 6): whoever reads one of these can sign."""

VERIFIERS: Final[Mapping[str, algorithms.Algorithm]] = {
    "RS256": algorithms.RSAAlgorithm(algorithms.RSAAlgorithm.SHA256),
    "RS384": algorithms.RSAAlgorithm(algorithms.RSAAlgorithm.SHA384),
    "RS512": algorithms.RSAAlgorithm(algorithms.RSAAlgorithm.SHA512),
    "PS256": algorithms.RSAPSSAlgorithm(algorithms.RSAPSSAlgorithm.SHA256),
    "PS384": algorithms.RSAPSSAlgorithm(algorithms.RSAPSSAlgorithm.SHA384),
    "PS512": algorithms.RSAPSSAlgorithm(algorithms.RSAPSSAlgorithm.SHA512),
    "ES256": algorithms.ECAlgorithm(algorithms.ECAlgorithm.SHA256),
    "ES384": algorithms.ECAlgorithm(algorithms.ECAlgorithm.SHA384),
    "ES512": algorithms.ECAlgorithm(algorithms.ECAlgorithm.SHA512),
    "EdDSA": algorithms.OKPAlgorithm(),
}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key and the algorithms it may verify. `name` is its `kid`, else its thumbprint."""

    kid: str | None
    algorithms: frozenset[str]
    key: Any
    name: str = ""

    def verifies(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `message`; never raises."""
        if algorithm not in self.algorithms:
            return False
        try:
            return bool(VERIFIERS[algorithm].verify(message, self.key, signature))
        except (ValueError, TypeError, InvalidKeyError):
            return False


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """An issuer's keys at one moment. Caches compare key sets by identity: new keys, new object."""

    keys: tuple[VerificationKey, ...]
    left_out: tuple[str, ...] = ()

    def fitting(self, algorithm: str, kid: str | None) -> list[VerificationKey]:
        """Keys that may have made a signature. Without a `kid` in the token, all that fit."""
        return [
            key
            for key in self.keys
            if algorithm in key.algorithms and (kid is None or key.kid == kid)
        ]


def private_members(jwks: Any) -> str:
    """Which keys hold members that must stay secret, by place and member; never their values."""
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    return ", ".join(
        f"keys[{place}].{member}"
        for place, key in enumerate(keys if isinstance(keys, list) else [])
        if isinstance(key, dict)
        for member in sorted(PRIVATE_MEMBERS & key.keys())
    )


def parse_jwks(jwks: Any) -> KeySet:
    """A JWK Set (decoded JSON) as a KeySet. Raises ValueError if there is no usable key."""
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list):
        raise ValueError("not a JWK Set: an object with a list `keys` is expected (RFC 7517)")
    if len(keys) > MAX_KEYS:
        raise ValueError(f"a JWK Set of more than {MAX_KEYS} keys")
    usable: list[VerificationKey] = []
    left_out: list[str] = []
    for place, jwk in enumerate(keys):
        pause()
        try:
            usable.append(parse_jwk(jwk))
        except ValueError as error:
            left_out.append(f"key {place}: {error}")
    if not usable:
        raise ValueError("a JWK Set without a usable key" + "".join(f"; {why}" for why in left_out))
    return KeySet(tuple(usable), tuple(left_out))


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """RFC 7638: of the members that make the key, in their order. Raises ValueError."""
    names = _MEMBERS.get(str(jwk.get("kty")))
    if names is None or not all(isinstance(jwk.get(name), str) for name in names):
        raise ValueError("not a public key")
    text = json.dumps({name: jwk[name] for name in names}, separators=(",", ":"))
    return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode("ascii")


_MEMBERS: Final = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}


def parse_jwk(jwk: Any) -> VerificationKey:
    """One public JWK. Raises ValueError with why it cannot verify signatures."""
    if not isinstance(jwk, dict):
        raise ValueError("not an object")
    if jwk.get("use", "sig") != "sig":
        raise ValueError("not for signatures (`use`)")
    operations = jwk.get("key_ops")
    if operations is not None and (
        not isinstance(operations, list) or not {"verify", "sign"} & {str(op) for op in operations}
    ):
        raise ValueError("not for verifying (`key_ops`)")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("`kid` is not text")
    public = {name: value for name, value in jwk.items() if name not in PRIVATE_MEMBERS}
    key, fitting = _public_key(public)
    named = jwk.get("alg")
    if named is not None:
        if not isinstance(named, str) or named not in fitting:
            raise ValueError(f"`alg` {named!r} does not fit the key")
        fitting = frozenset((named,))
    return VerificationKey(kid, fitting, key, kid or thumbprint(public))


def _public_key(jwk: dict[str, Any]) -> tuple[Any, frozenset[str]]:
    try:
        match jwk.get("kty"):
            case "RSA":
                key: Any = algorithms.RSAAlgorithm.from_jwk(jwk)
            case "EC":
                key = algorithms.ECAlgorithm.from_jwk(jwk)
            case "OKP":
                key = algorithms.OKPAlgorithm.from_jwk(jwk)
            case other:
                raise ValueError(f"key type {str(other)[:40]!r} is not one for signatures")
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001  (PyJWT and cryptography raise many kinds on odd input)
        raise ValueError(str(error) or "malformed") from None
    return key, _fitting(key)


def _fitting(key: Any) -> frozenset[str]:
    match key:
        case rsa.RSAPublicKey():
            if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
                raise ValueError(f"an RSA key of {key.key_size} bits")
            return _RSA
        case ec.EllipticCurvePublicKey():
            curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
            if key.curve.name not in curves:
                raise ValueError(f"curve {key.curve.name} is not admitted")
            return frozenset((curves[key.curve.name],))
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return frozenset(("EdDSA",))
    raise ValueError("not a signature key")
