"""What happens next in a rollout, from how its sidecars fare. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.control.rollouts.health import NOTHING, Tally, breach
from sidecar.control.rollouts.plan import Rollout, Stage, State, cutoff

SKEW: Final = 5.0  # seconds by which the clocks of replicas may differ


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the sidecars that a rollout concerns, on all replicas. `new` is what was
    reported of the new release in this stage, `old` of the old one in all stages, and before them
    where nothing is. `left_out` are those that enforce nothing and refuse whatever they are sent:
    none of the other numbers counts them."""

    sidecar_ids: Sequence[str] = ()
    assigned: int = 0
    live: int = 0
    refused: int = 0
    errors: Sequence[str] = ()
    new: Tally = NOTHING
    old: Tally = NOTHING
    new_sidecars: int = 0
    old_sidecars: int = 0
    left_out: int = 0


def begin(rollout: Rollout, sidecar_ids: Sequence[str], now: float) -> Rollout:
    """In its first stage."""
    return _in_stage(rollout, 0, sidecar_ids, now)


def advance(rollout: Rollout, seen: Seen, now: float) -> Rollout:
    """The same, or what it is from now on: in the next stage, completed, or rolled back."""
    if not rollout.active:
        return rollout
    bad = _bad(seen, rollout)
    if bad:
        return end(rollout, "rolled_back", bad, now)
    if rollout.state == "paused":
        return rollout
    if now < rollout.stage_since - SKEW:
        return replace(rollout, stage_since=now)  # the clock was put back: not to wait until then
    if waits(rollout, seen, now):
        # Whoever made up the share may be gone.
        share = stage_of(rollout).share
        if share and not seen.assigned and seen.sidecar_ids:
            cut = cutoff(rollout.name, share, seen.sidecar_ids)
            return replace(rollout, cutoff=max(rollout.cutoff, cut))
        return rollout
    after = onward(rollout, seen.sidecar_ids, now)
    return replace(after, reason=_and_left_out(after.reason, seen))


def onward(rollout: Rollout, sidecar_ids: Sequence[str], now: float) -> Rollout:
    """In the next stage, or completed after the last one."""
    if rollout.stage + 1 < len(rollout.plan.stages):
        return _in_stage(replace(rollout, state="running"), rollout.stage + 1, sidecar_ids, now)
    return end(rollout, "completed", "every stage went well", now)


def end(rollout: Rollout, state: State, reason: str, now: float) -> Rollout:
    """Over."""
    return replace(rollout, state=state, reason=reason, ended=now)


def waits(rollout: Rollout, seen: Seen, now: float) -> str:
    """What its stage still waits for, in words; empty: nothing."""
    found = _waits(rollout, seen, now)
    return _and_left_out(found, seen) if found else ""


def _waits(rollout: Rollout, seen: Seen, now: float) -> str:
    if not seen.sidecar_ids:
        return "no sidecar is connected"
    if not seen.assigned:
        return f"no connected sidecar is in the stage {stage_of(rollout)}"
    if seen.live < seen.assigned:
        return f"{seen.live} of {seen.assigned} sidecars enforce it"
    passed = max(0.0, now - rollout.stage_since)
    if passed < rollout.plan.bake:
        return f"watched for {passed:.0f}s of {rollout.plan.bake:g}s"
    if seen.new.requests < rollout.plan.min_requests:
        return (
            f"it has decided {seen.new.requests} of {rollout.plan.min_requests} requests; "
            "`sidecar rollout resume` goes on regardless"
        )
    if rollout.plan.min_requests and not seen.old.requests and not seen.old_sidecars:
        return "nobody is left to compare with; `sidecar rollout resume` goes on regardless"
    return ""


def stage_of(rollout: Rollout) -> Stage:
    """The one that it is in."""
    return rollout.plan.stages[rollout.stage]


def _and_left_out(said: str, seen: Seen) -> str:
    if not seen.left_out:
        return said
    those = (
        "1 sidecar enforces nothing and is left out"
        if seen.left_out == 1
        else f"{seen.left_out} sidecars enforce nothing and are left out"
    )
    return f"{said}; {those}"


def _bad(seen: Seen, rollout: Rollout) -> str:
    if seen.refused:
        said = f": {seen.errors[0]}" if seen.errors else ""
        noun = "a sidecar" if seen.refused == 1 else f"{seen.refused} sidecars"
        return f"refused by {noun}{said}"
    return breach(seen.new, seen.old, rollout.plan.limits)


def _in_stage(rollout: Rollout, stage: int, sidecar_ids: Sequence[str], now: float) -> Rollout:
    share = rollout.plan.stages[stage].share
    cut = cutoff(rollout.name, share, sidecar_ids) if share else 0.0
    return replace(
        rollout, stage=stage, stage_since=now, cutoff=max(rollout.cutoff, cut),
        reason=f"stage {rollout.plan.stages[stage]}",
    )  # fmt: skip
