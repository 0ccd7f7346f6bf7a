"""What a refused caller could do, at least friction (DESIGN section 3, Plan)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.decide.evaluate import Unmet, Verdict
from sidecar.decide.outcomes import Plan
from sidecar.decide.snapshot import CompiledRule

FRICTION: Final[Mapping[str, int]] = {
    "scope": 1, "proof": 1, "consent": 2, "profile": 3, "stepUp": 5,
}  # fmt: skip
"""Weight of one missing item of each kind."""


def plan(verdict: Verdict) -> Plan | None:
    """The cheapest way in, everything the token must carry in one challenge; None without one.

    Ties go to the rule that comes first. Issuers and workloads are never proposed.
    """
    guards = [unmet for _, unmet in verdict.guards if unmet is not None]
    if any(unmet.fixed for unmet in guards):
        return None
    best: tuple[int, CompiledRule, Unmet] | None = None
    for rule, unmet in verdict.open:
        if unmet.fixed:
            continue
        cost = FRICTION["scope"] * len(_missing(unmet, guards))
        if unmet.proof or any(guard.proof for guard in guards):
            cost += FRICTION["proof"]
        if best is None or cost < best[0]:
            best = (cost, rule, unmet)
    if best is None:
        return None
    _, rule, unmet = best
    missing = _missing(unmet, guards)
    required = _distinct(rule.scopes, *(guard.scopes for (guard, _), _ in verdict.guards))
    proof = _one_of(rule.proof, *(guard.proof for (guard, _), _ in verdict.guards))
    unproven = bool(unmet.proof) or any(guard.proof for guard in guards)
    authentication = unmet.authentication or any(guard.authentication for guard in guards)
    if not authentication and not missing and not unproven:
        return None
    kind = "authentication" if authentication else "proof" if unproven else "scope"
    return Plan(kind, required, missing, proof, unproven)


def _one_of(*groups: tuple[str, ...]) -> tuple[str, ...]:
    """What is in every group that is not empty; all there is where nothing is in all of them."""
    asked = [group for group in groups if group]
    common = tuple(kind for kind in _distinct(*asked) if all(kind in group for group in asked))
    return common or _distinct(*asked)


def _missing(unmet: Unmet, guards: list[Unmet]) -> tuple[str, ...]:
    return _distinct(unmet.scopes, *(guard.scopes for guard in guards))


def _distinct(*groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scope for group in groups for scope in group))
