"""What a kind of customer is asked on a route, in which order, until they are admitted. Pure.

Each refusal is answered as its plan says, and decided again, as often as a real customer would come
back. What is asked by the way comes with the first page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from sidecar.decide.caller import Caller, look
from sidecar.decide.compile_journey import ref_of
from sidecar.decide.documents import PLATFORM, Document, ProfileAttribute
from sidecar.decide.journey import introduce
from sidecar.decide.outcomes import Permit, Plan
from sidecar.decide.profiling import Told, by_the_way
from sidecar.decide.scenario import Decided, Scenario, decide
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Grant, Subject

MOST: Final = 12  # times that somebody comes back


@dataclass(frozen=True, slots=True)
class Step:
    """One challenge. `needs` is what it asks, as in problem+json; `rule` is whose it is."""

    kind: str
    needs: Mapping[str, Any]
    status: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """`steps` in order. `admitted` by a rule; or `refused`, and why nothing can be done. `optional`
    is the attribute that is asked by the way; `known` are those that a token fills."""

    steps: Sequence[Step] = field(default_factory=tuple)
    admitted: str = ""
    refused: str = ""
    optional: str = ""
    known: Sequence[str] = ()


def preview(scenario: Scenario, snapshot: Snapshot, documents: Sequence[Document]) -> Preview:
    """Raises ScenarioInvalid and BadRequest as `scenario.decide` does."""
    steps: list[Step] = []
    known: list[str] = []
    for _ in range(MOST):
        found = decide(scenario, snapshot, shadows=False)
        scenario, filled = _told_by_token(scenario, snapshot, found)
        if filled:
            known += filled
            continue
        outcome = found.outcome
        if type(outcome) is Permit:
            optional = _optional(scenario, snapshot, documents) if _pages(steps) else ""
            return Preview(tuple(steps), outcome.rule, "", optional, tuple(known))
        plan = outcome.plan
        if plan is None:
            why = f"{outcome.code.value}: {outcome.reason}"
            return Preview(tuple(steps), "", why, "", tuple(known))
        needs = plan.needs()
        if plan.kind == "consent":
            needs.pop("profile", None)  # asked on a page of its own, if consent was given
        steps.append(Step(plan.kind, needs, outcome.code.value, outcome.rule))
        scenario = _answered(scenario, snapshot, plan)
    return Preview(tuple(steps), "", f"still challenged after {MOST} answers", "", tuple(known))


def _pages(steps: Sequence[Step]) -> bool:
    return any(each.kind in ("consent", "profile") for each in steps)


def _answered(scenario: Scenario, snapshot: Snapshot, plan: Plan) -> Scenario:
    claims = dict(scenario.claims or {})
    proof = scenario.proof
    if plan.kind in ("authentication", "scope", "step_up", "proof"):
        scopes = [*str(claims.get("scope", "")).split(), *plan.scopes]
        if scopes:
            claims["scope"] = " ".join(dict.fromkeys(scopes))
        if plan.step_up is not None:
            if plan.step_up.acr:
                claims["acr"] = plan.step_up.acr[0]
            if plan.step_up.amr:
                claims["amr"] = list(dict.fromkeys([*claims.get("amr", []), *plan.step_up.amr]))
            claims["auth_time"] = 0
        if plan.missing_proof:
            proof = (*proof, plan.proof[0])
        return replace(scenario, claims=claims, bad=None, proof=proof)
    subject = scenario.subject if isinstance(scenario.subject, Subject) else Subject()
    if plan.kind == "consent":
        grants = list(subject.grants)
        shown = {each.purpose: each.digest for each in plan.transactions}
        for name in plan.consent:
            purpose = snapshot.journey.purpose(name)
            grants.append(Grant(purpose.ref, purpose.version, shown.get(name, ""), scenario.now))
        return replace(scenario, subject=msgspec.structs.replace(subject, grants=tuple(grants)))
    present = subject.present | set(plan.profile)
    return replace(scenario, subject=msgspec.structs.replace(subject, present=present))


def _told_by_token(
    scenario: Scenario, snapshot: Snapshot, found: Decided
) -> tuple[Scenario, list[str]]:
    """What the token's claims fill, so that nobody is asked for it."""
    caller = look(found.request, snapshot, found.evidence, found.now, True)
    verified = caller.verified if type(caller) is Caller else None
    introduction = introduce(snapshot.journey, verified, "") if verified is not None else None
    if introduction is None or not isinstance(scenario.subject, Subject):
        return scenario, []
    names = {each.ref: each.name for each in snapshot.journey.attributes.values()}
    subject = scenario.subject
    filled = {
        names[ref]: msgspec.json.decode(value)
        for ref, value in introduction.attributes
        if names[ref] not in subject.profile and names[ref] not in subject.present
    }
    if not filled:
        return scenario, []
    more = msgspec.structs.replace(subject, profile={**filled, **subject.profile})
    return replace(scenario, subject=more), sorted(filled)


def _optional(scenario: Scenario, snapshot: Snapshot, documents: Sequence[Document]) -> str:
    subject = scenario.subject
    if not isinstance(subject, Subject):
        return ""
    specs = {
        ref_of(document): document.spec
        for document in documents
        if isinstance(document.spec, ProfileAttribute)
        and document.namespace in (PLATFORM, snapshot.journey.namespace)
    }
    names = {ref: ref.partition("/")[2] for ref in specs}
    known = frozenset(
        ref for ref, name in names.items() if name in subject.profile or name in subject.present
    )
    found = by_the_way(specs, Told(known, {}, {}), scenario.now)
    return names[found] if found is not None else ""
