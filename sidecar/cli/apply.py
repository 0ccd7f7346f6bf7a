"""`sidecar apply`: publish documents, print what changed and who enforces it."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from rich.console import Console

from sidecar.cli import FINE, FOUND_PROBLEMS, plain
from sidecar.cli.printable import printable_lines
from sidecar.cli.server import add_flags, admin_client, live
from sidecar.decide.documents import Document
from sidecar.decide.problems import problem_at
from sidecar.errors import ControlPlaneUnreachable, Misuse, Problem
from sidecar.facts.admin import AdminClient
from sidecar.facts.files import load
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert

BRIEFLY: Final = 2.0  # seconds that an apply without --wait waits to see who enforces it
_MARKS: Final = {
    pb.Change.WHAT_ADDED: ("+", "added", "green"),
    pb.Change.WHAT_CHANGED: ("~", "changed", "yellow"),
    pb.Change.WHAT_REMOVED: ("-", "removed", "red"),
    pb.Change.WHAT_UNCHANGED: ("=", "unchanged", "dim"),
}
_OUTCOMES: Final = {
    pb.OUTCOME_PUBLISHED: "published",
    pb.OUTCOME_UNCHANGED: "unchanged",
    pb.OUTCOME_WOULD_PUBLISH: "would_publish",
    pb.OUTCOME_REFUSED: "refused",
    pb.OUTCOME_CONFLICT: "conflict",
}


def register(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "apply",
        help="publish documents",
        description="Publish documents to a control plane: all of them or, if one is refused, "
        "none. Prints what changes and which sidecars enforce it.",
        epilog="example: sidecar apply -f policies/ --server 127.0.0.1:7443 --wait",
    )
    parser.add_argument(
        "-f", "--file", dest="paths", metavar="PATH", action="append", required=True,
        help="a file, a folder (every *.yaml *.yml *.json below it), or - for standard input; "
        "may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--namespace", dest="namespaces", metavar="NAME", action="append", default=[],
        help="with --prune: a namespace to prune besides those of the documents",
    )  # fmt: skip
    parser.add_argument(
        "--prune", action="store_true", help="remove the namespace's documents that are not given"
    )
    parser.add_argument("--dry-run", action="store_true", help="check and compare only")
    parser.add_argument(
        "--wait", action="store_true", help="wait until every connected sidecar enforces it"
    )
    parser.add_argument(
        "--base", metavar="NS=VERSION", action="append", default=[], type=_base,
        help="refuse if the namespace's newest version is another one; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--raise-floor", action="store_true",
        help="sidecars never go back to an earlier release than this one",
    )  # fmt: skip
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: published (or nothing to do); 1: refused, not reached, or with --wait not enforced."""
    documents, problems = load(args.paths)
    if any(not problem.warning for problem in problems):
        _print_problems(problems, args)
        return FOUND_PROBLEMS
    if not documents and not args.prune:
        raise Misuse("no documents in what -f names")
    request = pb.ApplyRequest(
        documents=[document.canonical for document in documents],
        namespaces=args.namespaces,
        prune=args.prune,
        dry_run=args.dry_run,
        base_versions=dict(args.base),
        raise_floor=args.raise_floor,
    )
    async with admin_client(args) as client:
        response = await client.apply(request)
        problems += _placed(response.problems, documents)
        if args.output == "text":
            _print_problems(problems, args)
            _print_response(response)
        reaches: Sequence[pb.Progress.Reach] = ()
        if response.outcome == pb.OUTCOME_PUBLISHED:
            reaches = await _watch(client, response, args)
    if args.output == "json":
        _print_json(response, problems, reaches)
    return _exit_code(response, reaches, wait=args.wait)


async def _watch(
    client: AdminClient, response: pb.ApplyResponse, args: argparse.Namespace
) -> Sequence[pb.Progress.Reach]:
    """Who enforces it, once all do or the time is up. It is published whatever happens here."""
    reaches: Sequence[pb.Progress.Reach] = ()
    within = args.timeout if args.wait else min(BRIEFLY, args.timeout)
    try:
        async for reaches in client.watch(response.releases, within=within):
            if all(reach.live + reach.refused >= reach.sidecars for reach in reaches):
                break
    except ControlPlaneUnreachable as error:
        print(f"sidecar apply: published, but who enforces it is unknown: {error}", file=sys.stderr)
    if args.output == "text":
        for reach in reaches:
            print(live(reach))
            for refusal in reach.errors:
                print(f"  refused by {printable_lines(refusal)}", file=sys.stderr)
    return reaches


def _exit_code(
    response: pb.ApplyResponse, reaches: Sequence[pb.Progress.Reach], *, wait: bool
) -> int:
    if response.outcome in (pb.OUTCOME_UNCHANGED, pb.OUTCOME_WOULD_PUBLISH):
        return FINE
    if response.outcome != pb.OUTCOME_PUBLISHED:
        return FOUND_PROBLEMS
    everywhere = bool(reaches) and all(reach.live == reach.sidecars for reach in reaches)
    return FINE if everywhere or not wait else FOUND_PROBLEMS


def _placed(problems: Sequence[pb.Problem], documents: Sequence[Document]) -> list[Problem]:
    """The server's problems with their places in our files; it knows documents and pointers."""
    by_ref = {document.ref: document for document in documents}
    placed = []
    for item in problems:
        problem = convert.problem_from_wire(item)
        document = by_ref.get(problem.document)
        if document is not None:
            at = problem_at(document, problem.pointer, problem.message)
            problem = replace(problem, file=at.file, line=at.line, column=at.column)
        elif not problem.document:
            problem = replace(problem, document="documents")
        placed.append(problem)
    return placed


def _print_problems(problems: Sequence[Problem], args: argparse.Namespace) -> None:
    if args.output == "json" and any(not problem.warning for problem in problems):
        _print_json(pb.ApplyResponse(outcome=pb.OUTCOME_REFUSED), problems, ())
        return
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for problem in problems:
        console.print(printable_lines(problem), style="yellow" if problem.warning else "red")


def _print_response(response: pb.ApplyResponse) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    counts: Counter[str] = Counter()
    for change in response.changes:
        mark, what, style = _MARKS[change.what]
        counts[what] += 1
        if change.what != pb.Change.WHAT_UNCHANGED and response.outcome != pb.OUTCOME_REFUSED:
            console.print(f"{mark} {change.document}", style=style)
    summary = ", ".join(f"{count} {what}" for what, count in counts.items()) or "no documents"
    versions = " ".join(f"{r.namespace}@{r.version}" for r in response.releases)
    match response.outcome:
        case pb.OUTCOME_PUBLISHED:
            print(f"published {versions}: {summary}")
        case pb.OUTCOME_UNCHANGED:
            print(f"nothing to publish: {summary}")
        case pb.OUTCOME_WOULD_PUBLISH:
            print(f"dry run, nothing published: {summary}")
        case pb.OUTCOME_CONFLICT:
            print(
                f"refused: somebody else published in between; newest now: {versions or 'none'}. "
                "Look at it with `sidecar get`, then apply again",
                file=sys.stderr,
            )
        case _:
            print("refused; nothing was published", file=sys.stderr)


def _print_json(
    response: pb.ApplyResponse,
    problems: Sequence[Problem],
    reaches: Sequence[pb.Progress.Reach],
) -> None:
    body = {
        "outcome": _OUTCOMES.get(response.outcome, "unknown"),
        "releases": [
            {"namespace": r.namespace, "version": r.version, "documents": r.documents}
            for r in response.releases
        ],
        "changes": [
            {"what": _MARKS[change.what][1], "document": change.document}
            for change in response.changes
        ],
        "problems": [plain(problem) for problem in problems],
        "enforced": [
            {
                "namespace": reach.namespace,
                "version": reach.version,
                "sidecars": reach.sidecars,
                "live": reach.live,
                "refused": reach.refused,
                "errors": list(reach.errors),
            }
            for reach in reaches
        ],
    }
    print(json.dumps(body, indent=2))


def _base(text: str) -> tuple[str, int]:
    namespace, equals, version = text.partition("=")
    if not namespace or not equals or not version.isascii() or not version.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE=VERSION, such as payments=7")
    return namespace, int(version)
