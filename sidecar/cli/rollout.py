"""`sidecar rollout`: how releases spread that not everybody got at once, and a hand on them."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any, Final

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import printable
from sidecar.cli.releases import named
from sidecar.cli.rollouts import described, ended, plain_rollout, stage_text
from sidecar.cli.server import add_flags, admin_client
from sidecar.errors import Misuse
from sidecar.wire import admin_pb2 as pb

LOOK: Final = 0.5  # seconds
_ACTIONS: Final = {
    "pause": pb.SteerRequest.ACTION_PAUSE,
    "resume": pb.SteerRequest.ACTION_RESUME,
    "abort": pb.SteerRequest.ACTION_ABORT,
}


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "rollout",
        help="how a release spreads that not everybody got at once",
        description="Show rollouts, hold one where it is (pause), go on with it, to the next stage "
        "at once if it runs (resume), or give everybody the old release again (abort).",
        epilog="example: sidecar rollout status payments",
    )
    parser.add_argument("action", nargs="?", choices=("status", *_ACTIONS), default="status")
    parser.add_argument(
        "namespace", nargs="?", default=("", 0), metavar="NAMESPACE[@VERSION]", type=_which,
        help="whose; for `status` all if left out",
    )  # fmt: skip
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="why")
    parser.add_argument(
        "--all", action="store_true", help="with status: also those that have ended"
    )
    parser.add_argument(
        "--watch", action="store_true", help="with status: go on until none is under way"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: shown or done; 1: there is none, or it ended otherwise than well."""
    namespace, version = args.namespace
    if args.action == "status":
        return await _status(args, namespace, version)
    if not namespace:
        raise Misuse(f"whose rollout? sidecar rollout {args.action} NAMESPACE")
    async with admin_client(args) as client:
        rollout = await client.steer(
            pb.SteerRequest(
                namespace=namespace, action=_ACTIONS[args.action], reason=args.message,
                version=version,
            )
        )  # fmt: skip
    _show([rollout], args)
    return FINE


async def _status(args: argparse.Namespace, namespace: str, version: int) -> int:
    request = pb.RolloutsRequest(namespace=namespace, active=not args.all and not version)
    async with admin_client(args) as client:
        watched: list[tuple[str, int]] = []
        last = ""
        while True:
            answer = await client.rollouts(request)
            found = [r for r in answer.rollouts if version in (0, r.version)]
            if not args.watch:
                break
            request.active = False  # those that end are to be seen ending
            active = [r for r in found if not ended(r)]
            watched += [key for r in active if (key := (r.namespace, r.version)) not in watched]
            shown = [r for r in found if (r.namespace, r.version) in watched]
            text = "\n".join(described(each) for each in shown)
            if text != last and args.output == "text":
                print(text, flush=True)
            last = text
            if not active:
                found = shown
                break
            await asyncio.sleep(LOOK)
    if not found:
        if args.output == "json":
            print("[]")
            return FOUND_PROBLEMS if version else FINE
        print("no rollout is under way" if not args.all else "no rollout is known")
        return FOUND_PROBLEMS if version else FINE
    if not args.watch or args.output == "json":
        _show(found, args)
    if args.watch:
        well = all(each.state == pb.Rollout.STATE_COMPLETED for each in found)
        return FINE if well else FOUND_PROBLEMS
    return FINE


def _show(rollouts: list[pb.Rollout], args: argparse.Namespace) -> None:
    if args.output == "json":
        print(json.dumps([plain_rollout(each) for each in rollouts], indent=2))
        return
    for rollout in rollouts:
        print(described(rollout))
        if ended(rollout):
            continue
        stages = " > ".join(
            f"[{stage_text(each)}]" if place == rollout.stage else stage_text(each)
            for place, each in enumerate(rollout.plan.stages)
        )
        print(f"  stages    {printable(stages)}, {time.time() - rollout.stage_since:.0f}s in this")
        for name, health in (("new", rollout.candidate), ("old", rollout.control)):
            print(f"  {name}       {_health(health)}")
        print(f"  by        {printable(rollout.author)}")


def _which(text: str) -> tuple[str, int]:
    """`payments@7`, or `payments`: whichever version."""
    return named(text) if "@" in text else (text, 0)


def _health(found: pb.Health) -> str:
    if not found.requests:
        return "no requests reported"
    p99 = f", p99 of decisions {found.decision_p99 * 1e3:g} ms" if found.decision_p99 else ""
    return (
        f"{found.requests} requests: {found.refused / found.requests:.1%} refused, "
        f"{found.errors / found.requests:.1%} errors, {found.failed_expressions} with a failed "
        f"expression{p99}"
    )
