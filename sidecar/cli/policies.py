"""What the commands that decide by themselves have in common: policies, and whom they are for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config_values import to_documents, to_label, to_name
from sidecar.errors import DocumentsInvalid, Problem

if TYPE_CHECKING:
    from sidecar.decide.documents import Document
    from sidecar.decide.snapshot import Snapshot


def add_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """`--policies`, `--namespace`, `--label`."""
    parser.add_argument(
        "--policies", metavar="PATH", type=of(to_documents), required=required,
        help="a file or folder of documents",
    )  # fmt: skip
    parser.add_argument(
        "--namespace", metavar="NAME", type=of(to_name), default=None,
        help="as the sidecar of that namespace (default: default)",
    )  # fmt: skip
    parser.add_argument(
        "--label", dest="labels", metavar="KEY=VALUE", type=of(to_label), action="append",
        default=[], help="as a sidecar with this label; may be repeated",
    )  # fmt: skip


def of(convert: Any) -> Any:
    """A converter of settings as argparse wants it."""

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def snapshot_at(path: Path, namespace: str, labels: Mapping[str, str]) -> Snapshot:
    """What a sidecar of that namespace with these labels would decide with. Raises
    DocumentsInvalid."""
    from sidecar.facts.files import load

    documents, problems = load([os.fspath(path)])
    if any(not problem.warning for problem in problems):
        raise DocumentsInvalid([problem for problem in problems if not problem.warning])
    return snapshot_of(documents, namespace, labels, str(path))


def snapshot_of(
    documents: Sequence[Document],
    namespace: str,
    labels: Mapping[str, str],
    where: str,
    version: str = "",
) -> Snapshot:
    """The same, of documents that are at hand."""
    from sidecar.decide.compile import compile_snapshot, validate
    from sidecar.decide.documents import PLATFORM

    seen = [each for each in documents if each.namespace in (PLATFORM, namespace)]
    problems = [problem for problem in validate(seen) if not problem.warning]
    if problems:
        raise DocumentsInvalid(problems)
    snapshot = compile_snapshot(seen, namespace=namespace, labels=labels, version=version)
    if not snapshot.rules:
        raise DocumentsInvalid([_nothing(documents, namespace, labels, where)])
    return snapshot


def _nothing(
    documents: Sequence[Document], namespace: str, labels: Mapping[str, str], where: str
) -> Problem:
    if not any(each.kind == "AccessPolicy" for each in documents):
        what = "no AccessPolicy is in it" if documents else "no documents found"
        hint = "document files end in .yaml, .yml, .json; `sidecar init` writes a first set"
        return Problem(what, where, 1, 1, hint=hint)
    namespaces = sorted({each.namespace for each in documents} - {"platform"})
    if namespaces and namespace not in namespaces:
        hint = f"they are in {', '.join(namespaces)}; choose with --namespace"
    else:
        hint = "their selectors ask for other labels; say --label KEY=VALUE, as the sidecar does"
    said = ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "no labels"
    return Problem(
        f"no rules for a sidecar of namespace {namespace} with {said}", where, 1, 1, hint=hint
    )
