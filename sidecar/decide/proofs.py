"""Whether a caller holds what its token is bound to: a key (DPoP) or a certificate (mutual TLS).

A bound token without its proof is refused whether or not a rule asks for one. Sources: RFC 7800
(`cnf`), RFC 8705 section 3 (certificates), RFC 9449 sections 6 and 7 (keys).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from sidecar.decide import nonces
from sidecar.decide.credentials import Credential
from sidecar.decide.dpop import Dpop, examine
from sidecar.decide.outcomes import Code, RememberProof
from sidecar.decide.rates import Rate
from sidecar.decide.request import Request
from sidecar.decide.tokens import Rejected

_MEMBERS: Final = frozenset(("jkt", "x5t#S256"))
_THUMBPRINT: Final = 43  # characters: base64url of a SHA-256


@dataclass(frozen=True, slots=True)
class Binding:
    """What a token is bound to: thumbprints of a key and of a certificate, or empty."""

    key: str = ""
    certificate: str = ""


def binding(claims: Mapping[str, Any]) -> Binding | Rejected:
    """What `cnf` says, which must be there. What is not understood cannot be proven (RFC 7800
    section 3.1 lets it be ignored, which would make a bearer token of a bound one)."""
    cnf = claims["cnf"]
    if not isinstance(cnf, dict) or not cnf:
        return Rejected("binding_malformed", "The token's cnf is not an object that binds it.")
    if any(member not in _MEMBERS for member in cnf):
        return Rejected("binding_unknown", "The token is bound in a way that is not known here.")
    for value in cnf.values():
        if not isinstance(value, str) or len(value) != _THUMBPRINT:
            return Rejected("binding_malformed", "The token is bound to what is no thumbprint.")
    return Binding(cnf.get("jkt", ""), cnf.get("x5t#S256", ""))


def shown(claims: Mapping[str, Any]) -> frozenset[str]:
    """Which proofs were made by a caller whose token stands: those that the token demands."""
    cnf = claims.get("cnf")
    if not isinstance(cnf, dict):
        return _NOTHING
    return frozenset(kind for member, kind in _KINDS if member in cnf)


_NOTHING: Final[frozenset[str]] = frozenset()
_KINDS: Final = (("jkt", "dpop"), ("x5t#S256", "mtls"))


class Known(Protocol):
    """What is known beyond the request: `caller.Evidence`."""

    @property
    def failing(self) -> Callable[[str, Rate, float], float]:
        """Seconds until another bad credential from this address is within the rate."""

    @property
    def replayed(self) -> Callable[[RememberProof], bool]:
        """Whether a proof was used before."""

    @property
    def nonce_key(self) -> bytes:
        """What nonces are made with."""


class Proven(msgspec.Struct, frozen=True):
    """The caller holds what its token is bound to, if `effect` can be committed. `nonce` is to be
    told to the caller, if any is."""

    effect: RememberProof | None = None
    nonce: str = ""


def check(
    request: Request,
    credential: Credential,
    claims: Mapping[str, Any],
    wanted: Dpop,
    known: Known,
    rate: Rate,
    now: float,
    *,
    fresh: bool,
) -> Proven | Rejected | float:
    """Whether a caller holds what its verified `claims` are bound to. A number: so many seconds too
    early, since too many credentials of its address did not stand.

    `fresh` False: it was permitted before and is looked at again, so that its proof was used, and
    its time and nonce have gone by.
    """
    if "cnf" not in claims:
        return _NOT_BOUND  # what is not bound to a key proves nothing by a proof of one
    bound = binding(claims)
    if isinstance(bound, Rejected):
        return bound
    if bound.certificate:
        certificate = request.certificate
        if certificate is None:
            return _NO_CERTIFICATE
        if certificate.thumbprint != bound.certificate:
            return _OTHER_CERTIFICATE
    if not bound.key:
        return _NOT_BOUND if credential.dpop else _PROVEN
    if not credential.dpop:
        return _DOWNGRADED
    proof = examine(request, credential.token, bound.key, wanted, known.nonce_key, now, fresh=fresh)
    if isinstance(proof, Rejected):
        return proof
    if fresh:  # both before the signature, which is what costs
        if known.replayed(proof.effect):
            return REPLAYED
        wait = known.failing(request.address, rate, now)
        if wait > 0:
            return wait
    rejected = proof.stands()
    if rejected is not None:
        return rejected
    return Proven(proof.effect, proof.nonce) if fresh else _PROVEN


REPLAYED: Final = Rejected("proof_replayed", "The proof was used before.", Code.INVALID_PROOF)
_PROVEN: Final = Proven()
# RFC 9449 sections 7.1 and 7.2: the scheme says which tokens are bound, both ways. Or else a thief
# could present a bound token as a bearer token.
_NOT_BOUND: Final = Rejected(
    "not_key_bound", "The token is not bound to a key, as the scheme DPoP says."
)
_DOWNGRADED: Final = Rejected(
    "proof_missing", "The token is bound to a key: it needs the scheme DPoP and a proof."
)
_NO_CERTIFICATE: Final = Rejected(
    "certificate_missing", "The token is bound to a certificate, and none was shown."
)
_OTHER_CERTIFICATE: Final = Rejected(
    "certificate_mismatch", "The token is bound to another certificate than the one shown."
)


def wants_key(claims: Mapping[str, Any]) -> bool:
    """Whether the token is one for the scheme DPoP."""
    return "dpop" in shown(claims)


def nonce(wanted: Dpop, key: bytes, now: float, code: Code) -> str:
    """The nonce to be told with a refusal of this code; empty for others."""
    return nonces.current(key, wanted.max_age, now) if code is Code.NONCE else ""
