"""The commands. One file each, imported only when it is the one asked for."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from sidecar import __version__
from sidecar.cli.printable import printable_lines
from sidecar.errors import DocumentsInvalid, Misuse, SidecarError

FINE: Final = 0
FOUND_PROBLEMS: Final = 1
MISUSE: Final = 2

COMMANDS: Final[Mapping[str, str]] = {
    "demo": "the whole system on loopback, played through",
    "run": "the data plane: decide beside a service, forward or challenge",
    "control-plane": "hold policies and push them to sidecars",
    "init": "write a first, commented, working set of documents",
    "check": "every mistake in documents, with file:line:column",
    "test": "cases against policies, with coverage of rules",
    "explain": "why a request is decided so, step by step",
    "why": "why a live sidecar decided so, and what would mend it",
    "replay": "what other policies would have made of logged decisions",
    "schema": "JSON Schema of the documents, for editors",
    "apply": "publish documents",
    "get": "what is published",
    "revoke": "withdraw a token, a session, a subject or a key, everywhere",
    "status": "which sidecar enforces what",
}


def run(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0 fine, 1 found problems, 2 misuse."""
    parser = _parser(argv[0] if argv else "")
    args = parser.parse_args(argv)
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
        for problem in error.problems:
            print(printable_lines(problem), file=sys.stderr)
        return FOUND_PROBLEMS
    except SidecarError as error:
        print(f"sidecar {args.command}: {printable_lines(error)}", file=sys.stderr)
        return FOUND_PROBLEMS
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
        else:
            commands.add_parser(name, help=summary)
    return parser
