"""Who calls, as far as a credential says: found, verified, not withdrawn, bound to who shows it.

The one place where credentials of every kind come together. What costs little comes first, and an
address whose credentials keep failing waits before any signature is checked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import msgspec

from sidecar.decide import api_keys, introspection, proofs
from sidecar.decide.bindings import ExpiringAnswers
from sidecar.decide.cache import ExpiringCache, Key
from sidecar.decide.credentials import Credential, find, same_origin
from sidecar.decide.journey import CompiledIdentity
from sidecar.decide.outcomes import Code, NeedIntrospection, NeedKeys, Permit, RememberProof
from sidecar.decide.rates import Rate
from sidecar.decide.request import Request
from sidecar.decide.revocations import Revocations
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subjects, nobody_known
from sidecar.decide.tokens import KeyState, KeysUnavailable, Rejected, Verified, digest, verify

Failing = Callable[[str, Rate, float], float]
"""(address, rate, now) -> seconds until another bad credential from there is within the rate."""


def _nobody_asks(address: str) -> bool:
    return False


Replayed = Callable[[RememberProof], bool]
"""Whether a proof was used before. Only whoever commits the effect knows for sure."""


def _nobody_fails(address: str, rate: Rate, now: float) -> float:
    return 0.0


def _nothing_replayed(proof: RememberProof) -> bool:
    return False


class _NoAnswers:
    """Where no enricher is asked."""

    def get(self, key: bytes, now: float) -> None:
        return None


NO_ANSWERS = _NoAnswers()


def _never_lost() -> None:
    return None


def _no_visitor(request: Request, policy: CompiledIdentity) -> str:
    return ""


@dataclass(frozen=True)
class Evidence:
    """What is known beyond the request: keys by issuer, who fails a lot, which proofs were used
    and what nonces are made with, what was withdrawn, what issuers say of opaque tokens and who
    asks too much of that at a time, what is known of subjects, and since when nobody could be asked
    of them any more (None: they can), what enrichers answered, which visitor a cookie names, and
    two memories, of tokens verified and of permits given before."""

    keys: Mapping[str, KeyState]
    tokens: ExpiringCache[bytes, Verified]
    decisions: ExpiringCache[Key, Permit]
    failing: Failing = _nobody_fails
    replayed: Replayed = _nothing_replayed
    nonce_key: bytes = b""
    revocations: Revocations = field(default_factory=Revocations)
    answers: ExpiringCache[bytes, introspection.Answer] = field(
        default_factory=lambda: ExpiringCache(1)
    )
    asking: Callable[[str], bool] = _nobody_asks
    subjects: Subjects = nobody_known
    enriched: ExpiringAnswers = NO_ANSWERS
    lost: Callable[[], float | None] = _never_lost
    visitor: Callable[[Request, CompiledIdentity], str] = _no_visitor


@final
class Caller(msgspec.Struct, frozen=True):
    """What the credential says. All empty is an anonymous caller without a credential.

    `dpop`: it is, or should be, presented with that scheme. `proof` is what came with it, `nonce`
    what the caller's next one must carry. `suspect` is whose credential it is that is `rejected`
    although it was signed well: somebody else may have it.
    """

    verified: Verified | None = None
    rejected: Rejected | None = None
    unavailable: str = ""  # why
    cross_origin: bool = False
    dpop: bool = False
    proof: RememberProof | None = None
    nonce: str = ""
    suspect: Verified | None = None


@final
class Throttled(msgspec.Struct, frozen=True):
    """A credential that is not even checked: too many of this address did not stand, or are being
    asked about."""

    wait: float
    reason: str = "failed_credentials"
    detail: str = "Too many credentials from this address were not valid."


NOBODY = Caller()
_CROWDED = "Too many credentials from this address are being checked; try again."
_REVOKED = Rejected("revoked", "The credential was withdrawn.")


def look(
    request: Request, snapshot: Snapshot, evidence: Evidence, now: float, reviewed: bool
) -> Caller | NeedKeys | NeedIntrospection | Throttled:
    """The caller, or what must be fetched first, or how long to wait. `reviewed`: its proof was
    used before, when the request was permitted."""
    credential = find(request, snapshot.service.credentials)
    if credential is None:
        return NOBODY
    if credential.malformed:
        return Caller(rejected=Rejected("malformed", f"The credential is {credential.malformed}."))
    verified = _verified(credential, request.address, snapshot, evidence, now, reviewed)
    if isinstance(verified, Verified):
        if evidence.revocations.revokes(verified, now):
            return Caller(rejected=_REVOKED, dpop=credential.dpop, suspect=verified)
        if credential.dpop or "cnf" in verified.claims:
            return _bound(request, credential, verified, snapshot, evidence, now, reviewed)
        return Caller(verified, cross_origin=credential.cookie and not same_origin(request))
    if isinstance(verified, KeysUnavailable):
        return Caller(unavailable=verified.reason, dpop=credential.dpop)
    if isinstance(verified, Rejected):
        return Caller(rejected=verified, dpop=credential.dpop)
    return verified


def _bound(
    request: Request,
    credential: Credential,
    verified: Verified,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    reviewed: bool,
) -> Caller | Throttled:
    """Whether who presents a bound credential holds what it is bound to. The one place for it."""
    service = snapshot.service
    found = proofs.check(
        request, credential, verified.claims, service.dpop, evidence,
        service.failed_credentials, now, fresh=not reviewed,
    )  # fmt: skip
    if isinstance(found, Rejected):
        nonce = proofs.nonce(service.dpop, evidence.nonce_key, now, found.code)
        # A challenge names the scheme that would have been right.
        dpop = credential.dpop or proofs.wants_key(verified.claims)
        suspect = None if found.code is Code.NONCE else verified
        return Caller(rejected=found, dpop=dpop, nonce=nonce, suspect=suspect)
    if isinstance(found, float):
        return Throttled(found)
    cross_origin = credential.cookie and not same_origin(request)
    return Caller(verified, None, "", cross_origin, credential.dpop, found.effect, found.nonce)


def _verified(
    credential: Credential,
    address: str,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    reviewed: bool,
) -> Verified | Rejected | KeysUnavailable | NeedKeys | NeedIntrospection | Throttled:
    token = credential.token
    if snapshot.introspectors:
        asked = introspection.whose(token, credential.location, snapshot.introspectors)
        if asked is not None:
            return _introspected(token, asked, address, snapshot, evidence, now, reviewed)
    if snapshot.api_keys and api_keys.looks_like(token):
        found = api_keys.check(token, snapshot.api_keys, now)
        wait = 0.0
        if isinstance(found, Rejected):
            wait = evidence.failing(address, snapshot.service.failed_credentials, now)
        return Throttled(wait) if wait > 0 else found
    key = snapshot.trust + digest(token)
    cached = evidence.tokens.get(key, now)
    if cached is not None and is_current(cached, evidence):
        return cached
    # Before the costly part; what was verified before passes whatever its address does, and what
    # goes on (a tunnel) is looked at again whatever it does: nobody may keep theirs open that way.
    wait = evidence.failing(address, snapshot.service.failed_credentials, now)
    if wait > 0 and not reviewed:
        return Throttled(wait)
    result = verify(token, snapshot.issuers, evidence.keys, now)
    if isinstance(result, Verified):
        evidence.tokens.put(key, result, result.expires, result.weight)
    return result


def _introspected(
    token: bytes,
    asked: introspection.Introspector,
    address: str,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    reviewed: bool,
) -> Verified | Rejected | KeysUnavailable | NeedIntrospection | Throttled:
    if introspection.too_large(token):
        return introspection.TOO_LARGE
    key = introspection.key_of(asked, token)
    known = evidence.answers.get(key, now)
    if type(known) is introspection.Unknown:
        return KeysUnavailable(asked.issuer.issuer, "introspection_unavailable")
    if known is not None:
        return known
    if not reviewed:
        wait = evidence.failing(address, snapshot.service.failed_credentials, now)
        if wait > 0:
            return Throttled(wait)
        if evidence.asking(address):
            return Throttled(1.0, "introspection_crowded", _CROWDED)
    return NeedIntrospection(key, asked.issuer.issuer, token, address, reviewed)


def is_current(verified: Verified, evidence: Evidence) -> bool:
    """Whether the keys that verified it are still its issuer's; documents change with snapshots."""
    if verified.fetched is None:
        return True
    state = evidence.keys.get(verified.identity.issuer)
    return state is not None and state.keys is verified.fetched
