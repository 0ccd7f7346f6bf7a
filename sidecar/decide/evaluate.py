"""Rules -> verdict; starts from DENY (DESIGN section 3).

Permitted when no deny fires, every selected guard's requirements hold, and at least one allow rule
is satisfied. A failed expression makes a deny fire, selects a guard and leaves an allow unmatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sidecar.decide.bindings import Bindings
from sidecar.decide.expressions import FAILED
from sidecar.decide.routes import Pattern
from sidecar.decide.snapshot import CompiledRule
from sidecar.decide.tokens import Verified

Candidate = tuple[CompiledRule, Pattern]


@dataclass(slots=True)
class Unmet:
    """What an allow rule or guard still asks for. `fixed` things no challenge could obtain."""

    authentication: bool = False
    scopes: tuple[str, ...] = ()
    fixed: str = ""

    def __bool__(self) -> bool:
        return self.authentication or bool(self.scopes) or bool(self.fixed)


@dataclass(slots=True)
class Verdict:
    """`satisfied` is the allow rule that permits; without it the request is refused.

    `guards` are the selected ones with what they miss, `open` the allow rules that could be met.
    """

    satisfied: Candidate | None = None
    denied_by: CompiledRule | None = None
    failed: CompiledRule | None = None
    guards: list[tuple[Candidate, Unmet]] = field(default_factory=list)
    open: list[tuple[CompiledRule, Unmet]] = field(default_factory=list)


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
        guarded = guarded or bool(unmet)
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
        if rule.auth != "none":
            if presented_bad or (verified is None and rule.auth != "optional"):
                unmet.authentication = True
            if rule.auth == "workload":
                unmet.fixed = "workload"
        if not unmet and not guarded:
            verdict.satisfied = candidate
            return verdict
        verdict.open.append((rule, unmet))
    return verdict


def _unmet(rule: CompiledRule, verified: Verified | None) -> Unmet:
    if not rule.scopes and not rule.issuers:
        return Unmet()
    if verified is None:
        return Unmet(True, rule.scopes)
    identity = verified.identity
    return Unmet(
        scopes=tuple(scope for scope in rule.scopes if scope not in identity.scopes),
        fixed="issuer" if rule.issuers and identity.issuer not in rule.issuers else "",
    )
