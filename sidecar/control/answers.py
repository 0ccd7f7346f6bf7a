"""What the control plane has, as the messages that Admin answers with; and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, inf
from typing import Final

from sidecar.control.applications import Application, Change, Outcome, Result, What
from sidecar.control.authority import Caller
from sidecar.control.keys import Keys
from sidecar.control.proposals import Proposal
from sidecar.control.reach import Reach
from sidecar.control.releases import Release
from sidecar.control.revocations import NotWithdrawn, Numbered, Withdrawal
from sidecar.control.rollouts import health
from sidecar.control.rollouts.plan import (
    BAKE,
    MIN_REQUESTS,
    Limits,
    Plan,
    Rollout,
    Stage,
    State,
)
from sidecar.control.rollouts.steps import Seen
from sidecar.decide.effects import Effect
from sidecar.decide.revocations import Kind
from sidecar.facts.releases import SignedManifest
from sidecar.facts.signing import Signature, fingerprint, public_key_pem
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import SignedManifest as SignedManifestMessage

_OUTCOMES: Final[Mapping[Outcome, pb.Outcome.ValueType]] = {
    "published": pb.OUTCOME_PUBLISHED,
    "unchanged": pb.OUTCOME_UNCHANGED,
    "would_publish": pb.OUTCOME_WOULD_PUBLISH,
    "refused": pb.OUTCOME_REFUSED,
    "conflict": pb.OUTCOME_CONFLICT,
    "awaits_approval": pb.OUTCOME_AWAITS_APPROVAL,
}
_WHATS: Final[Mapping[What, pb.Change.What.ValueType]] = {
    "added": pb.Change.WHAT_ADDED,
    "changed": pb.Change.WHAT_CHANGED,
    "removed": pb.Change.WHAT_REMOVED,
    "unchanged": pb.Change.WHAT_UNCHANGED,
}
_STATES: Final[Mapping[State, pb.Rollout.State.ValueType]] = {
    "running": pb.Rollout.STATE_RUNNING,
    "paused": pb.Rollout.STATE_PAUSED,
    "completed": pb.Rollout.STATE_COMPLETED,
    "aborted": pb.Rollout.STATE_ABORTED,
    "rolled_back": pb.Rollout.STATE_ROLLED_BACK,
}
_KINDS: Final[Mapping[pb.Withdrawal.Kind.ValueType, Kind]] = {
    pb.Withdrawal.KIND_TOKEN: "token",
    pb.Withdrawal.KIND_SESSION: "session",
    pb.Withdrawal.KIND_SUBJECT: "subject",
    pb.Withdrawal.KIND_KEY: "key",
}
_KINDS_TO_WIRE: Final = {kind: value for value, kind in _KINDS.items()}


# Publishing.


def application_of(request: pb.ApplyRequest) -> Application:
    """What is asked for."""
    return Application(
        texts=list(request.documents),
        namespaces=list(request.namespaces),
        prune=request.prune,
        dry_run=request.dry_run,
        base_versions=dict(request.base_versions),
        raise_floor=request.raise_floor,
        rollout=plan_of(request.rollout) if request.HasField("rollout") else None,
        ttl=float(request.ttl),
        message=request.message,
        manifests=signed_of(request.manifests),
    )


def signed_of(manifests: Iterable[SignedManifestMessage]) -> list[SignedManifest]:
    """Manifests with their signatures."""
    found = [convert.signed_from_wire(each) for each in manifests]
    return [
        SignedManifest(manifest, tuple(Signature(*pair) for pair in signatures))
        for manifest, signatures in found
    ]


def plan_of(plan: pb.RolloutPlan) -> Plan:
    """Not checked yet; what is left out is as usual."""
    usual, limits = Limits(), plan.limits
    return Plan(
        tuple(Stage(each.percent / 100, dict(each.labels)) for each in plan.stages),
        float(plan.bake) if plan.HasField("bake") else BAKE,
        plan.min_requests if plan.HasField("min_requests") else MIN_REQUESTS,
        Limits(
            limits.refusals / 100 if limits.HasField("refusals") else usual.refusals,
            limits.errors / 100 if limits.HasField("errors") else usual.errors,
            limits.failed_expressions / 100
            if limits.HasField("failed_expressions")
            else usual.failed_expressions,
            limits.latency if limits.HasField("latency") else usual.latency,
        ),
    )


def response(result: Result) -> pb.ApplyResponse:
    """What came of it."""
    return pb.ApplyResponse(
        outcome=_OUTCOMES[result.outcome],
        releases=[release(each) for each in result.releases],
        changes=changes(result.changes),
        problems=[convert.problem_to_wire(problem) for problem in result.problems],
        effects=effects(result.effects),
        proposal=result.proposal,
        manifests=result.manifests,
        rollouts=[rollout(each) for each in result.rollouts],
    )


def release(found: Release) -> pb.Release:
    """Without its documents."""
    return pb.Release(
        namespace=found.namespace,
        version=found.version,
        floor=found.manifest.floor,
        issued=found.manifest.issued,
        documents=len(found.documents),
    )


def changes(found: Iterable[Change]) -> list[pb.Change]:
    """Documents and what happens to them."""
    return [pb.Change(what=_WHATS[each.what], document=each.document) for each in found]


def effects(found: Iterable[Effect]) -> list[pb.Effect]:
    """What changes mean."""
    return [pb.Effect(text=each.text, document=each.document) for each in found]


def proposal(found: Proposal) -> pb.Proposal:
    """Without its documents."""
    terms = found.application
    return pb.Proposal(
        id=found.id, author=found.author, created=found.created, message=found.message,
        changes=changes(found.changes), effects=effects(found.effects), state=found.state,
        reviewer=found.reviewer, reason=found.reason, namespaces=found.namespaces,
        base_versions=terms.base_versions, raise_floor=terms.raise_floor, ttl=round(terms.ttl),
        prune=terms.prune, rollout=_plan(terms.rollout) if terms.rollout is not None else None,
    )  # fmt: skip


# Rollouts.


def rollout(found: Rollout, seen: Seen | None = None, waits: str = "") -> pb.Rollout:
    """As far as it has come; `seen` where it is under way."""
    seen = seen or Seen()
    return pb.Rollout(
        namespace=found.namespace, version=found.version, stable=max(0, found.stable),
        state=_STATES[found.state], stage=found.stage, plan=_plan(found.plan),
        started=found.started, stage_since=found.stage_since, ended=found.ended or 0.0,
        settled=found.settled or 0.0, reason=found.reason, waits=waits,
        sidecars=len(seen.sidecar_ids), assigned=seen.assigned, live=seen.live,
        refused=seen.refused, candidate=_health(seen.new, seen.new_sidecars),
        control=_health(seen.old, seen.old_sidecars), author=found.author,
    )  # fmt: skip


def _plan(plan: Plan) -> pb.RolloutPlan:
    limits = plan.limits
    return pb.RolloutPlan(
        stages=[
            pb.Stage(labels=each.labels) if each.labels else pb.Stage(percent=each.share * 100)
            for each in plan.stages
        ],
        bake=round(plan.bake),
        min_requests=plan.min_requests,
        limits=pb.Limits(
            refusals=limits.refusals * 100, errors=limits.errors * 100,
            failed_expressions=limits.failed_expressions * 100, latency=limits.latency,
        ),
    )  # fmt: skip


def _health(tally: health.Tally, sidecars: int) -> pb.Health:
    p99 = tally.quantile(0.99)
    return pb.Health(
        requests=tally.requests, refused=tally.refused, errors=tally.errors,
        failed_expressions=tally.failed_expressions,
        decision_p99=health.BOUNDS[-1] if p99 == inf else p99, sidecars=sidecars,
    )  # fmt: skip


def reach(found: Reach, namespace: str, version: int) -> pb.Progress.Reach:
    """How far a release has come."""
    return pb.Progress.Reach(
        namespace=namespace, version=version, sidecars=found.sidecars, live=found.live,
        refused=found.refused, errors=found.errors, assigned=found.assigned,
    )  # fmt: skip


# Keys and callers.


def keys(found: Keys) -> pb.SigningKeysResponse:
    """Public halves alone."""
    endorsed = {each.public_key: each.by for each in found.endorsements}
    answer = pb.SigningKeysResponse()
    for public_key, created in zip(found.public, found.created, strict=True):
        by = endorsed.get(public_key)
        answer.keys.append(_key(public_key, created, "store", by or b"", ""))
    for each in found.delegated:
        answer.keys.append(
            _key(each.public_key, each.created, "delegated", each.endorsement.by, each.name)
        )
    return answer


def _key(public_key: bytes, created: int, kind: str, by: bytes, name: str) -> pb.SigningKey:
    return pb.SigningKey(
        fingerprint=fingerprint(public_key), public_key=public_key, created=created, kind=kind,
        endorsed_by=fingerprint(by) if by else "", pem=public_key_pem(public_key).decode(),
        name=name,
    )  # fmt: skip


def who(caller: Caller) -> pb.WhoAmIResponse:
    """Who somebody is taken for."""
    return pb.WhoAmIResponse(
        name=caller.name,
        permissions=[
            pb.Permission(
                role=each.role, namespaces=sorted(each.namespaces), kinds=sorted(each.kinds),
                customers=each.customers,
            )
            for each in caller.permissions
        ],
    )  # fmt: skip


# Withdrawals.


def withdrawal_of(each: pb.Withdrawal, now: float) -> Withdrawal:
    """Raises NotWithdrawn for a kind that this version does not know."""
    kind = _KINDS.get(each.kind)
    if kind is None:
        raise NotWithdrawn(f"kind: one of {', '.join(_KINDS_TO_WIRE)} is expected")
    before = each.before_ms / 1000 if each.HasField("before_ms") else None
    if each.before_now:
        before = now
    return Withdrawal(
        kind, each.issuer, each.value, before, float(each.expires), reason=each.reason
    )


def numbered(each: Numbered) -> pb.Withdrawal:
    """One that is durable."""
    about = each.withdrawal
    return pb.Withdrawal(
        kind=_KINDS_TO_WIRE[about.kind],
        issuer=about.issuer,
        value=about.value,
        before_ms=None if about.before is None else ceil(about.before * 1000),
        expires=ceil(about.expires),
        reason=about.reason,
        number=each.number,
        created=each.created,
        source=about.source,
    )


def versions(found: Mapping[str, int]) -> Sequence[pb.NamespaceVersion]:
    """By namespace."""
    return convert.versions_to_wire(found)
