"""(caller, verdict) -> Refuse: the reason, and what the caller could do. `challenge` says it.

An anonymous caller gets 401, whatever refused them, so that nobody learns what exists (DESIGN
section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.decide.caller import Caller
from sidecar.decide.evaluate import Verdict
from sidecar.decide.outcomes import Code, Plan, Refuse
from sidecar.decide.plan import plan
from sidecar.decide.snapshot import Service, Snapshot
from sidecar.decide.workloads import Workload


def refuse(
    snapshot: Snapshot, caller: Caller, verdict: Verdict, workload: Workload | None
) -> Refuse:
    """The refusal of a request that no rule permitted, or that one could not be decided for."""
    service = snapshot.service
    realm = service.name
    rule = culprit(verdict)
    if caller.unavailable:
        return Refuse(
            Code.UNAVAILABLE,
            caller.unavailable,
            "The token cannot be verified at the moment.",
            presented=True,
            rule=rule,
            realm=realm,
        )
    dpop = service.dpop.scheme(used=caller.dpop)
    if caller.rejected is not None:
        return Refuse(
            caller.rejected.code,
            caller.rejected.reason,
            caller.rejected.detail,
            plan=_authentication(verdict, service),
            presented=True,
            rule=rule,
            realm=realm,
            dpop=dpop,
            nonce=caller.nonce,
            interaction=service.place("authentication"),
            suspect=None if caller.suspect is None else caller.suspect.identity,
        )
    verified = caller.verified
    if verified is None and workload is None:
        return Refuse(
            Code.AUTHENTICATION_REQUIRED,
            "no_credential",
            plan=_authentication(verdict, service),
            rule=rule,
            realm=realm,
            dpop=dpop,
            interaction=service.place("authentication"),
        )
    identity = (
        verified.identity if verified is not None else workload.identity if workload else None
    )
    code, reason, way = _authenticated(caller, verdict, service)
    return Refuse(
        code,
        reason,
        "The token must be bound to a key or a certificate." if reason == "proof_required" else "",
        plan=way,
        presented=verified is not None,
        rule=rule,
        realm=realm,
        identity=identity,
        dpop=dpop,
        nonce=caller.nonce,
        interaction=service.place(way.kind) if way is not None else "",
    )


def _authenticated(
    caller: Caller, verdict: Verdict, service: Service
) -> tuple[Code, str, Plan | None]:
    if caller.cross_origin:
        return Code.DENIED, "cross_origin", None
    if verdict.denied_by is not None:
        failed = verdict.failed is not None
        return Code.DENIED, "expression_failed" if failed else "denied_by_rule", None
    way = plan(verdict, service.friction)
    if way is not None:
        code, reason = _SAID[way.kind]
        return code, reason, way
    if verdict.open or any(unmet is not None for _, unmet in verdict.guards):
        return Code.DENIED, "requirement_unmet", None
    return Code.DENIED, "expression_failed" if verdict.failed else "no_rule", None


_SAID: Final[Mapping[str, tuple[Code, str]]] = {
    # A workload, where a token is asked for.
    "authentication": (Code.AUTHENTICATION_REQUIRED, "no_credential"),
    "proof": (Code.INVALID_TOKEN, "proof_required"),
    "step_up": (Code.STEP_UP, "step_up_required"),
    "scope": (Code.INSUFFICIENT_SCOPE, "scope_missing"),
    "consent": (Code.CONSENT_REQUIRED, "consent_missing"),
    "profile": (Code.PROFILE_REQUIRED, "profile_missing"),
}


def _authentication(verdict: Verdict, service: Service) -> Plan:
    """For an anonymous caller: log in, with all that the cheapest way needs of the token."""
    way = plan(verdict, service.friction)
    return way if way is not None and way.kind == "authentication" else Plan("authentication")


def culprit(verdict: Verdict) -> str:
    """The rule that the log names: what denied, the guard that was not met, what failed."""
    if verdict.denied_by is not None:
        return verdict.denied_by.ref
    unmet = next((rule for (rule, _), missing in verdict.guards if missing is not None), None)
    if unmet is not None:
        return unmet.ref
    if verdict.failed is not None:
        return verdict.failed.ref
    return verdict.open[0][0].ref if verdict.open else ""
