"""The decision, step by step: (request, snapshot, evidence, now) -> Permit | Refuse | Need.

Pure: the same in every door, in tests and in explanations. It only reads; the token cache that
`evidence` brings, and the permit kept with a request, are memoisation that no outcome can show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import msgspec

from sidecar.decide import api_keys, introspection, proofs
from sidecar.decide.bindings import Bindings, standing
from sidecar.decide.cache import ExpiringCache, Key, Reads, weight
from sidecar.decide.credentials import Credential, find, same_origin
from sidecar.decide.evaluate import Candidate, Verdict, evaluate
from sidecar.decide.outcomes import (
    NO_OBLIGATIONS,
    Code,
    Need,
    NeedIntrospection,
    NeedKeys,
    Obligations,
    Outcome,
    Permit,
    Plan,
    Refuse,
    RememberProof,
)
from sidecar.decide.plan import plan
from sidecar.decide.rates import Rate
from sidecar.decide.request import Request
from sidecar.decide.revocations import Revocations
from sidecar.decide.snapshot import CompiledRule, Snapshot
from sidecar.decide.tokens import (
    KeyState,
    KeysUnavailable,
    Rejected,
    Verified,
    digest,
    verify,
)
from sidecar.decide.workloads import Workload

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


@dataclass(frozen=True)
class Evidence:
    """What is known beyond the request: keys by issuer, who fails a lot, which proofs were used
    and what nonces are made with, what was withdrawn, what issuers say of opaque tokens and who
    asks too much of that at a time, and two memories, of tokens verified and of permits given
    before."""

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


@final
class _Caller(msgspec.Struct, frozen=True):
    """What the credential says. All empty is an anonymous caller without a credential.

    `dpop`: it is, or should be, presented with that scheme. `proof` is what came with it, `nonce`
    what the caller's next one must carry.
    """

    verified: Verified | None = None
    rejected: Rejected | None = None
    unavailable: str = ""  # why
    cross_origin: bool = False
    dpop: bool = False
    proof: RememberProof | None = None
    nonce: str = ""


@final
class _Throttled(msgspec.Struct, frozen=True):
    """A credential that is not even checked: too many of this address did not stand."""

    wait: float


_NOBODY = _Caller()
_REVOKED = Rejected("revoked", "The credential was withdrawn.")


class _Remembered(msgspec.Struct, frozen=True):
    """A permit that an equal request gets too: under this snapshot and these keys, until then."""

    snapshot: Any  # its mark
    verified: Verified | None
    workload: Verified | None
    permit: Permit
    expires: float


def authorize(
    request: Request,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    reviewed: bool = False,
) -> Outcome:
    """Decide one request. `now` is seconds since the epoch.

    `reviewed`: it was permitted before and goes on (a tunnel). Its proof was used then and is old.
    """
    known: _Remembered | None = request.memo
    if (
        known is not None
        and known.snapshot is snapshot.mark
        and now < known.expires
        and (known.workload is None or not evidence.revocations.revokes(known.workload, now))
    ):
        if known.verified is None:
            return known.permit
        if _current(known.verified, evidence) and not evidence.revocations.revokes(
            known.verified, now
        ):
            evidence.tokens.hits += 1
            return known.permit
    found = snapshot.routes.candidates(request.method, request.host, request.path, request.segments)
    about: _About | None = found.about
    if about is None:
        found.about = about = _About(found.rules)
    candidates = found.rules
    if about.credential_matters:
        if about.without_caller is not None:
            independent = _without_caller(about.without_caller, candidates, request, now)
            if independent is not None:
                return independent
        caller = _look(request, snapshot, evidence, now, reviewed)
        if type(caller) is NeedKeys or type(caller) is NeedIntrospection:
            return Need((caller,))
        if type(caller) is _Throttled:
            return Refuse(
                Code.TOO_MANY_REQUESTS,
                "failed_credentials",
                "Too many credentials from this address were not valid.",
                presented=True,
                realm=snapshot.service.name,
                retry_after=math.ceil(caller.wait),
            )
    else:
        caller = _NOBODY
    bad = caller.rejected is not None or caller.cross_origin or bool(caller.unavailable)
    verified = None if bad else caller.verified
    bindings = Bindings(request, verified, now, evidence.revocations)
    key = None if bad else about.reads.key(found, verified, bindings)
    if key is not None:
        permit = evidence.decisions.get(key, now)
        if permit is not None:
            if caller.dpop:
                return _proven(permit, caller)
            _remember(request, snapshot, verified, permit)
            return permit
    verdict = evaluate(candidates, bindings, verified, presented_bad=bad)
    if verdict.satisfied is not None:
        if caller.unavailable:
            # Had the token been checked, another rule might have admitted or refused: it depends.
            return _refuse(snapshot, caller, verdict, bindings.workload())
        outcome = _permit(snapshot, verdict.satisfied, verdict, bindings, caller)
        if type(outcome) is Permit and not bad and about.reads.settled:
            if caller.dpop:
                expires = _holds(request, verified, outcome)
            else:
                expires = _remember(request, snapshot, verified, outcome)
            if key is not None:
                evidence.decisions.put(key, outcome, expires, weight(key, verified))
        if caller.dpop and type(outcome) is Permit:
            return _proven(outcome, caller)
        return outcome
    return _refuse(snapshot, caller, verdict, bindings.workload())


class _About:
    """What holds for some candidates whoever comes. `without_caller` is the `none` rule that may
    permit before any credential is looked at."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.reads = Reads(list(candidates))
        self.credential_matters = _credential_matters(candidates)
        self.without_caller = _first_without_caller(candidates)


def _remember(
    request: Request, snapshot: Snapshot, verified: Verified | None, permit: Permit
) -> float:
    """Keep a permit with the request that nothing but time, keys and policy can change; till when.

    That the very same request comes again is the rule where clients keep their headers: then all
    that is left to check is what may have changed meanwhile. Never where a proof came: the same one
    must not do again.
    """
    expires = _holds(request, verified, permit)
    certificate = request.certificate
    workload = None
    if certificate is not None and certificate.workload is not None:
        workload = standing(certificate, certificate.workload)
    request.memo = _Remembered(snapshot.mark, verified, workload, permit, expires)
    return expires


def _holds(request: Request, verified: Verified | None, permit: Permit) -> float:
    """How long a permit can hold for an equal request."""
    expires = permit.expires if verified is None else min(permit.expires, verified.expires)
    certificate = request.certificate
    if certificate is not None and certificate.workload is not None:
        expires = min(expires, certificate.workload.expires)
    return expires


def _proven(permit: Permit, caller: _Caller) -> Permit:
    """The permit, on condition that the proof is used for the first time."""
    effects = () if caller.proof is None else (*permit.effects, caller.proof)
    return msgspec.structs.replace(permit, effects=effects, nonce=caller.nonce)


def _credential_matters(candidates: Sequence[Candidate]) -> bool:
    """Looked at when any candidate allow rule is not `none`, or when nothing could allow."""
    looked = True
    for rule, _ in candidates:
        if rule.effect == "allow":
            if rule.auth != "none":
                return True
            looked = False
    return looked


def _first_without_caller(candidates: Sequence[Candidate]) -> CompiledRule | None:
    """The `none` rule whose permit no credential could change, if its own condition holds."""
    first = None
    for rule, _ in candidates:
        if rule.effect != "allow":
            if rule.reads_caller:
                return None
        elif first is None:
            if rule.auth != "none" or rule.reads_caller:
                return None
            first = rule
    return first


def _without_caller(
    first: CompiledRule, candidates: Sequence[Candidate], request: Request, now: float
) -> Permit | None:
    """The permit of that rule; so the credential is not even looked at."""
    bindings = Bindings(request, None, now)
    verdict = evaluate(candidates, bindings, None)
    if verdict.satisfied is None or verdict.satisfied[0] is not first:
        return None
    permit = _obliged(verdict.satisfied, verdict, bindings, None)
    return permit if type(permit) is Permit else None


def _look(
    request: Request, snapshot: Snapshot, evidence: Evidence, now: float, reviewed: bool
) -> _Caller | NeedKeys | NeedIntrospection | _Throttled:
    credential = find(request, snapshot.service.credentials)
    if credential is None:
        return _NOBODY
    if credential.malformed:
        return _Caller(rejected=Rejected("malformed", f"The credential is {credential.malformed}."))
    verified = _verified(credential, request.address, snapshot, evidence, now)
    if isinstance(verified, Verified):
        if evidence.revocations.revokes(verified, now):
            return _Caller(rejected=_REVOKED, dpop=credential.dpop)
        if credential.dpop or "cnf" in verified.claims:
            return _bound(request, credential, verified, snapshot, evidence, now, reviewed)
        return _Caller(verified, cross_origin=credential.cookie and not same_origin(request))
    if isinstance(verified, KeysUnavailable):
        return _Caller(unavailable=verified.reason, dpop=credential.dpop)
    if isinstance(verified, Rejected):
        return _Caller(rejected=verified, dpop=credential.dpop)
    return verified


def _bound(
    request: Request,
    credential: Credential,
    verified: Verified,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    reviewed: bool,
) -> _Caller | _Throttled:
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
        return _Caller(rejected=found, dpop=dpop, nonce=nonce)
    if isinstance(found, float):
        return _Throttled(found)
    cross_origin = credential.cookie and not same_origin(request)
    return _Caller(verified, None, "", cross_origin, credential.dpop, found.effect, found.nonce)


def _verified(
    credential: Credential, address: str, snapshot: Snapshot, evidence: Evidence, now: float
) -> Verified | Rejected | KeysUnavailable | NeedKeys | NeedIntrospection | _Throttled:
    token = credential.token
    if snapshot.introspectors:
        asked = introspection.whose(token, credential.location, snapshot.introspectors)
        if asked is not None:
            return _introspected(token, asked, address, snapshot, evidence, now)
    if snapshot.api_keys and api_keys.looks_like(token):
        found = api_keys.check(token, snapshot.api_keys, now)
        wait = 0.0
        if isinstance(found, Rejected):
            wait = evidence.failing(address, snapshot.service.failed_credentials, now)
        return _Throttled(wait) if wait > 0 else found
    key = snapshot.trust + digest(token)
    cached = evidence.tokens.get(key, now)
    if cached is not None and _current(cached, evidence):
        return cached
    # Before the costly part; what was verified before passes whatever its address does.
    wait = evidence.failing(address, snapshot.service.failed_credentials, now)
    if wait > 0:
        return _Throttled(wait)
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
) -> Verified | Rejected | KeysUnavailable | NeedIntrospection | _Throttled:
    if introspection.too_large(token):
        return introspection.TOO_LARGE
    key = introspection.key_of(asked, token)
    known = evidence.answers.get(key, now)
    if type(known) is introspection.Unknown:
        return KeysUnavailable(asked.issuer.issuer, "introspection_unavailable")
    if known is not None:
        return known
    wait = evidence.failing(address, snapshot.service.failed_credentials, now)
    if wait > 0 or evidence.asking(address):
        return _Throttled(max(wait, 1.0))
    return NeedIntrospection(key, asked.issuer.issuer, token, address)


def _current(verified: Verified, evidence: Evidence) -> bool:
    """Whether the keys that verified it are still its issuer's; documents change with snapshots."""
    if verified.fetched is None:
        return True
    state = evidence.keys.get(verified.identity.issuer)
    return state is not None and state.keys is verified.fetched


def _permit(
    snapshot: Snapshot,
    satisfied: Candidate,
    verdict: Verdict,
    bindings: Bindings,
    caller: _Caller,
) -> Permit | Refuse:
    permit = _obliged(satisfied, verdict, bindings, caller.verified)
    if type(permit) is Permit:
        return permit
    verdict.failed = permit
    verdict.satisfied = None
    verdict.open.clear()
    return _refuse(snapshot, caller, verdict, bindings.workload())


def _obliged(
    satisfied: Candidate, verdict: Verdict, bindings: Bindings, verified: Verified | None
) -> Permit | CompiledRule:
    """The permit with its obligations, or the rule whose header expression failed."""
    rule, _ = satisfied
    headers: dict[str, str] = {}
    for candidate in (satisfied, *(guard for guard, _ in verdict.guards)):
        source, pattern = candidate
        for name, program in source.set_headers:
            value = bindings.text(program, pattern)
            if not isinstance(value, str):
                return source
            headers.setdefault(name, value)
    obligations = Obligations(tuple(headers.items())) if headers else NO_OBLIGATIONS
    auth = rule.auth
    if auth == "workload" or (auth == "either" and verified is None):
        workload = bindings.standing()
        if workload is not None:
            return Permit(
                rule.ref, workload.identity, obligations, workload.expires, verified=workload
            )
    if auth == "none" or verified is None:
        return Permit(rule.ref, obligations=obligations)
    return Permit(rule.ref, verified.identity, obligations, verified.expires, verified=verified)


def _refuse(
    snapshot: Snapshot, caller: _Caller, verdict: Verdict, workload: Workload | None
) -> Refuse:
    """The reason and the plan. An anonymous caller gets 401, whatever refused them."""
    realm = snapshot.service.name
    rule = _culprit(verdict)
    if caller.unavailable:
        return Refuse(
            Code.UNAVAILABLE,
            caller.unavailable,
            "The token cannot be verified at the moment.",
            presented=True,
            rule=rule,
            realm=realm,
        )
    dpop = snapshot.service.dpop.scheme(used=caller.dpop)
    if caller.rejected is not None:
        return Refuse(
            caller.rejected.code,
            caller.rejected.reason,
            caller.rejected.detail,
            plan=_authentication(verdict),
            presented=True,
            rule=rule,
            realm=realm,
            dpop=dpop,
            nonce=caller.nonce,
        )
    verified = caller.verified
    if verified is None and workload is None:
        return Refuse(
            Code.AUTHENTICATION_REQUIRED,
            "no_credential",
            plan=_authentication(verdict),
            rule=rule,
            realm=realm,
            dpop=dpop,
        )
    identity = (
        verified.identity if verified is not None else workload.identity if workload else None
    )
    code, reason, way = _authenticated(caller, verdict)
    return Refuse(
        code,
        reason,
        "The token must be bound to a key or a certificate." if reason == "proof_required" else "",
        plan=way,
        presented=verified is not None,
        rule=rule,
        realm=realm,
        identity=identity,
        dpop=dpop,
        nonce=caller.nonce,
    )


def _authenticated(caller: _Caller, verdict: Verdict) -> tuple[Code, str, Plan | None]:
    if caller.cross_origin:
        return Code.DENIED, "cross_origin", None
    if verdict.denied_by is not None:
        failed = verdict.failed is not None
        return Code.DENIED, "expression_failed" if failed else "denied_by_rule", None
    way = plan(verdict)
    if way is not None and way.kind == "authentication":  # a workload, where a token is asked for
        return Code.AUTHENTICATION_REQUIRED, "no_credential", way
    if way is not None and way.kind == "proof":
        return Code.INVALID_TOKEN, "proof_required", way
    if way is not None:
        return Code.INSUFFICIENT_SCOPE, "scope_missing", way
    if verdict.open or any(unmet is not None for _, unmet in verdict.guards):
        return Code.DENIED, "requirement_unmet", None
    return Code.DENIED, "expression_failed" if verdict.failed else "no_rule", None


def _authentication(verdict: Verdict) -> Plan:
    """For an anonymous caller: log in, with all that the cheapest way needs."""
    return plan(verdict) or Plan("authentication")


def _culprit(verdict: Verdict) -> str:
    """The rule that the log names: what denied, the guard that was not met, what failed."""
    if verdict.denied_by is not None:
        return verdict.denied_by.ref
    unmet = next((rule for (rule, _), missing in verdict.guards if missing is not None), None)
    if unmet is not None:
        return unmet.ref
    if verdict.failed is not None:
        return verdict.failed.ref
    return verdict.open[0][0].ref if verdict.open else ""
