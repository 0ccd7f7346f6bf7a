"""The commands. One file each, imported only when it is the one asked for."""

from __future__ import annotations

import argparse
import asyncio
import errno
import importlib
import inspect
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sidecar import __version__
from sidecar.cli.printable import printable_lines
from sidecar.errors import DocumentsInvalid, Misuse, Problem, SidecarError

FINE: Final = 0
FOUND_PROBLEMS: Final = 1
MISUSE: Final = 2

COMMANDS: Final[Mapping[str, str]] = {
    "demo": "the whole system on loopback, played through",
    "run": "the data plane: decide beside a service, forward or challenge",
    "control-plane": "hold policies and push them to sidecars",
    "inject": "the Kubernetes admission webhook that puts a sidecar into pods",
    "redirect": "lead all inbound TCP of a pod to its sidecar",
    "init": "write a first, commented, working set of documents",
    "check": "every mistake in documents, with file:line:column",
    "test": "cases against policies, with coverage of rules",
    "explain": "why a request is decided so, step by step",
    "why": "why a live sidecar decided so, and what would mend it",
    "replay": "what other policies would have made of logged decisions",
    "schema": "JSON Schema of the documents, for editors",
    "apply": "publish documents",
    "get": "what is published",
    "diff": "what would change, or has changed, and what that means",
    "history": "every release of a namespace, who made it and why",
    "rollback": "back to what was published before",
    "rollout": "how a release spreads that not everybody got at once",
    "approve": "what waits for a second person; say yes or no to it",
    "audit": "everything that was done, and whether the record is whole",
    "keys": "the keys that sign releases: list, rotate, delegate",
    "revoke": "withdraw a token, a session, a subject or a key, everywhere",
    "status": "which sidecar enforces what",
    "subject": "a customer: what is known, why, and what they agreed to",
    "journey": "what a kind of customer is asked on a route, in which order",
}


_UNWRITABLE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))


def run(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0 fine, 1 found problems, 2 misuse."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # What its encoding cannot say (a tree's lines, a file's name) is spelled out.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(argv)
        finally:  # not left to the interpreter, which would complain in words of its own
            print(end="", flush=True)
    except KeyboardInterrupt:  # also while modules are imported
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again while closing it.
        _give_up_output()
        return FOUND_PROBLEMS
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _give_up_output()
        print(f"sidecar: the output cannot be written: {error.strerror}", file=sys.stderr)
        return FOUND_PROBLEMS


def plain(problem: Problem) -> dict[str, Any]:
    """A problem as each command's JSON has it."""
    return {"severity": "warning" if problem.warning else "error", **asdict(problem)}


def _give_up_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str]) -> int:
    parser = _parser(argv[0] if argv else "")
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # with the usage of the command, not of all of them
        getattr(args, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if not getattr(args, "handler", None):
        parser.print_help()
        return MISUSE
    try:
        result = args.handler(args)
        return int(asyncio.run(result) if inspect.iscoroutine(result) else result)
    except Misuse as error:
        for mistake in error.mistakes:
            print(f"sidecar {args.command}: {printable_lines(mistake)}", file=sys.stderr)
        return MISUSE
    except DocumentsInvalid as error:
        problems = sorted(error.problems, key=lambda each: (each.file, each.line, each.column))
        for problem in problems:
            print(printable_lines(problem), file=sys.stderr)
        if getattr(args, "output", "") == "json":
            print(json.dumps({"problems": [plain(problem) for problem in problems]}, indent=2))
        return FOUND_PROBLEMS
    except SidecarError as error:
        print(f"sidecar {args.command}: {printable_lines(error)}", file=sys.stderr)
        return FOUND_PROBLEMS


def _parser(asked: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar",
        description="An edge authorization sidecar: decide beside the service.",
        epilog="example: sidecar demo --once",
    )
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if name == asked:
            importlib.import_module(f"sidecar.cli.{name.replace('-', '_')}").register(commands)
            commands.choices[name].set_defaults(parser=commands.choices[name])
        else:
            commands.add_parser(name, help=summary)
    return parser
