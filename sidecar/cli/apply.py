"""`sidecar apply`: publish documents, print what changed and who enforces it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.cli import FOUND_PROBLEMS, publishing, rollouts
from sidecar.cli.server import add_flags, admin_client, duration
from sidecar.cli.signing import Known, add_key_flag, check_manifests, signed, signing_key
from sidecar.decide.documents import Document
from sidecar.decide.problems import problem_at
from sidecar.errors import Misuse, Problem
from sidecar.facts.admin import AdminClient
from sidecar.facts.files import load
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert


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
    publishing.wait_flag(parser)
    parser.add_argument(
        "--base", metavar="NS=VERSION", action="append", default=[], type=_base,
        help="refuse if the namespace's newest version is another one, and sign none far from it; "
        "may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--raise-floor", action="store_true",
        help="sidecars never go back to an earlier release than this one",
    )  # fmt: skip
    parser.add_argument(
        "--ttl", metavar="TIME", type=_ttl, default=0.0,
        help="take back after this time what it changes, as in 2d: for trials",
    )  # fmt: skip
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="why, for the history")
    add_key_flag(parser)
    rollouts.add_plan_flags(parser)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_flags(parser)
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    """0: published (or nothing to do); 1: refused, not reached, or with --wait not enforced."""
    try:
        plan = rollouts.plan(args)
    except argparse.ArgumentTypeError as error:
        raise Misuse(str(error)) from None
    key = signing_key(args)
    documents, problems = load(args.paths)
    if any(not problem.warning for problem in problems):
        _refused(problems, args)
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
        rollout=plan,
        ttl=round(args.ttl),
        message=args.message,
    )
    async with admin_client(args) as client:
        if key is not None and not args.dry_run:
            await _sign(client, request, documents, key)
        response = await client.apply(request)
        problems += _placed(response.problems, documents)
        return await publishing.told(client, response, problems, args, "apply")


async def _sign(
    client: AdminClient,
    request: pb.ApplyRequest,
    documents: Sequence[Document],
    key: Ed25519PrivateKey,
) -> None:
    """Asks what would be published, and signs it if it is exactly what is being applied. Raises
    Misuse where it is something else."""
    dry = pb.ApplyRequest()
    dry.CopyFrom(request)
    dry.dry_run = True
    newest = {}
    more = set(request.namespaces) if request.prune else set()
    for name in sorted({document.namespace for document in documents} | more):
        history = await client.history(pb.HistoryRequest(namespace=name, most=1))
        for entry in history.entries[:1]:
            newest[name] = entry.release.version, entry.release.floor
    response = await client.apply(dry)
    check_manifests(
        response.manifests, documents,
        Known(newest, dict(request.base_versions), time.time()),
        raise_floor=request.raise_floor, namespaces=more,
    )  # fmt: skip
    request.manifests.extend(signed(response.manifests, key))


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


def _refused(problems: Sequence[Problem], args: argparse.Namespace) -> None:
    """What is wrong in the files."""
    if args.output == "json":
        publishing.print_json(pb.ApplyResponse(outcome=pb.OUTCOME_REFUSED), problems, ())
    else:
        publishing.print_problems(problems)


def _base(text: str) -> tuple[str, int]:
    namespace, equals, version = text.partition("=")
    if not namespace or not equals or not version.isascii() or not version.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE=VERSION, such as payments=7")
    return namespace, int(version)


def _ttl(text: str) -> float:
    found = duration(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is too short; one second at least, as in 2d")
    return found
