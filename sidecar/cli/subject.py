"""`sidecar subject`: one customer, why it is one, and what is done for them."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import printable
from sidecar.cli.server import add_flags, subjects_client
from sidecar.errors import Misuse
from sidecar.facts.subjects_admin import SubjectsClient
from sidecar.wire import subject_pb2 as pb

_DECISIONS: Final = {"grant": "granted", "refuse": "refused", "withdraw": "withdrawn"}


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "subject",
        help="a customer: what is known, why, and what they agreed to",
        description="Look at one customer, or act for them. Every look is recorded.",
        epilog="example: sidecar subject show cus_4q7… --why",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = _action(actions, "show", "what is known of a customer")
    show.add_argument("--why", action="store_true", help="every link: what made them one customer")
    show.add_argument("--reason", default="", metavar="TEXT", help="why you look, for the record")
    for name in _DECISIONS:
        decide = _action(actions, name, f"{name} a purpose for a customer who said so")
        decide.add_argument("purpose", metavar="PURPOSE", help="NAMESPACE/NAME, or NAME of default")
        decide.add_argument(
            "--language", default="", metavar="TAG", help="in which they were asked"
        )
    change = _action(actions, "set", "attributes, segments and risk of a customer")
    change.add_argument(
        "--attribute", action="append", default=[], metavar="NAME=JSON",
        help="NAMESPACE/NAME, or NAME of default; without =JSON it is deleted",
    )  # fmt: skip
    change.add_argument(
        "--segment", action="append", default=None, metavar="NAME",
        help="these and no others; an empty one: none",
    )  # fmt: skip
    change.add_argument("--signal", default="", metavar="NAME", help="raises the risk")
    change.add_argument("--points", type=float, default=0.0, help="by so much; default: as said")
    undo = actions.add_parser("undo", help="take a link back, and keep it from coming again")
    undo.add_argument("link", metavar="LINK", help="its id, as `show --why` has it")
    export = _action(actions, "export", "everything that is kept of a customer, as JSON")
    export.add_argument("--to", default="-", metavar="FILE", help="- is standard output")
    erase = _action(actions, "erase", "delete everything that is kept of a customer")
    erase.add_argument("--yes", action="store_true", help="really; there is no way back")
    verify = actions.add_parser("verify", help="the receipts of an export, by their signatures")
    verify.add_argument("file", metavar="FILE", help="what `export` wrote")
    verify.add_argument("--keys", default="", metavar="FILE", help="a JWK Set; default: the file's")
    for each in (undo,):
        add_flags(each)
    for each in (undo, verify):
        each.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(handler=run)


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    parser.add_argument(
        "subject", metavar="ID", help="a customer's id; with --type, the value of an identifier"
    )
    parser.add_argument("--type", default="", help="of the identifier: subject, email, ...")
    parser.add_argument("--issuer", default="", metavar="URL", help="of a subject: its `iss`")
    parser.add_argument(
        "--pool", default="default/", metavar="NAMESPACE/POLICY",
        help="where it is one: the IdentityPolicy; NAMESPACE/ where there is none",
    )  # fmt: skip
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    return parser


async def run(args: argparse.Namespace) -> int:
    """0: done; 1: not everywhere, or a receipt that does not stand."""
    if args.action == "verify":
        return _verify(args)
    async with subjects_client(args) as client:
        if args.action == "undo":
            undone = await client.undo(pb.UndoLinkRequest(link=args.link))
            _say(args, _link(undone.link), f"undone: {undone.link.why}")
            return FINE
        name = _name(args)
        if args.action == "show":
            return await _show(client, name, args)
        if args.action in _DECISIONS:
            answer = await client.decide(
                pb.DecideRequest(
                    name=name, purpose=_ref(args.purpose), state=_DECISIONS[args.action],
                    language=args.language,
                )
            )  # fmt: skip
            _say(args, {"receipt": answer.receipt}, f"{_DECISIONS[args.action]}: {args.purpose}")
            return FINE
        if args.action == "set":
            await client.set(_change(args, name))
            _say(args, {"changed": True}, "changed")
            return FINE
        if args.action == "export":
            return await _export(client, name, args)
        return await _erase(client, name, args)


def _name(args: argparse.Namespace) -> pb.SubjectName:
    if not args.type:
        return pb.SubjectName(customer=args.subject)
    return pb.SubjectName(pool=args.pool, type=args.type, issuer=args.issuer, value=args.subject)


def _ref(name: str) -> str:
    return name if "/" in name else f"default/{name}"


async def _show(client: SubjectsClient, name: pb.SubjectName, args: argparse.Namespace) -> int:
    request = pb.ShowSubjectRequest(name=name, reason=args.reason)
    answer = await client.show(request)
    known = json.loads(answer.subject)
    links = [_link(each) for each in answer.links]
    if args.output == "json":
        print(json.dumps({**known, **({"links": links} if args.why else {})}, indent=2))
        return FINE
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"[bold]{known['customer']}[/] in {known['pool']}, version {known['version']}")
    for title, rows in _tables(known):
        if rows:
            _table(console, title, rows)
    console.print(f"risk {known['risk']}")
    if args.why:
        _table(
            console, "links",
            [
                {"id": each["id"], "when": _when(each["at"]), "what": each["kind"],
                 "why": each["why"], "by": each["by"], "": "undone" if each["undone"] else ""}
                for each in links
            ],
        )  # fmt: skip
    return FINE


def _tables(known: dict[str, Any]) -> list[tuple[str, list[dict[str, str]]]]:
    return [
        (
            "identifiers",
            [
                {"type": each["type"], "value": each["value"], "issuer": each["issuer"]}
                for each in known["identifiers"]
            ],
        ),
        (
            "consents",
            [
                {
                    "purpose": each["purpose"], "version": str(each["version"]),
                    "state": each["state"], "since": _when(each["at"]),
                    "used": str(each["used"]), "of": str(each["max_uses"] or ""),
                }
                for each in known["consents"]
            ],
        ),
        (
            "attributes",
            [
                {
                    "name": each["name"], "value": json.dumps(each["value"]),
                    "source": each["source"], "since": _when(each["at"]),
                }
                for each in known["attributes"]
            ],
        ),
    ]  # fmt: skip


def _table(console: Console, title: str, rows: list[dict[str, str]]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*[printable(each) for each in row.values()])
    console.print(table)


def _link(link: pb.SubjectLink) -> dict[str, Any]:
    return {
        "id": link.id, "at": link.at, "kind": link.kind, "type": link.identifier.type,
        "value": link.identifier.value, "other": link.other, "why": link.why, "by": link.by,
        "undone": link.undone,
    }  # fmt: skip


def _change(args: argparse.Namespace, name: pb.SubjectName) -> pb.SetSubjectRequest:
    """Raises Misuse."""
    request = pb.SetSubjectRequest(name=name, signal=args.signal, points=args.points)
    for each in args.attribute:
        ref, equals, text = each.partition("=")
        if not equals:
            request.deleted.append(_ref(ref))
            continue
        try:
            json.loads(text)
        except ValueError:
            raise Misuse(
                f"--attribute {ref}: {text!r} is no JSON; text stands in quotes: {ref}='\"{text}\"'"
            ) from None
        request.attributes.append(pb.AttributeValue(ref=_ref(ref), value=text.encode()))
    if args.segment is not None:
        request.replace_segments = True
        request.segments.extend([each for each in args.segment if each])
    return request


async def _export(client: SubjectsClient, name: pb.SubjectName, args: argparse.Namespace) -> int:
    answer = await client.export(pb.ExportSubjectRequest(name=name))
    whole = {**json.loads(answer.everything), "jwks": json.loads(answer.jwks)}
    text = json.dumps(whole, indent=2, sort_keys=True)
    if args.to == "-":
        print(text)
    else:
        await asyncio.to_thread(_write, Path(args.to), text)
    return FINE


def _write(path: Path, text: str) -> None:
    """For its owner alone. Raises Misuse."""
    try:
        path.touch(mode=0o600)
        path.write_text(text + "\n")
    except OSError as error:
        raise Misuse(f"--to: {path} cannot be written: {error.strerror}") from None


async def _erase(client: SubjectsClient, name: pb.SubjectName, args: argparse.Namespace) -> int:
    if not args.yes:
        raise Misuse("erase: everything that is kept of the customer goes; say --yes")
    answer = await client.erase(pb.EraseSubjectRequest(name=name, by="operator"))
    everywhere = answer.let_go == answer.sidecars
    _say(
        args,
        {"certificate": answer.certificate, "sidecars": answer.sidecars, "let_go": answer.let_go},
        f"erased; {answer.let_go} of {answer.sidecars} sidecars that held a record confirmed that "
        f"they do not any more\n{answer.certificate}",
    )
    return FINE if everywhere else FOUND_PROBLEMS


def _verify(args: argparse.Namespace) -> int:
    from sidecar.control.subjects.receipts import ReceiptRefused, verify_all

    try:
        whole = json.loads(Path(args.file).read_text())
        keys = json.loads(Path(args.keys).read_text()) if args.keys else whole["jwks"]
        chains = _chains(whole)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misuse(f"{args.file}: is no export of `sidecar subject export`: {error}") from None
    try:
        found = [claims for chain in chains for claims in verify_all(chain, keys)]
    except ReceiptRefused as error:
        print(f"sidecar subject: {printable(str(error))}", file=sys.stderr)
        return FOUND_PROBLEMS
    _say(args, {"receipts": found}, f"{len(found)} receipts stand, and none is missing between")
    return FINE


def _chains(whole: dict[str, Any]) -> list[list[str]]:
    """The receipts of each customer that became this one, in order."""
    by_customer: dict[str, list[tuple[int, str]]] = {}
    for each in whole["receipts"]:
        by_customer.setdefault(each["customer"], []).append((each["number"], each["jws"]))
    return [[jws for _, jws in sorted(chain)] for chain in by_customer.values()]


def _say(args: argparse.Namespace, plain: dict[str, Any], text: str) -> None:
    print(json.dumps(plain, indent=2) if args.output == "json" else text)


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")
