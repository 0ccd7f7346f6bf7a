"""`sidecar check`: every mistake in documents, with file:line:column."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.cli import FINE, FOUND_PROBLEMS, plain
from sidecar.cli.printable import printable_lines

if TYPE_CHECKING:
    from sidecar.decide.documents import Document
    from sidecar.errors import Problem


def register(commands: Any) -> None:
    from sidecar.cli.policies import of
    from sidecar.config_values import to_path

    parser = commands.add_parser(
        "check",
        help="every mistake in documents",
        description="Report every mistake in documents, with file:line:column and a hint.",
        epilog="example: sidecar check policies/",
    )
    parser.add_argument(
        "paths", nargs="+", type=of(to_path), metavar="PATH", help="files or folders"
    )
    parser.add_argument("--strict", action="store_true", help="warnings are mistakes too: exit 1")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    from sidecar.facts.files import load

    documents, problems = load([str(path) for path in args.paths])
    if all(problem.warning for problem in problems):
        problems += _empty(args.paths, documents)
    problems = sorted(
        [*problems, *_of_documents(documents, problems)],
        key=lambda each: (each.file, each.line, each.column, each.warning),
    )
    errors = sum(not problem.warning for problem in problems)
    if args.output == "json":
        print(json.dumps([plain(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            print(printable_lines(problem), file=sys.stderr)
        print(f"{len(documents)} documents, {errors} errors, {len(problems) - errors} warnings")
    return FOUND_PROBLEMS if errors or (args.strict and problems) else FINE


def _of_documents(
    documents: Sequence[Document], problems: Sequence[Problem]
) -> dict[Problem, None]:
    """What is wrong in them and between them; of each by itself only where some could not be read,
    since those would be missed."""
    from sidecar.decide.compile import check_each
    from sidecar.decide.documents import PLATFORM
    from sidecar.decide.lint import review

    if not all(problem.warning for problem in problems):
        return dict.fromkeys(check_each(documents))
    found: dict[Problem, None] = {}
    for namespace in sorted({document.namespace for document in documents}):
        seen = [d for d in documents if d.namespace in (PLATFORM, namespace)]
        found.update(dict.fromkeys(review(seen)))
    return found


def _empty(paths: Sequence[Path], documents: Sequence[Document]) -> list[Problem]:
    """An error for each path without any document: a wrong path must not look like a good one."""
    from sidecar.errors import Problem

    files = {document.file for document in documents}
    return [
        Problem("no documents found", path, 1, 1)
        for path in map(str, paths)
        if path not in files and not any(file.startswith(os.path.join(path, "")) for file in files)
    ]
