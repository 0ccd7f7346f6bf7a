"""Document files: which files of a path are read, and what is read into documents beside them.

The same for `run --policies`, `check` and `apply`: whatever reads documents from disk reads these.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.decide.documents import Document, TokenIssuer
from sidecar.decide.keys import private_members
from sidecar.decide.pace import pause
from sidecar.decide.parse import MAX_TEXT, Source, parse, with_spec
from sidecar.decide.problems import problem_at
from sidecar.errors import Problem

SUFFIXES: Final = (".yaml", ".yml", ".json")
STDIN: Final = "-"
MAX_JWKS: Final = 1024 * 1024  # bytes
Stamp = tuple[tuple[str, int, int, int], ...]
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
    return inline_keys(documents, problems), problems


def inline_keys(documents: Iterable[Document], problems: list[Problem]) -> list[Document]:
    """Documents with the key sets that they name as files; those with a problem are left out."""
    return [
        inlined
        for document in documents
        if (inlined := _inline_jwks(document, problems)) is not None
    ]


def read_sources(
    paths: Iterable[str | os.PathLike[str]],
    *,
    stdin: Callable[[], bytes] | None = None,
    pipes: bool = True,
) -> tuple[list[Source], list[Problem]]:
    """The texts of all document files, each once, and problems of those that cannot be read.

    Pipes and devices, which can keep a reader waiting, are never read in folders; and with
    `pipes=False` not as a path either.
    """
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    for path in paths:
        for name in _files(os.fspath(path), problems):
            pause()
            if name not in sources:
                named = name == os.fspath(path)
                try:
                    if name == STDIN:
                        data = (stdin or sys.stdin.buffer.read)()
                    else:
                        data = _read(name, MAX_TEXT, pipes=pipes and named)
                    sources[name] = Source(name, data.decode("utf-8"))
                except _NotRegular:
                    message = "neither a file nor a folder; not read"
                    problems.append(Problem(message, name, 1, 1, warning=not named))
                except OSError as error:
                    problems.append(Problem(f"cannot be read: {error.strerror}", name, 1, 1))
                except UnicodeDecodeError as error:
                    line = error.object[: error.start].count(b"\n") + 1
                    problems.append(Problem("not UTF-8 text", name, line, 1))
    return list(sources.values()), problems


def document_files(folder: str) -> list[str]:
    """Every document file below a folder, in order of their paths; each folder once.

    Links to folders are followed, as Kubernetes mounts a sub-folder of a ConfigMap. Names that
    start with a dot are passed over: editors' swap files, `.git`, and the `..data` by which
    Kubernetes mounts every file of a ConfigMap a second time.
    """
    found: list[str] = []
    walked: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if not _first_time(root, walked):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(root, name)
            for name in sorted(names)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return found


def stamp_of(names: Iterable[str]) -> Stamp:
    """What another content of any of these files would change."""
    stamp = []
    for name in names:
        try:
            found = os.stat(name)
        except (OSError, ValueError):  # a NUL in a path is a ValueError
            stamp.append((name, 0, 0, 0))
        else:
            stamp.append((name, found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamp)


def _first_time(folder: str, walked: set[tuple[int, int]]) -> bool:
    """Whether this folder was not walked yet: links can lead in circles."""
    try:
        place = os.stat(folder)
    except OSError:
        return False
    before = len(walked)
    walked.add((place.st_dev, place.st_ino))
    return len(walked) > before


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


class _NotRegular(Exception):
    """A pipe, socket or device: to open or read it can wait for ever."""


def _read(name: str, most: int, *, pipes: bool = False) -> bytes:
    """The file's bytes, up to one more than `most`: what is longer, whoever asked refuses."""
    if pipes:
        with open(name, "rb") as file:
            return file.read(most + 1)
    if not stat.S_ISREG(os.stat(name).st_mode):  # a socket cannot even be opened
        raise _NotRegular
    with open(name, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _NotRegular
        return file.read(most + 1)


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)


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
        data = _read(str(path), MAX_JWKS)
    except _NotRegular:
        return {}, "not a file", ""
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
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
