"""What a refused caller could do, at least friction (DESIGN section 3, Plan)."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.decide.evaluate import Unmet, Verdict
from sidecar.decide.outcomes import Plan
from sidecar.decide.snapshot import CompiledRule, Friction
from sidecar.decide.step_up import together


def plan(verdict: Verdict, friction: Friction) -> Plan | None:
    """The cheapest way in; None without one.

    Ties go to the rule that comes first. Issuers, audiences, segments and workloads are never
    proposed, nor is a rule that is not offered. All that the token must carry is asked for at once,
    and what must be known of the subject only when the token would do.
    """
    guards = [unmet for _, unmet in verdict.guards if unmet is not None]
    if any(unmet.fixed for unmet in guards):
        return None
    best: tuple[int, CompiledRule, Unmet] | None = None
    for rule, unmet in verdict.open:
        if unmet.fixed or not rule.offer:
            continue
        cost = cost_of((unmet, *guards), friction)
        if best is None or cost < best[0]:
            best = (cost, rule, unmet)
    if best is None:
        return None
    _, rule, unmet = best
    missing = [unmet, *guards]
    if any(each.token() for each in missing):
        return _of_token(rule, missing, verdict)
    consent = _distinct(each.consent for each in missing)
    profile = _distinct(each.profile for each in missing)
    if not consent and not profile:
        return None
    transactions = tuple(dict.fromkeys([each for one in missing for each in one.transactions]))
    return Plan(
        "consent" if consent else "profile", consent=consent, profile=profile,
        transactions=transactions,
    )  # fmt: skip


def _of_token(rule: CompiledRule, missing: list[Unmet], verdict: Verdict) -> Plan:
    asked = [rule.require, *(guard.require for (guard, _), _ in verdict.guards)]
    proofs = [each.proof for each in asked if each.proof]
    unproven = any(each.proof for each in missing)
    scopes = _distinct(each.scopes for each in missing)
    authentication = any(each.authentication for each in missing)
    login = any(each.step_up is not None for each in missing)
    kind = (
        "authentication" if authentication
        else "proof" if unproven
        else "step_up" if login
        else "scope"
    )  # fmt: skip
    return Plan(
        kind,
        _distinct(each.scopes for each in asked),
        scopes,
        _one_of(proofs),
        unproven,
        # One login has to do for all, what this one shows already included.
        together([each.step_up for each in asked if each.step_up is not None]) if login else None,
    )


def cost_of(missing: tuple[Unmet, ...], friction: Friction) -> int:
    return (
        friction.scope * len(_distinct(each.scopes for each in missing))
        + friction.proof * any(each.proof for each in missing)
        + friction.step_up * any(each.step_up is not None for each in missing)
        + friction.consent * len(_distinct(each.consent for each in missing))
        + friction.profile * len(_distinct(each.profile for each in missing))
    )


def _one_of(groups: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What is in every group; all there is where nothing is in all of them."""
    every = _distinct(groups)
    return tuple([kind for kind in every if all(kind in group for group in groups)]) or every


def _distinct(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([item for group in groups for item in group]))
