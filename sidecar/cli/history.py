"""`sidecar history`: every release of a namespace, who made it and why."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import moment, printable
from sidecar.cli.publishing import console
from sidecar.cli.releases import most, version
from sidecar.cli.rollouts import STATES, plain_rollout
from sidecar.cli.server import add_flags, admin_client
from sidecar.wire import admin_pb2 as pb


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "history",
        help="every release of a namespace, newest first",
        description="Show the releases of a namespace: when, by whom, why, and what became of "
        "them. Those marked * are in force: what is enforced builds on them.",
        epilog="example: sidecar history payments",
    )
    parser.add_argument("namespace", nargs="?", default="default", metavar="NAMESPACE")
    parser.add_argument("--most", type=most, default=50, metavar="NUMBER", help="at most so many")
    parser.add_argument(
        "--before", type=version, default=0, metavar="VERSION", help="only those before this one"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: shown; 1: the namespace has no release."""
    request = pb.HistoryRequest(namespace=args.namespace, most=args.most, before=args.before)
    async with admin_client(args) as client:
        answer = await client.history(request)
    if args.output == "json":
        print(json.dumps([_plain(each) for each in answer.entries], indent=2))
    else:
        out = console()
        for entry in answer.entries:
            out.print(_line(entry), style=None if entry.in_force else "dim")
    if not answer.entries and args.output == "text":
        print(printable(f"namespace {args.namespace} has no release"))
    return FINE if answer.entries else FOUND_PROBLEMS


def _line(entry: pb.HistoryEntry) -> str:
    release = entry.release
    parts = [
        f"{'*' if entry.in_force else ' '} {release.namespace}@{release.version}",
        moment(release.issued),
        f"{release.documents} documents",
        f"by {entry.author or 'nobody known'}",
    ]
    if entry.approver:
        parts.append(f"approved by {entry.approver}")
    if entry.restores >= 0:
        parts.append(f"restores @{entry.restores}")
    elif entry.parent >= 0 and entry.parent != release.version - 1:
        parts.append(f"changes @{entry.parent}")
    if entry.HasField("rollout"):
        state = STATES.get(entry.rollout.state, "unknown")
        parts.append(f"{state}: {entry.rollout.reason}" if entry.rollout.ended else state)
    if entry.expires:
        parts.append(f"taken back at {moment(entry.expires)}")
    if entry.message:
        parts.append(repr(entry.message))
    return printable("  ".join(parts))


def _plain(entry: pb.HistoryEntry) -> dict[str, Any]:
    release = entry.release
    return {
        "namespace": release.namespace,
        "version": release.version,
        "floor": release.floor,
        "issued": release.issued,
        "documents": release.documents,
        "author": entry.author,
        "approver": entry.approver,
        "message": entry.message,
        "parent": entry.parent if entry.parent >= 0 else None,
        "restores": entry.restores if entry.restores >= 0 else None,
        "rollout": plain_rollout(entry.rollout) if entry.HasField("rollout") else None,
        "inForce": entry.in_force,
        "expires": entry.expires or None,
    }
