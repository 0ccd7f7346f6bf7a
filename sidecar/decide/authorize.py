"""The decision, step by step: (request, snapshot, evidence, now) -> Permit | Refuse | Need.

Pure: the same in every door, in tests and in explanations. It only reads; the token cache that
`evidence` brings, and the permit kept with a request, are memoisation that no outcome can show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import inf
from typing import Any

import msgspec

from sidecar.decide.bindings import Bindings, standing
from sidecar.decide.cache import Reads, weight
from sidecar.decide.caller import NOBODY, Caller, Evidence, Throttled, is_current, look
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
    Refuse,
)
from sidecar.decide.refusals import refuse
from sidecar.decide.request import Request
from sidecar.decide.snapshot import CompiledRule, Snapshot
from sidecar.decide.tokens import Verified


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
        if is_current(known.verified, evidence) and not evidence.revocations.revokes(
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
        caller = look(request, snapshot, evidence, now, reviewed)
        if type(caller) is NeedKeys or type(caller) is NeedIntrospection:
            return Need((caller,))
        if type(caller) is Throttled:
            return Refuse(
                Code.TOO_MANY_REQUESTS,
                caller.reason,
                caller.detail,
                presented=True,
                realm=snapshot.service.name,
                retry_after=math.ceil(caller.wait),
            )
    else:
        caller = NOBODY
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
            return refuse(snapshot, caller, verdict, bindings.workload())
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
    return refuse(snapshot, caller, verdict, bindings.workload())


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


def _proven(permit: Permit, caller: Caller) -> Permit:
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
    if type(permit) is not Permit:
        return None
    return msgspec.structs.replace(permit, expires=inf, beside=None)  # nobody stands behind it


def _permit(
    snapshot: Snapshot,
    satisfied: Candidate,
    verdict: Verdict,
    bindings: Bindings,
    caller: Caller,
) -> Permit | Refuse:
    permit = _obliged(satisfied, verdict, bindings, caller.verified)
    if type(permit) is Permit:
        return permit
    verdict.failed = permit
    verdict.satisfied = None
    verdict.open.clear()
    return refuse(snapshot, caller, verdict, bindings.workload())


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
    # Whatever was read of them: a permit lasts no longer than all who stand behind it.
    workload = bindings.standing()
    expires = min(
        inf if verified is None else verified.expires, inf if workload is None else workload.expires
    )
    if workload is not None and (auth == "workload" or (auth == "either" and verified is None)):
        return Permit(
            rule.ref, workload.identity, obligations, expires, verified=workload, beside=verified
        )
    if auth == "none" or verified is None:
        return Permit(
            rule.ref, obligations=obligations, expires=expires, verified=verified, beside=workload
        )
    return Permit(
        rule.ref, verified.identity, obligations, expires, verified=verified, beside=workload
    )
