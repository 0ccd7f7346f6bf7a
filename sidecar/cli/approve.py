"""`sidecar approve`: what waits for a second person, and that person's word."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sidecar.cli import FINE, publishing
from sidecar.cli.printable import printable
from sidecar.cli.server import add_flags, admin_client
from sidecar.wire import admin_pb2 as pb


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "approve",
        help="what waits for a second person; say yes or no to it",
        description="Without an id show what was proposed; with one publish it, or reject it. "
        "Whoever proposed something cannot approve it.",
        epilog="example: sidecar approve 5f0c2a9d3b7e1468",
    )
    parser.add_argument("id", nargs="?", default="", metavar="ID")
    parser.add_argument("--reject", action="store_true", help="say no")
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="why")
    parser.add_argument("-n", "--namespace", default="", metavar="NAME", help="only this one's")
    parser.add_argument("--all", action="store_true", help="also those that were decided")
    publishing.wait_flag(parser)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: shown, published or rejected; 1: refused, not reached, or with --wait not enforced."""
    async with admin_client(args) as client:
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
        if args.output == "text":
            publishing.print_problems(problems)
            publishing.print_response(response, "propose it")
        reaches: Sequence[pb.Progress.Reach] = ()
        found: list[pb.Rollout] = []
        if response.outcome == pb.OUTCOME_PUBLISHED:
            reaches, found = await publishing.follow(client, response, args)
    if args.output == "json":
        publishing.print_json(response, problems, reaches, found)
    return publishing.exit_code(response, reaches, found, args.wait)


def _list(proposals: Sequence[pb.Proposal], args: argparse.Namespace) -> None:
    if args.output == "json":
        print(json.dumps([_plain(each) for each in proposals], indent=2))
        return
    for each in proposals:
        made = datetime.fromtimestamp(each.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        why = f" {each.message!r}" if each.message else ""
        decided = f", {each.state} by {each.reviewer}" if each.reviewer else ""
        print(printable(f"{each.id}  {made}  by {each.author}{why}{decided}"))
        publishing.print_changes(each.changes, each.effects)
    if not proposals:
        print("nothing waits for a second person")


def _plain(each: pb.Proposal) -> dict[str, Any]:
    return {
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
