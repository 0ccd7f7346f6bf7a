"""The decision, step by step: (request, snapshot, evidence, now) -> Permit | Refuse | Need.

Pure: the same in every door, in tests and in explanations. It only reads; the token cache that
`evidence` brings, and the permit kept with a request, are memoisation that no outcome can show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import inf
from typing import Any, Final

import msgspec

from sidecar.decide.about import About
from sidecar.decide.bindings import Bindings, standing
from sidecar.decide.cache import weight
from sidecar.decide.caller import NOBODY, Caller, Evidence, Throttled, is_current, look
from sidecar.decide.evaluate import Candidate, Verdict, evaluate
from sidecar.decide.journey import Journey
from sidecar.decide.obligations import Obliged, oblige, spends, uses
from sidecar.decide.outcomes import (
    NO_OBLIGATIONS,
    Code,
    Effect,
    Need,
    NeedBody,
    NeedIntrospection,
    NeedKeys,
    Outcome,
    Permit,
    Refuse,
    Shadow,
    Want,
)
from sidecar.decide.refusals import culprit, refuse
from sidecar.decide.request import Request
from sidecar.decide.routes import Candidates
from sidecar.decide.snapshot import CompiledRule, Snapshot
from sidecar.decide.tokens import Verified


class _Remembered(msgspec.Struct, frozen=True):
    """A permit that an equal request gets too: under this snapshot and these keys, until then."""

    snapshot: Any  # its mark
    verified: Verified | None
    workload: Verified | None
    subject: Any  # the record of the subject, where it counts
    permit: Permit
    expires: float


def authorize(
    request: Request,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    reviewed: bool = False,
    shadows: bool = True,
) -> Outcome:
    """Decide one request. `now` is seconds since the epoch.

    `reviewed`: it was permitted before and goes on (a tunnel). Its proof was used then and is old.
    `shadows`: say also what shadow policies would have made of it.
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
        if (
            is_current(known.verified, evidence)
            and not evidence.revocations.revokes(known.verified, now)
            and (
                known.subject is None
                or known.subject is evidence.subjects(known.verified.identity, now)
            )
        ):
            evidence.tokens.hits += 1
            return known.permit
    found = snapshot.routes.candidates(request.method, request.host, request.path, request.segments)
    about: About | None = found.about
    if about is None:
        found.about = about = About(found.rules, snapshot)
    outcome = _enforced(request, snapshot, evidence, now, reviewed, found, about)
    if about.shadowed and type(outcome) is not Need and shadows and not reviewed:
        return _shadowed(request, snapshot, evidence, now, about, outcome)
    return outcome


def _enforced(
    request: Request,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    reviewed: bool,
    found: Candidates[CompiledRule],
    about: About,
) -> Outcome:
    candidates = about.enforced
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
    bindings = Bindings(
        request, verified, now, evidence.revocations, snapshot, evidence, about.stale, reviewed
    )
    # Not of a review: what is used up admits what goes on, and nothing that comes.
    key = None if bad or about.shadowed or reviewed else about.reads.key(found, verified, bindings)
    if key is not None:
        permit = evidence.decisions.get(key, now)
        if permit is not None:
            if caller.dpop:
                return _proven(permit, caller)
            # Not `permit.expires`, which says nothing of what enrichers answered.
            until = evidence.decisions.until(key)
            _remember(request, snapshot, verified, permit, until, bindings, about)
            return permit
    verdict = evaluate(candidates, bindings, verified, presented_bad=bad)
    if verdict.pending:
        return missing(snapshot, caller, verdict, bindings)
    if verdict.satisfied is not None:
        if caller.unavailable:
            # Had the token been checked, another rule might have admitted or refused: it depends.
            return refuse(snapshot, caller, verdict, bindings.workload())
        outcome = _permit(snapshot, verdict.satisfied, candidates, verdict, bindings, caller)
        # Not where something could not be had: once it can be, there is more to say.
        settled = about.reads.settled and not about.shadowed and not bindings.unavailable
        settled = settled and not bindings.unsettled
        if type(outcome) is Permit and not bad and settled:
            holds = min(outcome.expires, bindings.fresh)
            if caller.dpop:
                expires = _holds(request, verified, holds)
            else:
                expires = _remember(request, snapshot, verified, outcome, holds, bindings, about)
            if key is not None:
                evidence.decisions.put(key, outcome, expires, weight(key, verified))
        if caller.dpop and type(outcome) is Permit:
            return _proven(outcome, caller)
        return outcome
    return refuse(snapshot, caller, verdict, bindings.workload())


def missing(
    snapshot: Snapshot, caller: Caller, verdict: Verdict, bindings: Bindings
) -> Need | Refuse:
    """What has to be fetched, the body last; or the refusal where that was to no avail."""
    if caller.unavailable:
        return refuse(snapshot, caller, verdict, bindings.workload())
    realm = snapshot.service.name
    identity = None if bindings.verified is None else bindings.verified.identity
    if bindings.unfit is not None:
        status, reason, detail = bindings.unfit
        return Refuse(_UNFIT[status], reason, detail, realm=realm, identity=identity)
    if bindings.wants:
        facts = tuple([want for want in bindings.wants if type(want) is not NeedBody])
        return Need(facts or tuple(bindings.wants))
    return Refuse(
        Code.UNAVAILABLE,
        bindings.unavailable or "facts_missing",
        presented=caller.verified is not None,
        rule=culprit(verdict),
        realm=realm,
        identity=identity,
    )


_UNFIT: Final = {400: Code.BAD_REQUEST, 413: Code.TOO_LARGE, 503: Code.UNAVAILABLE}


def _shadowed(
    request: Request,
    snapshot: Snapshot,
    evidence: Evidence,
    now: float,
    about: About,
    outcome: Permit | Refuse,
) -> Outcome:
    """The same outcome with what it would be were shadow policies enforced, or what has to be
    fetched to know that: only for a request that is permitted, and never at its expense."""
    if type(outcome) is Refuse and outcome.code in _WHATEVER_RULES_SAY:
        shadow = Shadow("refuse", outcome.code.value, outcome.reason, outcome.rule)
        return msgspec.structs.replace(outcome, shadow=shadow)
    found = _with_shadows(request, snapshot, evidence, now, about)
    if type(found) is Need:
        if type(outcome) is Permit:
            return Need(tuple([_optional(want) for want in found.wants]))
        shadow = Shadow("unknown", reason="facts_missing")
    elif type(found) is Permit:
        shadow = Shadow("permit", rule=found.rule)
    elif found.code in _UNKNOWABLE:
        shadow = Shadow("unknown", found.code.value, found.reason, found.rule)
    else:
        shadow = Shadow("refuse", found.code.value, found.reason, found.rule)
    return msgspec.structs.replace(outcome, shadow=shadow)


def _with_shadows(
    request: Request, snapshot: Snapshot, evidence: Evidence, now: float, about: About
) -> Outcome:
    # As reviewed: nothing counts against the caller, and a proof was looked at for the outcome.
    caller = look(request, snapshot, evidence, now, True) if about.shadow_looks else NOBODY
    if type(caller) is NeedKeys or type(caller) is NeedIntrospection:
        return Need((caller,))
    if type(caller) is Throttled:
        return Refuse(Code.UNAVAILABLE, caller.reason)
    bad = caller.rejected is not None or caller.cross_origin or bool(caller.unavailable)
    verified = None if bad else caller.verified
    bindings = Bindings(
        request, verified, now, evidence.revocations, snapshot, evidence, about.stale
    )
    verdict = evaluate(about.rules, bindings, verified, presented_bad=bad)
    if verdict.pending:
        return missing(snapshot, caller, verdict, bindings)
    if verdict.satisfied is not None and not caller.unavailable:
        return _permit(snapshot, verdict.satisfied, about.rules, verdict, bindings, caller)
    return refuse(snapshot, caller, verdict, bindings.workload())


def _optional(want: Want) -> Want:
    return NeedBody(want.limit, optional=True) if type(want) is NeedBody else want


_WHATEVER_RULES_SAY: Final = frozenset(
    (Code.INVALID_TOKEN, Code.INVALID_PROOF, Code.NONCE, Code.TOO_MANY_REQUESTS, Code.UNAVAILABLE)
)
# What says nothing of the shadow policies themselves.
_UNKNOWABLE: Final = frozenset((Code.UNAVAILABLE, Code.TOO_LARGE))


def _remember(
    request: Request,
    snapshot: Snapshot,
    verified: Verified | None,
    permit: Permit,
    holds: float,
    bindings: Bindings,
    about: About,
) -> float:
    """Keep a permit with the request that nothing but time, keys and policy can change; till when.

    That the very same request comes again is the rule where clients keep their headers: then all
    that is left to check is what may have changed meanwhile. Never where a proof came: the same one
    must not do again.
    """
    expires = _holds(request, verified, holds)
    certificate = request.certificate
    workload = None
    if certificate is not None and certificate.workload is not None:
        if bindings.standing() is None:
            return expires  # withdrawn: once that is forgotten, it counts again
        workload = standing(certificate, certificate.workload)
    subject = None
    if about.reads.subject and verified is None and bindings.visitor():
        return expires  # what is known of a visitor is not looked at again above
    if about.reads.subject and verified is not None:
        # None where it was not fetched, since nothing that counted has read it.
        subject = bindings.subject_if_known()
    request.memo = _Remembered(snapshot.mark, verified, workload, subject, permit, expires)
    return expires


def _holds(request: Request, verified: Verified | None, holds: float) -> float:
    """How long a permit can hold for an equal request, where what it depends on `holds` so long."""
    expires = holds if verified is None else min(holds, verified.expires)
    certificate = request.certificate
    if certificate is not None and certificate.workload is not None:
        expires = min(expires, certificate.workload.expires)
    return expires


def _proven(permit: Permit, caller: Caller) -> Permit:
    """The permit, on condition that the proof is used for the first time."""
    effects = () if caller.proof is None else (*permit.effects, caller.proof)
    return msgspec.structs.replace(permit, effects=effects, nonce=caller.nonce)


def _without_caller(
    first: CompiledRule, candidates: Sequence[Candidate], request: Request, now: float
) -> Permit | None:
    """The permit of that rule; so the credential is not even looked at."""
    bindings = Bindings(request, None, now)
    verdict = evaluate(candidates, bindings, None)
    if verdict.satisfied is None or verdict.satisfied[0] is not first:
        return None
    permit = _obliged(verdict.satisfied, candidates, verdict, bindings, None)
    if type(permit) is not Permit:
        return None
    return msgspec.structs.replace(permit, expires=inf, beside=None)  # nobody stands behind it


def _permit(
    snapshot: Snapshot,
    satisfied: Candidate,
    candidates: Sequence[Candidate],
    verdict: Verdict,
    bindings: Bindings,
    caller: Caller,
) -> Outcome:
    permit = _obliged(satisfied, candidates, verdict, bindings, caller.verified, snapshot.journey)
    if type(permit) is Permit:
        return permit
    if permit is None:
        return missing(snapshot, caller, verdict, bindings)
    verdict.failed = permit
    verdict.satisfied = None
    verdict.open.clear()
    return refuse(snapshot, caller, verdict, bindings.workload())


def _obliged(
    satisfied: Candidate,
    candidates: Sequence[Candidate],
    verdict: Verdict,
    bindings: Bindings,
    verified: Verified | None,
    journey: Journey | None = None,
) -> Permit | CompiledRule | None:
    """The permit with its obligations, the rule that has an expression which failed, or None: facts
    are missing."""
    rule, _ = satisfied
    effects: tuple[Effect, ...] = ()
    obligations = NO_OBLIGATIONS
    until = bindings.held_until()
    asked = [satisfied, *[guard for guard, _ in verdict.guards]]
    obliges = False
    for source, _ in asked:
        obliges = obliges or source.obliges
        if source.require.step_up is not None and verified is not None:
            until = min(until, source.require.step_up.until(verified.claims))
    if obliges:
        if len(asked) > 1:  # in the order of rules, so that no team overrides what platform says
            among = {id(source) for source, _ in asked}
            asked = [each for each in candidates if id(each[0]) in among]
        found = oblige(asked, bindings)
        if type(found) is not Obliged:
            return found
        effects, obligations = found.effects, found.obligations
    auth = rule.auth
    customer, record = "", None
    if journey is not None and (journey.identity is not None or spends(asked)):
        known = bindings.customer()
        if known is None:
            return None
        customer, record = known
        effects = (*effects, *uses(asked, journey, customer, bindings))
    # Whatever was read of them: a permit lasts no longer than all who stand behind it.
    workload = bindings.standing()
    expires = min(
        until,
        inf if verified is None else verified.expires,
        inf if workload is None else workload.expires,
    )
    identity, stands, beside = None, verified, workload
    if workload is not None and (auth == "workload" or (auth == "either" and verified is None)):
        identity, stands, beside = workload.identity, workload, verified
    elif auth != "none" and verified is not None:
        identity = verified.identity
    return Permit(
        rule.ref, identity, obligations, expires, effects, verified=stands, beside=beside,
        customer=customer, subject=record, visitor=rule.visitor and verified is None,
    )  # fmt: skip
