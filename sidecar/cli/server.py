"""What the commands that talk to a control plane have in common: flags, clients, who enforces."""

from __future__ import annotations

import argparse
from typing import Any

from sidecar import config
from sidecar.cli.printable import printable
from sidecar.decide.documents import seconds
from sidecar.facts.admin import AdminClient
from sidecar.facts.server import TIMEOUT
from sidecar.facts.subjects_admin import SubjectsClient
from sidecar.wire import admin_pb2 as pb


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--server` and what is shown there, `--timeout`."""
    config.add_server_flags(parser)
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=duration,
        default=TIMEOUT,
        help="how long to wait for it, as in 500ms, 10s, 2m (default 10s)",
    )


def admin_client(args: argparse.Namespace) -> AdminClient:
    """By the flags of `add_flags` and the environment. Raises Misuse."""
    return AdminClient(config.server(args, args.timeout))


def subjects_client(args: argparse.Namespace) -> SubjectsClient:
    """The same for customers. Raises Misuse."""
    return SubjectsClient(config.server(args, args.timeout))


def plain_reach(reach: pb.Progress.Reach) -> dict[str, Any]:
    """How far a release has come, as each command's JSON has it."""
    return {
        "namespace": reach.namespace,
        "version": reach.version,
        "sidecars": reach.sidecars,
        "assigned": reach.assigned,
        "live": reach.live,
        "refused": reach.refused,
        "errors": list(reach.errors),
    }


def live(reach: Any) -> str:
    """`payments@7: live on 2 of 3 sidecars`, from anything with these four counts."""
    if not reach.sidecars:
        return printable(f"{reach.namespace}@{reach.version}: no sidecar is connected")
    noun = "sidecar" if reach.sidecars == 1 else "sidecars"
    refused = f", refused by {reach.refused}" if reach.refused else ""
    return printable(
        f"{reach.namespace}@{reach.version}: live on {reach.live} of {reach.sidecars} {noun}"
        f"{refused}"
    )


def duration(text: str) -> float:
    """`500ms`, `10s`, `2d`, in seconds; for argparse."""
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
