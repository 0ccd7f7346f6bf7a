"""`sidecar redirect`: lead all inbound TCP of this network namespace to the sidecar."""

from __future__ import annotations

import argparse
from typing import Any

from sidecar.cli import FINE
from sidecar.errors import Misuse
from sidecar.inject import iptables
from sidecar.inject.redirect import IPV4, IPV6, Redirect, install
from sidecar.inject.terms import HEALTH, TRAFFIC, USER


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "redirect",
        help="lead all inbound TCP of a pod to its sidecar",
        description="Set packet filter rules (IPv4 and IPv6) so that every TCP connection to this "
        "pod reaches the sidecar, which runs with --upstream original-destination. "
        "An init step: it needs root with NET_ADMIN, in the network namespace of the pod and never "
        "in that of a host, whose every service it would take over. Run twice, it changes nothing.",
        epilog="example: sidecar redirect --exclude-port 9090",
    )
    parser.add_argument(
        "--to", type=_port, default=TRAFFIC, metavar="PORT",
        help="the sidecar's traffic port; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--exclude-port", type=_port, action="append", default=[], metavar="PORT",
        help=f"reached directly, undecided, as the health port {HEALTH} is; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--user", type=_user, default=USER, metavar="UID",
        help="as whom the sidecar runs: its own connections are left alone; default %(default)s",
    )  # fmt: skip
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--remove", action="store_true", help="remove the rules, all of them")
    instead.add_argument(
        "--dry-run", action="store_true", help="print the rules for a pod that has none yet"
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """0: done; 1: it could not be, and why is said. Raises Misuse."""
    if own := {args.to, HEALTH} & {*args.exclude_port}:
        raise Misuse(
            [
                f"--exclude-port: {port} is a port of the sidecar's own, left as it is anyway; "
                "leave it out, or name a port of the application's"
                for port in sorted(own)
            ]
        )
    wanted = Redirect(args.to, frozenset(args.exclude_port), args.user)
    if args.dry_run:
        for family in (IPV4, IPV6):
            print(f"# {family.name}: {family.program}-restore --noflush")
            print(install(wanted, family), end="")
        return FINE
    for line in iptables.change(None if args.remove else wanted, ipv6=iptables.ipv6()):
        print(line)
    return FINE


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def _user(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32 - 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a user")
    return int(text)
