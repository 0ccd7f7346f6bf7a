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
    guards_unproven = any(guard.proof for guard in guards)
    best: tuple[int, CompiledRule, Unmet] | None = None
    for rule, unmet in verdict.open:
        if unmet.fixed:
            continue
        cost = FRICTION["scope"] * len(_missing(unmet, guards))
        if unmet.proof or guards_unproven:
            cost += FRICTION["proof"]
        if best is None or cost < best[0]:
            best = (cost, rule, unmet)
    if best is None:
        return None
    _, rule, unmet = best
    missing = _missing(unmet, guards)
    required = _distinct(rule.scopes, *(guard.scopes for (guard, _), _ in verdict.guards))
    asked = [each for each in (rule, *[guard for (guard, _), _ in verdict.guards]) if each.proof]
    proof = _one_of([each.proof for each in asked]) if asked else ()
    unproven = bool(unmet.proof) or guards_unproven
    authentication = unmet.authentication or any(guard.authentication for guard in guards)
    if not authentication and not missing and not unproven:
        return None
    kind = "authentication" if authentication else "proof" if unproven else "scope"
    return Plan(kind, required, missing, proof, unproven)


def _one_of(groups: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What is in every group; all there is where nothing is in all of them."""
    every = _distinct(*groups)
    return tuple(kind for kind in every if all(kind in group for group in groups)) or every


def _missing(unmet: Unmet, guards: list[Unmet]) -> tuple[str, ...]:
    return _distinct(unmet.scopes, *(guard.scopes for guard in guards))


def _distinct(*groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scope for group in groups for scope in group))
