"""`sidecar diff`: what would change, or has changed, and what that means for requests."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable
from typing import Any

import yaml

from sidecar.cli import FINE, FOUND_PROBLEMS, publishing, releases
from sidecar.cli.get import readable
from sidecar.cli.printable import printable
from sidecar.cli.server import add_flags, admin_client
from sidecar.errors import DocumentsInvalid, Misuse
from sidecar.facts.admin import AdminClient
from sidecar.facts.files import load
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "diff",
        help="what would change, or has changed, and what that means",
        description="Compare documents with what is published, or two releases. First what it "
        "means for requests, the dangerous first ([wider] admits more or asks for less, [check] "
        "nobody can tell from the documents), then the text.",
        epilog="example: sidecar diff -f policies/",
    )
    parser.add_argument(
        "releases", nargs="*", metavar="NAMESPACE@VERSION", type=releases.named,
        help="one release with the newest, or two with each other",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--file", dest="paths", metavar="PATH", action="append", default=[],
        help="documents with what is published; as for `sidecar apply`",
    )  # fmt: skip
    parser.add_argument("--prune", action="store_true", help="as `apply --prune` would")
    parser.add_argument(
        "-n", "--namespace", dest="namespaces", metavar="NAME", action="append", default=[],
        help="with --prune: a namespace besides those of the documents",
    )  # fmt: skip
    parser.add_argument("--brief", action="store_true", help="without the text")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: nothing differs; 1: something does, or it would be refused."""
    if bool(args.paths) == bool(args.releases) or len(args.releases) > 2:
        raise Misuse("give either -f PATH, or one or two NAMESPACE@VERSION")
    async with admin_client(args) as client:
        if args.paths:
            return await _files(client, args)
        found = await client.diff(_request(args.releases))
    _show(found, args)
    return FOUND_PROBLEMS if found.changes else FINE


def _request(named: list[tuple[str, int]]) -> pb.DiffRequest:
    if len({name for name, _ in named}) > 1:
        raise Misuse("two releases of one namespace can be compared")
    name, version = named[0]
    to = named[1][1] if len(named) > 1 else 0
    return pb.DiffRequest(namespace=name, to=to, **{"from": version})


async def _files(client: AdminClient, args: argparse.Namespace) -> int:
    documents, problems = load(args.paths)
    if any(not problem.warning for problem in problems):
        raise DocumentsInvalid(problems)
    request = pb.ApplyRequest(
        documents=[document.canonical for document in documents], namespaces=args.namespaces,
        prune=args.prune, dry_run=True,
    )  # fmt: skip
    response = await client.apply(request)
    publishing.print_problems(convert.problem_from_wire(each) for each in response.problems)
    changes = [each for each in response.changes if each.what != pb.Change.WHAT_UNCHANGED]
    published: dict[str, bytes] = {}
    for namespace in sorted({each.document.split("/")[1] for each in changes}):
        got = await client.get(pb.GetRequest(namespace=namespace))
        published |= {_ref(text): text for text in got.documents}
    given = {document.ref: document.canonical for document in documents}
    found = pb.DiffResponse(changes=changes, effects=response.effects)
    for each in changes:
        found.documents.add(
            document=each.document, before=published.get(each.document, b""),
            after=given.get(each.document, b""),
        )  # fmt: skip
    _show(found, args)
    return FOUND_PROBLEMS if changes or response.outcome == pb.OUTCOME_REFUSED else FINE


def _show(found: pb.DiffResponse, args: argparse.Namespace) -> None:
    if args.output == "json":
        print(json.dumps(publishing.changes_json(found.changes, found.effects), indent=2))
        return
    if not found.changes:
        print("nothing differs")
        return
    publishing.print_changes(found.changes, found.effects)
    if not args.brief:
        print_documents(found.documents)


def print_documents(pairs: Iterable[pb.DiffResponse.Pair]) -> None:
    """How their text differs."""
    out = publishing.console()
    for pair in pairs:
        lines = difflib.unified_diff(
            _lines(pair.before), _lines(pair.after), pair.document, pair.document, lineterm=""
        )
        for style, line in _coloured(lines):
            out.print(printable(line), style=style)


def _coloured(lines: Iterable[str]) -> Iterable[tuple[str | None, str]]:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return ((styles.get(line[:1]), line) for line in lines)


def _lines(text: bytes) -> list[str]:
    if not text:
        return []
    body = readable(json.loads(text))
    dumped: str = yaml.dump(
        body, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return dumped.splitlines()


def _ref(text: bytes) -> str:
    body = json.loads(text)
    return f"{body['kind']}/{body['metadata']['namespace']}/{body['metadata']['name']}"
