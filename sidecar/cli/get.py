"""`sidecar get`: what is published, as documents that `apply` reads again."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.server import add_flags, admin_client
from sidecar.decide.documents import KINDS
from sidecar.errors import Misuse
from sidecar.wire import admin_pb2 as pb


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "get",
        help="what is published",
        description="Print the documents that are published; `apply` reads them again.",
        epilog="example: sidecar get AccessPolicy/payments -n default",
    )
    parser.add_argument(
        "what", nargs="?", default="", metavar="KIND[/NAME]", help=f"one of {', '.join(KINDS)}"
    )
    parser.add_argument("-n", "--namespace", default="", metavar="NAME", help="only this one's")
    parser.add_argument("--output", choices=("yaml", "json"), default="yaml")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: printed; 1: the one that was named is not published."""
    kind, _, name = args.what.partition("/")
    request = pb.GetRequest(namespace=args.namespace, kind=_kind(kind), name=name)
    async with admin_client(args) as client:
        response = await client.get(request)
    documents = [readable(json.loads(text)) for text in response.documents]
    if name and not documents:
        place = f" in namespace {args.namespace}" if args.namespace else ""
        print(f"sidecar get: no {args.what} is published{place}", file=sys.stderr)
        return FOUND_PROBLEMS
    print(_text(documents, args.output), end="")
    return FINE


def _kind(given: str) -> str:
    for kind in KINDS:
        if kind.lower() == given.lower():
            return kind
    if given:
        raise Misuse(f"unknown kind {given!r}; known: {', '.join(KINDS)}")
    return ""


def readable(body: dict[str, Any]) -> dict[str, Any]:
    """In the order in which people write documents."""
    metadata = body["metadata"]
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": {
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            **({"labels": metadata["labels"]} if metadata["labels"] else {}),
        },
        "spec": body["spec"],
    }


def _text(documents: Sequence[dict[str, Any]], form: str) -> str:
    if form == "json":
        return json.dumps(documents, indent=2, ensure_ascii=False) + "\n"
    return "---\n".join(
        yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=100)
        for document in documents
    )
