"""`sidecar keys`: the keys that sign releases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sidecar.cli import FINE
from sidecar.cli.printable import moment, printable, printable_lines
from sidecar.cli.server import add_flags, admin_client
from sidecar.errors import Misuse
from sidecar.wire import admin_pb2 as pb


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "keys",
        help="the keys that sign releases: list, rotate, delegate",
        description="List the keys, or make a new one (rotate), which the one before it vouches "
        "for: sidecars that trust that one go on without a refused release. Or let a key sign "
        "whose private half is elsewhere, in CI say (delegate).",
        epilog="example: sidecar keys delegate ci --public-key ci.pub.pem",
    )
    parser.add_argument("action", nargs="?", choices=("list", "rotate", "delegate"), default="list")
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="whose key it is")
    parser.add_argument(
        "--public-key", metavar="FILE", type=Path, help="with delegate: Ed25519, PEM"
    )
    parser.add_argument(
        "--output", choices=("text", "json", "pem"), default="text",
        help="pem: what sidecars take as --trust",
    )  # fmt: skip
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: shown or done."""
    request = _delegation(args) if args.action == "delegate" else None
    async with admin_client(args) as client:
        if request is not None:
            found = await client.delegate_signing(request)
        elif args.action == "rotate":
            found = await client.rotate_signing_key()
        else:
            found = await client.signing_keys()
    if args.output == "json":
        print(json.dumps([_plain(key) for key in found.keys], indent=2))
    elif args.output == "pem":
        print(printable_lines("".join(key.pem for key in found.keys)), end="")
    else:
        for key in found.keys:
            print(_line(key))
    return FINE


def _delegation(args: argparse.Namespace) -> pb.DelegateSigningRequest:
    if args.public_key is None or not args.name:
        raise Misuse("sidecar keys delegate NAME --public-key FILE: both are expected")
    try:
        return pb.DelegateSigningRequest(public_key=args.public_key.read_bytes(), name=args.name)
    except OSError as error:
        raise Misuse(f"--public-key {args.public_key}: {error.strerror}") from None


def _line(key: pb.SigningKey) -> str:
    made = moment(key.created)
    name = f" {key.name}" if key.name else ""
    by = f"  endorsed by {key.endorsed_by}" if key.endorsed_by else ""
    return printable(f"{key.fingerprint}  {made}  {key.kind}{name}{by}")


def _plain(key: pb.SigningKey) -> dict[str, Any]:
    return {
        "fingerprint": key.fingerprint,
        "kind": key.kind,
        "name": key.name,
        "created": key.created,
        "endorsedBy": key.endorsed_by or None,
        "pem": key.pem,
    }
