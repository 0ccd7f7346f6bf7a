"""The way to the page where customers see what is known of them: `/.well-known/sidecar/privacy`.

It belongs to the sidecar, not to the service. Whoever is logged in is sent on, with a ticket that
says who they are; everybody else is asked to log in. Denies and guards whose `match` covers its
path hold for it as for the service: who could not read an account with a token cannot read there
whose it is. What guards require of consent and profile is not asked: the page is where a consent is
withdrawn, and that must be no harder than to give it (GDPR article 7(3)). Pure.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Final

from sidecar.decide.about import bound_of
from sidecar.decide.authorize import missing
from sidecar.decide.bindings import Bindings
from sidecar.decide.caller import Caller, Evidence, Throttled, look
from sidecar.decide.evaluate import Candidate, evaluate
from sidecar.decide.outcomes import Code, Need, NeedIntrospection, NeedKeys, Plan, Refuse
from sidecar.decide.refusals import refuse
from sidecar.decide.request import Request
from sidecar.decide.routes import ANY
from sidecar.decide.snapshot import CompiledRule, Requirements, Snapshot

PATH: Final = "/.well-known/sidecar/privacy"


def is_asked_for(request: Request, snapshot: Snapshot) -> bool:
    """Whether a request is about that page, and there is one."""
    return (
        request.path == PATH
        and request.method in ("GET", "HEAD")
        and snapshot.journey.identity is not None
        and bool(snapshot.service.interaction)
    )


def way_to(request: Request, snapshot: Snapshot, evidence: Evidence, now: float) -> Refuse | Need:
    """The refusal whose plan leads there, or what has to be fetched first."""
    service = snapshot.service
    caller = look(request, snapshot, evidence, now, False)
    if type(caller) is NeedKeys or type(caller) is NeedIntrospection:
        return Need((caller,))
    if type(caller) is Throttled:
        return Refuse(
            Code.TOO_MANY_REQUESTS, caller.reason, caller.detail, presented=True,
            realm=service.name, retry_after=ceil(caller.wait),
        )  # fmt: skip
    if type(caller) is not Caller or caller.verified is None or caller.cross_origin:
        known = caller if type(caller) is Caller else Caller()
        rejected = known.rejected
        if known.unavailable:
            return Refuse(Code.UNAVAILABLE, known.unavailable, presented=True, realm=service.name)
        return Refuse(
            Code.AUTHENTICATION_REQUIRED if rejected is None else rejected.code,
            "no_credential" if rejected is None else rejected.reason,
            "" if rejected is None else rejected.detail,
            Plan("authentication"), rejected is not None, realm=service.name,
            interaction=service.place("authentication"),
        )  # fmt: skip
    candidates = _candidates(request, snapshot)
    bindings = Bindings(
        request, caller.verified, now, evidence.revocations, snapshot, evidence,
        bound_of(candidates),
    )  # fmt: skip
    verdict = evaluate(candidates, bindings, caller.verified)
    if verdict.pending:
        return missing(snapshot, caller, verdict, bindings)
    if verdict.satisfied is None:
        return refuse(snapshot, caller, verdict, bindings.workload())
    known_as = bindings.customer()
    if known_as is None:
        return Need(tuple(bindings.wants))
    identity = caller.verified.identity
    if not known_as[0]:
        return Refuse(
            Code.UNAVAILABLE, "subject_unavailable", presented=True, realm=service.name,
            identity=identity,
        )  # fmt: skip
    return Refuse(
        Code.PRIVACY, "privacy", plan=Plan("privacy"), presented=True, realm=service.name,
        identity=identity, interaction=service.interaction,
    )  # fmt: skip


def _candidates(request: Request, snapshot: Snapshot) -> list[Candidate]:
    """What holds there, and a rule that admits whoever is logged in."""
    service = snapshot.service
    found = snapshot.routes.candidates(request.method, request.host, request.path, request.segments)
    kept: list[Candidate] = []
    for rule, pattern in found.rules:
        enforced = not rule.shadow and not service.only_observes(rule.ref)
        if rule.effect != "allow" and enforced:
            kept.append((_without_journey(rule), pattern))
    return [*kept, (_LOGGED_IN, ANY)]


def _without_journey(rule: CompiledRule) -> CompiledRule:
    require = rule.require
    if not (require.consent or require.transactions or require.profile):
        return rule
    lighter = replace(require, consent=(), transactions=(), profile=())
    return replace(rule, require=lighter, asks_subject=bool(lighter.segments))


_LOGGED_IN: Final = CompiledRule(
    "privacy", "allow", "token", None, Requirements(), (), (), (), (), (), None,
    offer=True, shadow=False, late=False, asks_token=False, asks_subject=False,
    reads_caller=True, obliges=False,
)  # fmt: skip
