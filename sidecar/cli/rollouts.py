"""Rollouts for people and programs, and plans from flags."""

from __future__ import annotations

import argparse
from typing import Any, Final

from sidecar.cli.printable import printable
from sidecar.cli.server import duration
from sidecar.wire import admin_pb2 as pb

STATES: Final = {
    pb.Rollout.STATE_RUNNING: "running",
    pb.Rollout.STATE_PAUSED: "paused",
    pb.Rollout.STATE_COMPLETED: "completed",
    pb.Rollout.STATE_ABORTED: "aborted",
    pb.Rollout.STATE_ROLLED_BACK: "rolled back",
}
_AFTERWARDS: Final = (50.0, 100.0)  # percent, after a share that is named alone


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """`--canary` and what it is judged by."""
    group = parser.add_argument_group("rollout")
    group.add_argument(
        "--canary", metavar="STAGES", action="append", type=_stages,
        help="give it to a part of the sidecars first: 10%% (then 50%% and 100%%), 5%%,25%%,100%%, "
        "or those with labels: zone=a, or app=web+zone=a",
    )  # fmt: skip
    group.add_argument(
        "--bake", metavar="TIME", type=duration,
        help="how long each stage is watched at least (default 60s)",
    )  # fmt: skip
    group.add_argument(
        "--min-requests", metavar="NUMBER", type=_count,
        help="requests that it must have decided in each stage (default 20)",
    )  # fmt: skip
    for name, what, default in (
        ("refusals", "more requests refused than by the old release", "5%%"),
        ("errors", "more answered with an error", "1%%"),
        ("failed-expressions", "more on which an expression fails", "0.1%%"),
    ):
        group.add_argument(
            f"--max-{name}", metavar="SHARE", type=_percent,
            help=f"roll back at so many {what} (default {default})",
        )  # fmt: skip
    group.add_argument(
        "--max-latency", metavar="TIMES", type=_times,
        help="roll back where decisions take so many times as long at the 99th percentile "
        "(default 2)",
    )  # fmt: skip


def plan(args: argparse.Namespace) -> pb.RolloutPlan | None:
    """What the flags say; None: to all at once. Raises ArgumentTypeError for one without
    `--canary`."""
    if not args.canary:
        given = [
            flag
            for flag in ("bake", "min_requests", "max_refusals", "max_errors",
                         "max_failed_expressions", "max_latency")
            if getattr(args, flag) is not None
        ]  # fmt: skip
        if given:
            flag = given[0].replace("_", "-")
            raise argparse.ArgumentTypeError(f"--{flag}: it is about --canary, which is not given")
        return None
    found = pb.RolloutPlan(stages=_whole([stage for stages in args.canary for stage in stages]))
    if args.bake is not None:
        found.bake = round(args.bake)
    if args.min_requests is not None:
        found.min_requests = args.min_requests
    for flag, name in (
        ("max_refusals", "refusals"),
        ("max_errors", "errors"),
        ("max_failed_expressions", "failed_expressions"),
        ("max_latency", "latency"),
    ):
        if getattr(args, flag) is not None:
            setattr(found.limits, name, getattr(args, flag))
    return found


def _whole(stages: list[pb.Stage]) -> list[pb.Stage]:
    """With what follows on the last one that was named, up to everybody."""
    last = stages[-1]
    if last.percent >= 100:
        return stages
    shares = [stage.percent for stage in stages if not stage.labels]
    # After 10% alone comes half, and then all; who names more stages, or labels, has said enough.
    after = _AFTERWARDS if shares and len(stages) == 1 and shares[0] < 50 else _AFTERWARDS[-1:]
    return [*stages, *(pb.Stage(percent=each) for each in after)]


def ended(rollout: pb.Rollout) -> bool:
    """Whether nothing more will come of it."""
    return rollout.state not in (pb.Rollout.STATE_RUNNING, pb.Rollout.STATE_PAUSED)


def stage_text(stage: pb.Stage) -> str:
    """`10%`, `zone=a`."""
    if stage.labels:
        return "+".join(f"{key}={value}" for key, value in sorted(stage.labels.items()))
    return f"{stage.percent:g}%"


def described(rollout: pb.Rollout) -> str:
    """One line."""
    name = f"{rollout.namespace}@{rollout.version}"
    state = STATES.get(rollout.state, "unknown")
    stages = rollout.plan.stages
    if ended(rollout):
        return printable(f"{name}: {state}: {rollout.reason}")
    stage = stage_text(stages[rollout.stage]) if rollout.stage < len(stages) else "?"
    parts = [f"{name}: {state} at {stage} ({rollout.stage + 1} of {len(stages)})"]
    if rollout.sidecars:
        parts.append(
            f"{rollout.live} of {rollout.assigned} sidecars enforce it, the other "
            f"{rollout.sidecars - rollout.assigned} {rollout.namespace}@{rollout.stable}"
        )
    if rollout.state == pb.Rollout.STATE_PAUSED:
        parts.append(rollout.reason)
    elif rollout.waits:
        parts.append(rollout.waits)
    return printable("; ".join(parts))


def plain_rollout(rollout: pb.Rollout) -> dict[str, Any]:
    """As each command's JSON has it."""
    return {
        "namespace": rollout.namespace,
        "version": rollout.version,
        "stable": rollout.stable,
        "state": STATES.get(rollout.state, "unknown").replace(" ", "_"),
        "stage": rollout.stage,
        "stages": [stage_text(each) for each in rollout.plan.stages],
        "started": rollout.started,
        "ended": rollout.ended or None,
        "settled": rollout.settled or None,
        "reason": rollout.reason,
        "waits": rollout.waits,
        "author": rollout.author,
        "sidecars": rollout.sidecars,
        "assigned": rollout.assigned,
        "live": rollout.live,
        "refused": rollout.refused,
        "candidate": _health(rollout.candidate),
        "control": _health(rollout.control),
    }


def _health(found: pb.Health) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "refused": found.refused,
        "errors": found.errors,
        "failedExpressions": found.failed_expressions,
        "decisionP99": found.decision_p99 or None,
    }


def _stages(text: str) -> list[pb.Stage]:
    return [_stage(each) for each in text.split(",")]


def _stage(text: str) -> pb.Stage:
    if "=" in text:
        pairs = [pair.partition("=") for pair in text.split("+")]
        if all(key and equals for key, equals, _ in pairs):
            return pb.Stage(labels={key: value for key, _, value in pairs})
    elif text.endswith("%"):
        if not (share := _percent(text)):
            raise argparse.ArgumentTypeError(f"{text!r} is nobody: a share above 0% is expected")
        return pb.Stage(percent=share)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a share, such as 10%, nor labels, zone=a"
    )


def _percent(text: str) -> float:
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not text.endswith("%") or not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, such as 5%")
    return number


def _times(text: str) -> float:
    try:
        number = float(text.removesuffix("x"))
    except ValueError:
        number = 0.0
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of times, 1 or more, such as 2")
    return number


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)
