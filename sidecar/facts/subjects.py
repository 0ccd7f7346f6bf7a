"""The file of `--subjects`: what is known of subjects, for development and tests.

Read strictly and as a whole, and again when it changes. With a mistake in it, what was read before
stays. A record that did not change stays the same object: decisions are remembered by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import orjson
import yaml
from msgspec import Meta, inspect

from sidecar.decide.kinds.values import Text
from sidecar.decide.nodes import NodeReader, kind_of
from sidecar.decide.outcomes import Identity
from sidecar.decide.parse import Source, read_nodes
from sidecar.decide.strict import beyond_cel
from sidecar.decide.subjects import NOT_KNOWN, Subject
from sidecar.errors import DocumentsInvalid, Misuse, Problem
from sidecar.facts.files import Stamp, read_sources, stamp_of
from sidecar.facts.policies import POLL, SETTLE

MOST: Final = 10_000  # subjects
MAX_FILE: Final = 8 * 1024 * 1024  # characters

_log: Final = logging.getLogger("sidecar.subjects")


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One subject as the file has it."""

    issuer: Text
    subject: Text
    consents: list[Text] = []
    profile: dict[str, Any] = {}
    segments: list[Text] = []
    risk: Annotated[float, Meta(ge=0, le=100)] = 0.0


_ENTRIES: Final = inspect.type_info(list[Entry])
Named = tuple[str, str]
"""Issuer and subject."""


class SubjectsFile:
    """`load`, then `run`. Attributes are for reading by whoever scrapes; `changed` is called
    whenever something that is known has become otherwise."""

    def __init__(
        self, path: Path, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.changed: Callable[[], None] = _nothing
        self.error = ""
        self.reloads = 0
        self.rejected = 0
        self._path = path
        self._sleep = sleep
        self._stamp: Stamp = ()
        self._entries: Mapping[Named, bytes] = {}
        self._records: Mapping[Named, Subject] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, identity: Identity, now: float) -> Subject:
        """The record; of whom there is none, nothing is known."""
        return self._records.get((identity.issuer, identity.subject), NOT_KNOWN)

    async def fetch(self, identity: Identity) -> None:
        """All that there is, is there."""

    async def load(self) -> None:
        """For the first time. Raises Misuse with every mistake: there is no other to keep."""
        self._stamp = await asyncio.to_thread(self._look)
        try:
            self._take(await asyncio.to_thread(self._read))
        except DocumentsInvalid as error:
            raise Misuse([f"--subjects: {problem}" for problem in error.problems]) from None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._sleep(POLL)
            await self.reload(only_if_changed=True)

    async def reload(self, *, only_if_changed: bool = False) -> None:
        """Again; keeps what is in force if anything is wrong, whatever it is."""
        try:
            stamp = await asyncio.to_thread(self._look)
            if only_if_changed and stamp == self._stamp:
                return
            await self._sleep(SETTLE)  # a file half written is not to be read
            entries = await asyncio.to_thread(self._read)
            if await asyncio.to_thread(self._look) != stamp:
                return  # it changed meanwhile; the next look reads it again
            self._stamp = stamp
        except DocumentsInvalid as error:
            self._stamp = stamp
            self._reject(str(error))
        except Exception as error:  # noqa: BLE001 - nothing in a file may end the watching of it
            self._reject(f"internal error: {type(error).__name__}: {error}", trace=True)
        else:
            self.reloads += 1
            self.error = ""
            if self._take(entries):
                self.changed()

    def _reject(self, error: str, *, trace: bool = False) -> None:
        self.rejected += 1
        if error != self.error:  # said once
            _log.error(
                "subjects not reloaded, those before stay in force:\n%s", error, exc_info=trace
            )
        self.error = error

    def _look(self) -> Stamp:
        return stamp_of([str(self._path)])

    def _read(self) -> dict[Named, Entry]:
        sources, problems = read_sources([str(self._path)], pipes=False)
        entries: dict[Named, Entry] = {}
        for source in sources:
            entries = parse_subjects(source, problems)
        if problems:
            raise DocumentsInvalid(problems)
        return entries

    def _take(self, entries: Mapping[Named, Entry]) -> bool:
        """Know this from now on, and whether it is something else than before."""
        written = {
            name: orjson.dumps(msgspec.structs.asdict(entry), option=orjson.OPT_SORT_KEYS)
            for name, entry in entries.items()
        }
        if written == self._entries:
            return False
        self._records = {
            name: self._records[name]
            if self._entries.get(name) == written[name]
            else Subject(
                frozenset(entry.consents), entry.profile, frozenset(entry.segments), entry.risk
            )
            for name, entry in entries.items()
        }
        self._entries = written
        return True


def parse_subjects(source: Source, problems: list[Problem]) -> dict[Named, Entry]:
    """The entries of a text. Every mistake in it is added to `problems`."""
    if len(source.text) > MAX_FILE:
        problems.append(Problem(f"larger than {MAX_FILE} characters", source.name, 1, 1))
        return {}
    before = len(problems)
    reader = _Reader(source, problems)
    lists = list(read_nodes(source, problems, reader.values))
    if not lists and len(problems) == before:
        problems.append(
            Problem(
                "holds no list of subjects", source.name, 1, 1,
                hint="it may be half written; for no subjects at all write []",
            )
        )  # fmt: skip
    if len(problems) > before:
        return {}
    entries = [msgspec.convert(value, Entry) for values in lists for value in values]
    return {(entry.issuer, entry.subject): entry for entry in entries}


class _Reader:
    """One text."""

    def __init__(self, source: Source, problems: list[Problem]) -> None:
        self._file = source.name
        self._problems = problems
        self._nodes = NodeReader(source.name, source.text, problems)
        self._lines: dict[tuple[Any, Any], int] = {}  # by issuer and subject

    def values(self, node: yaml.Node) -> list[Any] | None:
        """Of a list of entries, as the file has it."""
        self._nodes.begin(node)
        if not isinstance(node, yaml.SequenceNode):
            self._nodes.fail(node, "", f"expected a list of subjects, found {kind_of(node)}")
            return None
        values: list[Any] | None = self._nodes.value(node, _ENTRIES, "", 0)
        for place, value in enumerate(values or ()):
            if isinstance(value, dict):
                self._check(value, f"[{place}]")
        if len(self._lines) > MOST:
            self._nodes.fail(node, "", f"more than {MOST} subjects")
        return values

    def _check(self, value: dict[str, Any], pointer: str) -> None:
        line, column = self._nodes.marks[pointer]
        name = (value.get("issuer"), value.get("subject"))
        first = self._lines.get(name)
        if None not in name:
            self._lines.setdefault(name, line)
        if first is not None:
            place = self._nodes.marks[f"{pointer}.subject"]
            message = f"this subject of this issuer is already at line {first}"
            self._problems.append(
                Problem(message, self._file, *place, pointer=f"{pointer}.subject")
            )
        if beyond_cel(value.get("profile")):
            place = self._nodes.marks.get(f"{pointer}.profile", (line, column))
            self._problems.append(
                Problem("a number beyond 64 bits", self._file, *place, pointer=f"{pointer}.profile")
            )


def _nothing() -> None:
    pass
