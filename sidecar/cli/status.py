"""`sidecar status`: which sidecar enforces what."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import printable
from sidecar.cli.server import add_flags, admin_client, live
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "status",
        help="which sidecar enforces what",
        description="Show the connected sidecars, what each enforces and its last error.",
        epilog="example: sidecar status payments",
    )
    parser.add_argument(
        "which", nargs="?", default="", metavar="NS[/SIDECAR]",
        help="only this namespace, or only this sidecar of it",
    )  # fmt: skip
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


@dataclass(frozen=True, slots=True)
class _Reach:
    """How far the newest release of a namespace has come."""

    namespace: str
    version: int
    sidecars: int
    live: int
    refused: int


async def run(args: argparse.Namespace) -> int:
    """0: shown; 1: the one that was named is not connected."""
    namespace, _, sidecar_id = args.which.partition("/")
    request = pb.StatusRequest(namespace=namespace, sidecar_id=sidecar_id)
    async with admin_client(args) as client:
        status = await client.status(request)
    if sidecar_id and not status.sidecars:
        print(f"sidecar status: {args.which} is not connected", file=sys.stderr)
        return FOUND_PROBLEMS
    reaches = list(_reaches(status, everyone=not namespace))
    if args.output == "json":
        print(json.dumps(_json(status, reaches), indent=2))
    else:
        _print(status, reaches)
    return FINE


def _reaches(status: pb.StatusResponse, *, everyone: bool) -> Iterable[_Reach]:
    """`platform` concerns every sidecar, so it is counted only where all are known."""
    for release in status.releases:
        enforcing = [
            (convert.versions_from_wire(s.enforced), s)
            for s in status.sidecars
            if release.namespace == s.namespace
            or any(release.namespace == item.namespace for item in s.assigned)
        ]
        if not enforcing and not release.version:
            continue  # the empty `platform` that every store begins with
        lives = [found.get(release.namespace, -1) >= release.version for found, _ in enforcing]
        refused = sum(
            bool(s.last_error) and not is_live
            for (_, s), is_live in zip(enforcing, lives, strict=True)
        )
        if everyone or enforcing:
            yield _Reach(release.namespace, release.version, len(lives), sum(lives), refused)


def _print(status: pb.StatusResponse, reaches: Sequence[_Reach]) -> None:
    for reach in reaches:
        print(live(reach))
    if not status.sidecars:
        print("no sidecar is connected")
        return
    now = time.time()
    rows = [("NAMESPACE/SIDECAR", "ENFORCES", "ASSIGNED", "SINCE", "ADDRESS", "LABELS", "ERROR")]
    rows += [
        (
            f"{s.namespace}/{s.sidecar_id}",
            _versions(s.enforced),
            _versions(s.assigned),
            _ago(now - s.connected_since),
            s.address,
            ",".join(f"{key}={value}" for key, value in sorted(s.labels.items())) or "-",
            s.last_error.replace("\n", " ") or "-",
        )
        for s in status.sidecars
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    console = Console(highlight=False, markup=False, soft_wrap=True)
    print()
    for place, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        current = place == 0 or status.sidecars[place - 1].current
        line = printable("  ".join((*cells, row[-1])))  # sidecars say their names and errors
        console.print(line, style=None if current else "yellow")


def _json(status: pb.StatusResponse, reaches: Sequence[_Reach]) -> dict[str, Any]:
    return {
        "releases": [
            {
                "namespace": reach.namespace,
                "version": reach.version,
                "sidecars": reach.sidecars,
                "live": reach.live,
            }
            for reach in reaches
        ],
        "sidecars": [
            {
                "id": s.sidecar_id,
                "namespace": s.namespace,
                "labels": dict(s.labels),
                "build": s.build,
                "address": s.address,
                "connectedSince": s.connected_since,
                "enforced": convert.versions_from_wire(s.enforced),
                "assigned": convert.versions_from_wire(s.assigned),
                "current": s.current,
                "lastError": s.last_error,
            }
            for s in status.sidecars
        ],
    }


def _versions(versions: Iterable[pb.NamespaceVersion]) -> str:
    found = [f"{v.namespace}@{v.version}" for v in versions if v.version]
    return " ".join(found) or "-"


def _ago(passed: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= size:
            return f"{int(passed // size)}{unit}"
    return f"{max(0, int(passed))}s"
