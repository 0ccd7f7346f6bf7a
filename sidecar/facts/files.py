"""Document files: which files of a path are read, and what is read into documents beside them.

The same for `run --policies`, `check` and `apply`: whatever reads documents from disk reads these.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.decide.documents import Document, TokenIssuer
from sidecar.decide.keys import private_members
from sidecar.decide.parse import MAX_TEXT, Source, parse, problem_at, with_spec
from sidecar.errors import Problem

SUFFIXES: Final = (".yaml", ".yml", ".json")
STDIN: Final = "-"
MAX_JWKS: Final = 1024 * 1024  # bytes
_PRIVATE_HINT: Final = "publish public keys only: whoever reads a private one can sign tokens"


def load(
    paths: Iterable[str | os.PathLike[str]], *, stdin: Callable[[], bytes] | None = None
) -> tuple[list[Document], list[Problem]]:
    """All documents in files, folders and (as `-`) standard input, and every problem found.

    `jwks: {file: ...}` is replaced by what the file holds. Documents with a problem are left out.
    """
    sources, problems = read_sources(paths, stdin=stdin)
    documents, found = parse(sources)
    problems += found
    return [
        inlined
        for document in documents
        if (inlined := _inline_jwks(document, problems)) is not None
    ], problems


def read_sources(
    paths: Iterable[str | os.PathLike[str]], *, stdin: Callable[[], bytes] | None = None
) -> tuple[list[Source], list[Problem]]:
    """The texts of all document files, each once, and problems of those that cannot be read."""
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    for path in paths:
        for name in _files(os.fspath(path), problems):
            if name not in sources:
                try:
                    data = (stdin or sys.stdin.buffer.read)() if name == STDIN else _read(name)
                    sources[name] = Source(name, data.decode("utf-8"))
                except OSError as error:
                    problems.append(Problem(f"cannot be read: {error.strerror}", name, 1, 1))
                except UnicodeDecodeError as error:
                    line = error.object[: error.start].count(b"\n") + 1
                    problems.append(Problem("not UTF-8 text", name, line, 1))
    return list(sources.values()), problems


def document_files(folder: str) -> list[str]:
    """Every document file below a folder, in order of their paths.

    Names that start with a dot are passed over: editors' swap files, `.git`, and the `..data` by
    which Kubernetes mounts every file of a ConfigMap a second time.
    """
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(root, name)
            for name in sorted(names)
            if name.endswith(SUFFIXES) and not name.startswith(".")
        ]
    return found


def _files(path: str, problems: list[Problem]) -> Iterator[str]:
    if path == STDIN:
        yield STDIN
    elif os.path.isdir(path):
        files = document_files(path)
        if not files:
            problems.append(
                Problem(
                    "no document files in this folder", path, 1, 1,
                    hint=f"document files end in {', '.join(SUFFIXES)}", warning=True,
                )
            )  # fmt: skip
        yield from files
    elif os.path.exists(path):
        yield path
    else:
        problems.append(Problem("no such file or folder", path, 1, 1))


def _read(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read(MAX_TEXT + 1)  # what is longer than it may be, `parse` refuses


def _inline_jwks(document: Document, problems: list[Problem]) -> Document | None:
    spec = document.spec
    if not isinstance(spec, TokenIssuer) or spec.jwks is None:
        return document
    if spec.jwks.inline is not None and (private := private_members(spec.jwks.inline)):
        message = f"holds private key material ({private})"
        problems.append(problem_at(document, "spec.jwks.inline", message, hint=_PRIVATE_HINT))
        return None
    if spec.jwks.file is None or spec.jwks.uri is not None or spec.jwks.inline is not None:
        return document  # of several, `compile` says that only one is expected
    base = Path.cwd() if document.file == STDIN else Path(document.file).parent
    path = base / spec.jwks.file
    keys, mistake, hint = _read_jwks(path)
    if mistake:
        message = f"{path}: {mistake}"
        problems.append(problem_at(document, "spec.jwks.file", message, hint=hint))
        return None
    body: dict[str, Any] = orjson.loads(document.canonical)["spec"]
    return with_spec(document, {**body, "jwks": {"inline": keys}})


def _read_jwks(path: Path) -> tuple[dict[str, Any], str, str]:
    """A JWK Set, or a mistake and a hint."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JWKS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        return {}, f"cannot be read: {reason}", "the path is relative to the document's file"
    if len(data) > MAX_JWKS:
        return {}, "larger than 1 MiB", ""
    try:
        body = orjson.loads(data)
    except ValueError:
        hint = "convert PEM to a JWK Set first" if b"-----BEGIN" in data else ""
        return {}, "not JSON", hint
    keys = body.get("keys") if isinstance(body, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        return {}, "not a JWK Set", 'expected {"keys": [...]} (RFC 7517 section 5)'
    private = private_members(body)
    if private:
        return (
            {},
            f"holds private key material ({private})",
            ("publish public keys only; whoever reads this one can sign tokens"),
        )
    return {"keys": keys}, "", ""
