"""`sidecar status`: which sidecar enforces what."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import printable
from sidecar.cli.server import add_flags, admin_client, live, plain_reach
from sidecar.facts.admin import AdminClient
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert

LOOK: Final = 0.5  # seconds


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
    parser.add_argument(
        "--watch", action="store_true", help="go on, and show it anew whenever it has changed"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: shown; 1: the one that was named is not connected."""
    namespace, _, sidecar_id = args.which.partition("/")
    request = pb.StatusRequest(namespace=namespace, sidecar_id=sidecar_id)
    async with admin_client(args) as client:
        status = await client.status(request)
        if args.watch:
            return await _watch(client, request, status, args)
    if sidecar_id and not status.sidecars:
        print(f"sidecar status: {args.which} is not connected", file=sys.stderr)
        return FOUND_PROBLEMS
    if args.output == "json":
        print(json.dumps(_json(status), indent=2))
    else:
        _print(status)
    return FINE


async def _watch(
    client: AdminClient,
    request: pb.StatusRequest,
    status: pb.StatusResponse,
    args: argparse.Namespace,
) -> int:
    """Until somebody ends it. On a terminal each look takes the place of the one before."""
    last: pb.StatusResponse | None = None
    while True:
        shown = _without_lag(status)
        if shown != last:
            last = shown
            if args.output == "json":  # one line for each look
                print(json.dumps(_json(status)), flush=True)
            else:
                if sys.stdout.isatty():
                    Console().clear()
                print(time.strftime("%H:%M:%S"))
                _print(status)
                print(flush=True)
        await asyncio.sleep(LOOK)
        status = await client.status(request)


def _without_lag(status: pb.StatusResponse) -> pb.StatusResponse:
    """What differs only as time goes by is no change."""
    found = pb.StatusResponse()
    found.CopyFrom(status)
    for each in found.sidecars:
        each.lag = float(each.lag > 0)
    return found


def _print(status: pb.StatusResponse) -> None:
    for reach in status.reaches:
        print(live(reach))
    if not status.sidecars:
        print("no sidecar is connected")
        return
    now = time.time()
    rows = [
        ("NAMESPACE/SIDECAR", "ENFORCES", "ASSIGNED", "LAG", "UP", "BUILD", "ADDRESS", "LABELS",
         "ERROR")
    ]  # fmt: skip
    rows += [
        (
            f"{s.namespace}/{s.sidecar_id}",
            _versions(s.enforced),
            _versions(s.assigned),
            _lag(s),
            _ago(now - (s.started or s.connected_since)),
            s.build or "-",
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


def _json(status: pb.StatusResponse) -> dict[str, Any]:
    return {
        "releases": [
            {
                "namespace": reach.namespace,
                "version": reach.version,
                "sidecars": reach.sidecars,
                "live": reach.live,
            }
            for reach in status.reaches
        ],
        "reaches": [plain_reach(reach) for reach in status.reaches],
        "sidecars": [
            {
                "id": s.sidecar_id,
                "namespace": s.namespace,
                "labels": dict(s.labels),
                "build": s.build,
                "address": s.address,
                "connectedSince": s.connected_since,
                "started": s.started or None,
                "uptimeSeconds": int(time.time()) - s.started if s.started else None,
                "lagSeconds": round(s.lag, 3),
                "replica": s.replica or None,
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


def _lag(status: pb.SidecarStatus) -> str:
    if status.current:
        return "-"
    return f"{status.lag:.1f}s" if status.lag else "waits"


def _ago(passed: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= size:
            return f"{int(passed // size)}{unit}"
    return f"{max(0, int(passed))}s"
