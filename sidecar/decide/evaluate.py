"""Rules -> verdict; starts from DENY (DESIGN section 3).

Permitted when no deny fires, every selected guard's requirements hold, and at least one allow rule
is satisfied. A failed expression makes a deny fire, selects a guard and leaves an allow unmatched.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sidecar.decide.bindings import Bindings
from sidecar.decide.expressions import FAILED
from sidecar.decide.routes import Pattern
from sidecar.decide.snapshot import CompiledRule
from sidecar.decide.tokens import Verified

Candidate = tuple[CompiledRule, Pattern]


class Unmet(msgspec.Struct, frozen=True):
    """What an allow rule or guard still asks for. `fixed` things no challenge could obtain."""

    authentication: bool = False
    scopes: tuple[str, ...] = ()
    fixed: str = ""


class Verdict(msgspec.Struct):
    """`satisfied` is the allow rule that permits; without it the request is refused.

    `guards` are the selected ones with what they miss, `open` the allow rules that could be met.
    """

    satisfied: Candidate | None = None
    denied_by: CompiledRule | None = None
    failed: CompiledRule | None = None
    guards: list[tuple[Candidate, Unmet | None]] = []
    open: list[tuple[CompiledRule, Unmet]] = []


def evaluate(
    candidates: Sequence[Candidate],
    bindings: Bindings,
    verified: Verified | None,
    *,
    presented_bad: bool = False,
) -> Verdict:
    """Weigh the candidates, in order. `verified` None is an anonymous caller.

    `presented_bad`: a credential came and does not stand; only `none` rules can then be satisfied.
    """
    verdict = Verdict()
    allows: list[Candidate] = []
    guarded = False
    for candidate in candidates:
        rule, pattern = candidate
        if rule.effect == "allow":
            allows.append(candidate)
            continue
        selected = True if rule.when is None else bindings.truth(rule.when, pattern)
        if selected is False:
            continue
        if rule.effect == "deny":
            verdict.denied_by = rule
            verdict.failed = rule if selected is FAILED else None
            return verdict
        unmet = _unmet(rule, verified)
        guarded = guarded or unmet is not None
        verdict.guards.append((candidate, unmet))
    for candidate in allows:
        rule, pattern = candidate
        matched = True if rule.when is None else bindings.truth(rule.when, pattern)
        if matched is FAILED:
            verdict.failed = verdict.failed or rule
            if verified is not None:
                continue
            # What it reads may be there after login: a candidate that lacks authentication.
            verdict.open.append((rule, Unmet(True, rule.scopes)))
            continue
        if matched is False:
            continue
        unmet = _unmet(rule, verified)
        auth = rule.auth
        if auth == "workload":
            unmet = Unmet(verified is None, rule.scopes, "workload")
        elif auth != "none" and (presented_bad or (verified is None and auth != "optional")):
            unmet = Unmet(True, rule.scopes)
        if unmet is not None:
            verdict.open.append((rule, unmet))
        elif guarded:
            verdict.open.append((rule, Unmet()))
        else:
            verdict.satisfied = candidate
            return verdict
    return verdict


def _unmet(rule: CompiledRule, verified: Verified | None) -> Unmet | None:
    if not rule.scopes and not rule.issuers:
        return None
    if verified is None:
        return Unmet(True, rule.scopes)
    identity = verified.identity
    missing = tuple([scope for scope in rule.scopes if scope not in identity.scopes])
    if rule.issuers and identity.issuer not in rule.issuers:
        return Unmet(False, missing, "issuer")
    return Unmet(False, missing) if missing else None
