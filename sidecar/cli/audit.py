"""`sidecar audit`: everything that was done at a control plane, and whether the record is whole."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import moment, printable
from sidecar.cli.releases import most, version
from sidecar.cli.server import add_flags, admin_client
from sidecar.errors import Misuse
from sidecar.facts.admin import AdminClient
from sidecar.facts.audit import START, Head, Record, broken
from sidecar.wire import admin_pb2 as pb

PAGE: Final = 1000


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "audit",
        help="everything that was done, and whether the record is whole",
        description="List what was done, newest first; verify that nothing in the record was "
        "changed, removed or put in between, by hashes that are computed here; or export it, so "
        "that it can be verified elsewhere later. Note the head that `verify` prints: given again "
        "with --head it shows that nothing up to there was cut off or replaced.",
        epilog="example: sidecar audit verify --head 41:9f2c…",
    )
    parser.add_argument("action", nargs="?", choices=("list", "verify", "export"), default="list")
    parser.add_argument("--most", type=most, default=50, metavar="NUMBER", help="with list")
    parser.add_argument(
        "--head", metavar="NUMBER:HASH", action="append", default=[], type=_head,
        help="with verify: a head that was noted before; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--file", metavar="FILE", type=Path, help="with verify: what was exported, instead"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: shown, or whole; 1: it is not whole."""
    if args.file is not None:
        if args.action != "verify":
            raise Misuse("--file: it is for `sidecar audit verify`")
        head, problem = _verified_file(args.file, args.head)
        return _said(head, problem, args)
    async with admin_client(args) as client:
        if args.action == "verify":
            head, problem = await _verified(client, args.head)
            return _said(head, problem, args)
        if args.action == "export":
            async for records in _pages(client):
                for record in records:
                    print(_line(record))
            return FINE
        answer = await client.audit(pb.AuditRequest(newest=True, most=args.most))
    _list(answer.records, args)
    return FINE


async def _pages(client: AdminClient) -> AsyncIterator[list[Record]]:
    """All of it, in order; no longer than it was when it began."""
    after, until = 0, -1
    while until < 0 or after < until:
        answer = await client.audit(pb.AuditRequest(after=after, most=PAGE))
        if until < 0:
            until = answer.head_number
        records = [Record(each.number, each.content, each.hash) for each in answer.records]
        if not records:
            return
        yield records
        after = records[-1].number


async def _verified(client: AdminClient, heads: Sequence[Head]) -> tuple[Head, str]:
    head, problem = START, ""
    missing = {each.number: each for each in heads if each.number}
    async for records in _pages(client):
        head, problem = _followed(records, head, missing)
        if problem:
            return head, problem
    return head, _cut(missing) or await _ends(client, head)


async def _ends(client: AdminClient, head: Head) -> str:
    """Whether what was read is all that the control plane says it has."""
    answer = await client.audit(pb.AuditRequest(after=head.number, most=1))
    if answer.head_number < head.number:
        return f"the record ended at {head.number} a moment ago, and ends at {answer.head_number}"
    if answer.head_number > head.number and not answer.records:
        return f"the record is said to go to {answer.head_number}, and ends at {head.number}"
    return ""


def _verified_file(path: Path, heads: Sequence[Head]) -> tuple[Head, str]:
    head = START
    missing = {each.number: each for each in heads if each.number}
    try:
        with path.open(encoding="utf-8") as file:
            for place, line in enumerate(file, 1):
                record = _record(line)
                if record is None:
                    return head, f"{path}:{place}: it is not a line of `sidecar audit export`"
                head, problem = _followed([record], head, missing)
                if problem:
                    return head, problem
    except (OSError, ValueError) as error:
        raise Misuse(f"--file {path}: {error}") from None
    return head, _cut(missing)


def _followed(records: Iterable[Record], head: Head, missing: dict[int, Head]) -> tuple[Head, str]:
    for record in records:
        head, problem = broken([record], head)
        if problem:
            return head, problem
        noted = missing.pop(head.number, None)
        if noted is not None and noted.hash != head.hash:
            return head, f"record {head.number} is another one than the head that was noted"
    return head, ""


def _cut(missing: dict[int, Head]) -> str:
    if not missing:
        return ""
    return f"the record ends before {min(missing)}, whose head was noted: its end was cut off"


def _said(head: Head, problem: str, args: argparse.Namespace) -> int:
    if args.output == "json":
        body = {"whole": not problem, "number": head.number, "hash": head.hash.hex(),
                "problem": problem or None}  # fmt: skip
        print(json.dumps(body, indent=2))
    elif problem:
        print(f"sidecar audit: {problem}", file=sys.stderr)
    else:
        print(f"{head.number} records, whole; head {head.number}:{head.hash.hex()}")
    return FOUND_PROBLEMS if problem else FINE


def _list(records: Iterable[pb.AuditRecord], args: argparse.Namespace) -> None:
    bodies = [_body(each.content) for each in records]
    if args.output == "json":
        print(json.dumps(bodies, indent=2))
        return
    for body in bodies:
        print(printable(_text(body)))


def _body(content: bytes) -> Any:
    """What a record says; one that says nothing may be seen, too."""
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="backslashreplace")


def _text(body: Any) -> str:
    try:
        made = moment(body["at"])
        about = json.dumps(body["about"], sort_keys=True)
        return f"{body['number']}  {made}  {body['action']}  by {body['by']}  {about}"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return f"not a record: {body!r}"


def _line(record: Record) -> str:
    """One record as a line; its content goes as the bytes that were hashed."""
    return json.dumps(
        {
            "number": record.number,
            "content": base64.b64encode(record.content).decode(),
            "hash": record.hash.hex(),
        }
    )


def _record(line: str) -> Record | None:
    try:
        body = json.loads(line)
        content = base64.b64decode(body["content"], validate=True)
        return Record(int(body["number"]), content, bytes.fromhex(body["hash"]))
    except (ValueError, KeyError, TypeError):
        return None


def _head(text: str) -> Head:
    number, _, digest = text.partition(":")
    try:
        found = Head(version(number), bytes.fromhex(digest))
        if len(found.hash) != (32 if found.number else 0):
            raise ValueError
        return found
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NUMBER:HASH, as `sidecar audit verify` prints it"
        ) from None
