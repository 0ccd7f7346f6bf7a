"""Rules -> verdict; starts from DENY (DESIGN section 3).

Permitted when no deny fires, every selected guard's requirements hold, and at least one allow rule
is satisfied. A failed expression makes a deny fire, selects a guard and leaves an allow unmatched.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sidecar.decide.bindings import Bindings
from sidecar.decide.expressions import FAILED
from sidecar.decide.proofs import shown
from sidecar.decide.routes import Pattern
from sidecar.decide.snapshot import CompiledRule
from sidecar.decide.tokens import Verified

Candidate = tuple[CompiledRule, Pattern]


class Unmet(msgspec.Struct, frozen=True):
    """What an allow rule or guard still asks for. `fixed` things no challenge could obtain.

    `proof`: the kinds of which one is missing.
    """

    authentication: bool = False
    scopes: tuple[str, ...] = ()
    fixed: str = ""
    proof: tuple[str, ...] = ()


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
        unmet = _unmet(rule, verified, bindings)
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
            verdict.open.append((rule, _everything(rule)))
            continue
        if matched is False:
            continue
        unmet = _unmet(rule, verified, bindings)
        if presented_bad or verified is None:
            auth = rule.auth
            if auth == "none" or (auth == "optional" and not presented_bad):
                pass
            elif presented_bad or auth == "token" or bindings.workload() is None:
                unmet = _everything(rule)
        elif rule.auth == "workload" and bindings.workload() is None:
            unmet = Unmet(False, rule.scopes, "workload")
        if unmet is not None:
            verdict.open.append((rule, unmet))
        elif guarded:
            verdict.open.append((rule, Unmet()))
        else:
            verdict.satisfied = candidate
            return verdict
    return verdict


def _everything(rule: CompiledRule) -> Unmet:
    """What a rule asks of who brings nothing. No challenge makes a certificate of a workload."""
    fixed = "workload" if rule.auth == "workload" or rule.workloads is not None else ""
    return Unmet(True, rule.scopes, fixed, rule.proof)


def _unmet(rule: CompiledRule, verified: Verified | None, bindings: Bindings) -> Unmet | None:
    if not rule.requires:
        return None
    workload = bindings.workload()
    fixed = ""
    if rule.workloads is not None and (
        workload is None or not rule.workloads.admit(workload.spiffe)
    ):
        fixed = "workload"
    if verified is None:
        if rule.scopes or rule.issuers or (rule.proof and workload is None):
            return Unmet(True, rule.scopes, fixed, rule.proof)
        # The certificate is its own proof: its key made the handshake.
        proof = () if not rule.proof or "mtls" in rule.proof else rule.proof
        return Unmet(workload is None, (), fixed, proof) if fixed or proof else None
    identity = verified.identity
    missing = tuple([scope for scope in rule.scopes if scope not in identity.scopes])
    if rule.issuers and identity.issuer not in rule.issuers:
        fixed = fixed or "issuer"
    unproven = rule.proof if shown(verified.claims).isdisjoint(rule.proof) else ()
    return Unmet(False, missing, fixed, unproven) if missing or fixed or unproven else None
