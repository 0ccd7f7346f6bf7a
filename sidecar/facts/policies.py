"""Documents from files, watched: what `run --policies` decides with.

A change is adopted whole or not at all: while anything in the files is wrong the documents before
it stay in force, and what is wrong is said once, with its line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.decide.compile import validate
from sidecar.decide.compile_policy import keep_compiled
from sidecar.decide.documents import PLATFORM, Document, TokenIssuer
from sidecar.decide.pace import let_go, pause
from sidecar.decide.parse import Source, parse_one, together
from sidecar.errors import DocumentsInvalid, Problem
from sidecar.facts.beside import beside
from sidecar.facts.files import Stamp, document_files, inline_keys, read_sources, stamp_of

POLL: Final = 0.5  # seconds between looks; a change is enforced within 2 s
SETTLE: Final = 0.25  # seconds that nothing may change before it is read
LOOKS: Final = 8
_log: Final = logging.getLogger("sidecar.policies")

Adopt = Callable[[Sequence[Document]], Awaitable[None]]


class FilePolicies:
    """A file or folder of documents. `adopt` compiles and enforces; it raises DocumentsInvalid."""

    def __init__(
        self,
        path: Path,
        namespace: str,
        adopt: Adopt,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.error = ""
        self.reloads = 0
        self.rejected = 0
        self._path = path
        self._namespace = namespace
        self._adopt = adopt
        self._sleep = sleep
        self._stamp: Stamp = ()
        self._beside: set[str] = set()
        self._beside_stamp: Stamp = ()
        self._parsed: dict[str, tuple[str, tuple[list[Document], list[Problem]]]] = {}
        self._full: set[str] = set()  # files that held documents when last adopted

    async def start(self) -> None:
        """Load for the first time. Raises DocumentsInvalid: there is nothing to fall back to."""
        self._stamp = await asyncio.to_thread(self._look)
        read = await beside.run(self._read, hurry=True)
        await self._adopt(read.documents)
        await self._adopted(read)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._sleep(POLL)
            await self.reload(only_if_changed=True)

    async def reload(self, *, only_if_changed: bool = False) -> None:
        """Load again; keeps what is in force if anything is wrong, whatever it is."""
        try:
            stamp = await asyncio.to_thread(self._look)
            if only_if_changed and stamp == self._stamp:
                return
            self._stamp = stamp = await self._settled(stamp)
            watched = self._beside  # reading may find others
            read = await beside.run(self._read)
            if await asyncio.to_thread(self._look, watched) != stamp:
                self._stamp = ()  # changed while it was read: the next look reads it again
                return
            await self._adopt(read.documents)
            await self._adopted(read)
        except DocumentsInvalid as error:
            self._reject(str(error))
            await self._watch_beside()
        except _StillChanging as error:
            self._reject(str(error))
        except Exception as error:  # noqa: BLE001 - nothing in a file may end the watching of it
            self._reject(f"internal error: {type(error).__name__}: {error}", trace=True)
        else:
            self.reloads += 1
            self.error = ""

    def _reject(self, error: str, *, trace: bool = False) -> None:
        self.rejected += 1
        if error != self.error:  # said once
            _log.error(
                "policies not reloaded, the ones before stay in force:\n%s", error, exc_info=trace
            )
        self.error = error

    async def _settled(self, stamp: Stamp) -> Stamp:
        """The stamp once two looks in a row agree: a file half written is not to be read."""
        for _ in range(LOOKS):
            await self._sleep(SETTLE)
            again = await asyncio.to_thread(self._look)
            if again == stamp:
                return stamp
            stamp = again
        raise _StillChanging(f"{self._path}: files in it change all the time; waiting for a pause")

    async def _adopted(self, read: _Read) -> None:
        self._full = read.full
        await self._watch_beside()

    async def _watch_beside(self) -> None:
        """Watch also what the documents just read name; a change meanwhile is not missed: of files
        beside them counts what they were before they were read."""
        stamp = await asyncio.to_thread(self._look)
        if set(self._stamp) <= set(stamp):
            before = {entry[0]: entry for entry in self._beside_stamp}
            self._stamp = tuple(before.get(entry[0], entry) for entry in stamp)

    def _read(self) -> _Read:
        sources, problems = read_sources([str(self._path)], pipes=False)
        parsed, found = together([self._parsed_once(source) for source in sources])
        self._parsed = {source.name: self._parsed[source.name] for source in sources}
        problems += found
        self._beside = _files_beside(parsed)
        self._beside_stamp = stamp_of(self._beside)
        full = {document.file for document in parsed}
        if not found:
            problems += [
                Problem(
                    "holds no documents any more, though it did before", source.name, 1, 1,
                    hint="it may be half written; to remove its documents, remove the file",
                )
                for source in sources
                if source.name in self._full - full
            ]  # fmt: skip
        documents = inline_keys(parsed, problems)
        seen = [d for d in documents if d.namespace in (PLATFORM, self._namespace)]
        if all(problem.warning for problem in problems):
            problems += validate(seen)
        for problem in problems:
            if problem.warning:
                _log.warning("%s", problem)
        errors = [problem for problem in problems if not problem.warning]
        if not seen and not errors:
            errors = [self._nothing(documents)]
        if errors:
            raise DocumentsInvalid(errors)
        return _Read(documents, full)

    def _parsed_once(self, source: Source) -> tuple[list[Document], list[Problem]]:
        """What a file holds: the very same documents for as long as its text is the same, and what
        those came to that are the same in another text, so that it is not compiled again."""
        before = self._parsed.get(source.name)
        if before is not None and before[0] == source.text:
            return before[1]
        parsed = parse_one(source)
        self._parsed[source.name] = (source.text, parsed)
        if before is not None:
            known = {document.ref: document for document in before[1][0]}
            for document in parsed[0]:
                pause()
                same = known.get(document.ref)
                if same is not None and same.digest == document.digest:
                    keep_compiled(same, document)
            known.clear()
            let_go(before[1][0])
        return parsed

    def _nothing(self, documents: Sequence[Document]) -> Problem:
        namespaces = sorted({document.namespace for document in documents})
        where = f"they are in {', '.join(namespaces)}" if namespaces else "there are none"
        return Problem(
            f"no documents for namespace {self._namespace}: {where}",
            str(self._path), 1, 1, hint="choose the namespace with --namespace",
        )  # fmt: skip

    def _look(self, watched: Iterable[str] | None = None) -> Stamp:
        """What a change in any of the files would change."""
        path = str(self._path)
        files = document_files(path) if self._path.is_dir() else [path]
        return stamp_of((*files, *sorted(self._beside if watched is None else watched)))


@dataclass(frozen=True, slots=True)
class _Read:
    documents: list[Document]
    full: set[str]


class _StillChanging(Exception):
    """No two looks agreed."""


def _files_beside(documents: Sequence[Document]) -> set[str]:
    """Key sets that documents name as files: a change in one of them is a change too."""
    return {
        str(Path(document.file).parent / document.spec.jwks.file)
        for document in documents
        if isinstance(document.spec, TokenIssuer)
        and document.spec.jwks is not None
        and document.spec.jwks.file is not None
    }
