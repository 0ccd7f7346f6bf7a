"""`sidecar rollback`: back to what was before, in one step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

from sidecar.cli import publishing
from sidecar.cli.releases import version
from sidecar.cli.rollouts import described
from sidecar.cli.server import add_flags, admin_client
from sidecar.wire import admin_pb2 as pb

_NOT_DONE: Final = (pb.OUTCOME_REFUSED, pb.OUTCOME_CONFLICT)


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "rollback",
        help="back to what was published before, in one step",
        description="Publish the documents of an earlier release again, as a new one. While a "
        "release is being rolled out this ends it, and everybody has the old one.",
        epilog="example: sidecar rollback payments --to 7 --wait",
    )
    parser.add_argument("namespace", metavar="NAMESPACE")
    parser.add_argument(
        "--to", metavar="VERSION", type=version, default=0,
        help="which (see `sidecar history`); if left out the one before",
    )  # fmt: skip
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="why")
    parser.add_argument("--dry-run", action="store_true", help="only show what it would change")
    publishing.wait_flag(parser)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: published; 1: refused, not reached, or with --wait not enforced."""
    request = pb.RollbackRequest(
        namespace=args.namespace, to=args.to, dry_run=args.dry_run, message=args.message
    )
    async with admin_client(args) as client:
        response = await client.rollback(request)
        problems = publishing.problems_of(response)
        if args.output == "text":
            publishing.print_problems(problems)
            if response.outcome in _NOT_DONE and response.rollouts:
                for each in response.rollouts:
                    print(described(each))
                print("the rollout was ended, and nothing else was published", file=sys.stderr)
            else:
                publishing.print_response(response, "rollback")
        reaches: Sequence[pb.Progress.Reach] = ()
        rollouts: list[pb.Rollout] = []
        ended = list(response.rollouts)
        if response.outcome == pb.OUTCOME_PUBLISHED:
            response.ClearField("rollouts")
            made = {(each.namespace, each.version) for each in response.releases}
            above = [each for each in ended if (each.namespace, each.stable) in made]
            reaches, rollouts = await publishing.follow(client, response, args, above)
    if args.output == "json":
        publishing.print_json(response, problems, reaches, rollouts or ended)
    return publishing.exit_code(response, reaches, rollouts, args.wait)
