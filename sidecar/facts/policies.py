"""Documents from files, watched: what `run --policies` decides with.

A change is adopted whole or not at all: while anything in the files is wrong the documents before
it stay in force, and what is wrong is said once, with its line.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from sidecar.decide.compile import validate
from sidecar.decide.documents import PLATFORM, Document, TokenIssuer
from sidecar.decide.parse import parse
from sidecar.errors import DocumentsInvalid, Problem
from sidecar.facts.files import document_files, load, read_sources

POLL: Final = 0.5  # seconds between looks; a change is enforced within 2 s
_log: Final = logging.getLogger("sidecar.policies")

Adopt = Callable[[Sequence[Document]], Awaitable[None]]
Stamp = tuple[tuple[str, int, int, int], ...]


class FilePolicies:
    """A file or folder of documents. `adopt` compiles and enforces; it raises DocumentsInvalid."""

    def __init__(self, path: Path, namespace: str, adopt: Adopt) -> None:
        self.error = ""
        self.reloads = 0
        self.rejected = 0
        self._path = path
        self._namespace = namespace
        self._adopt = adopt
        self._stamp: Stamp = ()
        self._beside: set[str] = set()

    async def start(self) -> None:
        """Load for the first time. Raises DocumentsInvalid: there is nothing to fall back to."""
        self._stamp = await asyncio.to_thread(self._look)
        await self._load()
        await self._note_files_beside()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(POLL)
            await self.reload(only_if_changed=True)

    async def reload(self, *, only_if_changed: bool = False) -> None:
        """Load again; keeps what is in force if anything is wrong."""
        stamp = await asyncio.to_thread(self._look)
        if only_if_changed and stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            await self._load()
        except DocumentsInvalid as error:
            self.rejected += 1
            self.error = str(error)
            _log.error("policies not reloaded, the ones before stay in force:\n%s", error)
        else:
            self.reloads += 1
            self.error = ""
            await self._note_files_beside()

    async def _note_files_beside(self) -> None:
        """Watch also what the documents just loaded name; a change meanwhile is not missed."""
        stamp = await asyncio.to_thread(self._look)
        if set(self._stamp) <= set(stamp):
            self._stamp = stamp

    async def _load(self) -> None:
        await self._adopt(await asyncio.to_thread(self._read))

    def _read(self) -> list[Document]:
        sources, _ = read_sources([str(self._path)])
        self._beside = _files_beside(parse(sources)[0])
        documents, problems = load([str(self._path)])
        seen = [d for d in documents if d.namespace in (PLATFORM, self._namespace)]
        problems = problems or validate(seen)
        for problem in problems:
            if problem.warning:
                _log.warning("%s", problem)
        errors = [problem for problem in problems if not problem.warning]
        if not seen and not errors:
            namespaces = sorted({document.namespace for document in documents})
            where = f"they are in {', '.join(namespaces)}" if namespaces else "there are none"
            hint = "choose the namespace with --namespace"
            errors = [
                Problem(
                    f"no documents for namespace {self._namespace}: {where}",
                    str(self._path), 1, 1, hint=hint,
                )
            ]  # fmt: skip
        if errors:
            raise DocumentsInvalid(errors)
        return documents

    def _look(self) -> Stamp:
        """What a change in any of the files would change."""
        path = str(self._path)
        files = document_files(path) if self._path.is_dir() else [path]
        stamp = []
        for name in (*files, *sorted(self._beside)):
            try:
                found = os.stat(name)
            except OSError:
                stamp.append((name, 0, 0, 0))
            else:
                stamp.append((name, found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamp)


def _files_beside(documents: Sequence[Document]) -> set[str]:
    """Key sets that documents name as files: a change in one of them is a change too."""
    return {
        str(Path(document.file).parent / document.spec.jwks.file)
        for document in documents
        if isinstance(document.spec, TokenIssuer)
        and document.spec.jwks is not None
        and document.spec.jwks.file is not None
    }
