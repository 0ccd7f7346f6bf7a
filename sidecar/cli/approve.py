"""`sidecar approve`: what waits for a second person, and that person's word."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from sidecar.cli import FINE, publishing
from sidecar.cli.diff import print_documents
from sidecar.cli.printable import moment, printable
from sidecar.cli.rollouts import stage_text
from sidecar.cli.server import add_flags, admin_client
from sidecar.errors import Misuse
from sidecar.wire import admin_pb2 as pb


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "approve",
        help="what waits for a second person; say yes or no to it",
        description="Without an id show what was proposed; with one publish it, or reject it. "
        "After seven days it has to be proposed again. "
        "Whoever proposed something cannot approve it.",
        epilog="example: sidecar approve 5f0c2a9d3b7e1468",
    )
    parser.add_argument("id", nargs="?", default="", metavar="ID")
    decision = parser.add_mutually_exclusive_group()
    decision.add_argument(
        "--reject", action="store_true", help="say no; also to one's own, which takes it back"
    )
    decision.add_argument(
        "--show", action="store_true", help="only show it, with the text, as `sidecar diff` does"
    )
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="why")
    parser.add_argument("-n", "--namespace", default="", metavar="NAME", help="only this one's")
    parser.add_argument("--all", action="store_true", help="also those that were decided")
    publishing.wait_flag(parser)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: shown, published or rejected; 1: refused, not reached, or with --wait not enforced."""
    if args.show and not args.id:
        raise Misuse("--show: the id of what to show is expected; see `sidecar approve`")
    async with admin_client(args) as client:
        if args.show:
            shown = (await client.proposals(pb.ProposalsRequest(id=args.id))).proposals
            _list(shown, args)
            if args.output == "text":
                print_documents(pair for each in shown for pair in each.documents)
            return FINE
        if not args.id:
            request = pb.ProposalsRequest(namespace=args.namespace, all=args.all)
            _list((await client.proposals(request)).proposals, args)
            return FINE
        response = await client.review(
            pb.ReviewRequest(id=args.id, approve=not args.reject, reason=args.message)
        )
        if args.reject:
            if args.output == "json":
                print(json.dumps({"outcome": "rejected", "proposal": args.id}, indent=2))
            else:
                print(printable(f"rejected {args.id}; nothing was published"))
            return FINE
        problems = publishing.problems_of(response)
        return await publishing.told(client, response, problems, args, "propose it")


def _list(proposals: Sequence[pb.Proposal], args: argparse.Namespace) -> None:
    if args.output == "json":
        print(json.dumps([_plain(each) for each in proposals], indent=2))
        return
    for each in proposals:
        made = moment(each.created)
        why = f" {each.message!r}" if each.message else ""
        decided = f", {each.state} by {each.reviewer}" if each.reviewer else ""
        print(printable(f"{each.id}  {made}  by {each.author}{why}{decided}"))
        for line in _terms(each):
            print(printable(f"  {line}"))
        publishing.print_changes(each.changes, each.effects)
    if not proposals:
        print("nothing waits for a second person")


def _terms(each: pb.Proposal) -> list[str]:
    """What it is besides what it changes; nothing of what is as usual."""
    bases = sorted((name, version) for name, version in each.base_versions.items() if version)
    found = ["on " + " ".join(f"{name}@{version}" for name, version in bases)] if bases else []
    if each.raise_floor:
        found.append("raises the floor: no sidecar goes back to before it")
    if each.ttl:
        found.append(f"taken back after {_time(each.ttl)}")
    if each.prune:
        found.append("removes the documents of its namespaces that it does not have (--prune)")
    if each.HasField("rollout"):
        plan, limits = each.rollout, each.rollout.limits
        stages = " > ".join(stage_text(stage) for stage in plan.stages)
        found.append(
            f"{stages}, each for {_time(plan.bake)} and {plan.min_requests} requests at least; "
            f"back at {limits.refusals:g}% refused, {limits.errors:g}% errors, "
            f"{limits.failed_expressions:g}% failed expressions, {limits.latency:g} times as long"
        )
    return found


def _time(count: int) -> str:
    """As in `2d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if count and count % length == 0:
            return f"{count // length}{unit}"
    return f"{count}s"


def _plain(each: pb.Proposal) -> dict[str, Any]:
    found = _summary(each)
    if each.documents:
        found["documents"] = [
            {
                "document": pair.document,
                "before": json.loads(pair.before) if pair.before else None,
                "after": json.loads(pair.after) if pair.after else None,
            }
            for pair in each.documents
        ]
    return found


def _summary(each: pb.Proposal) -> dict[str, Any]:
    plan = each.rollout
    return {
        "baseVersions": dict(each.base_versions),
        "raiseFloor": each.raise_floor,
        "ttl": each.ttl,
        "prune": each.prune,
        "rollout": {
            "stages": [stage_text(stage) for stage in plan.stages],
            "bake": plan.bake,
            "minRequests": plan.min_requests,
            "limits": {
                "refusals": plan.limits.refusals,
                "errors": plan.limits.errors,
                "failedExpressions": plan.limits.failed_expressions,
                "latency": plan.limits.latency,
            },
        }
        if each.HasField("rollout")
        else None,
        "id": each.id,
        "author": each.author,
        "created": each.created,
        "message": each.message,
        "namespaces": list(each.namespaces),
        "state": each.state,
        "reviewer": each.reviewer,
        "reason": each.reason,
        **publishing.changes_json(each.changes, each.effects),
    }
