"""Publishing: documents in, one atomic set of releases out, or every reason why not.

What is applied is merged with what is published, compared, checked as the sidecars of each
namespace will see it (with `platform`), stored and announced; in this order, and nothing is stored
unless all of it may be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import orjson

from sidecar.control.catalogue import Catalogue
from sidecar.control.store import Conflict, Draft, Release, Store
from sidecar.decide.documents import PLATFORM, Document
from sidecar.decide.parse import from_canonical
from sidecar.errors import DocumentsInvalid, Problem

MAX_NAMESPACE: Final = 24 * 1024 * 1024
"""Bytes of a namespace's documents: with `platform`'s as many, they still fit one push."""
_ATTEMPTS: Final = 5  # at a store that other replicas publish to as well
_log = logging.getLogger(__name__)

Validate = Callable[[Sequence[Document]], list[Problem]]
What = Literal["added", "changed", "removed", "unchanged"]
Outcome = Literal["published", "unchanged", "would_publish", "refused", "conflict"]


@dataclass(frozen=True, slots=True)
class Application:
    """What somebody asks to be published; see ApplyRequest in proto/sidecar/v1/admin.proto."""

    texts: Sequence[bytes]
    namespaces: Sequence[str] = ()
    prune: bool = False
    dry_run: bool = False
    base_versions: Mapping[str, int] = field(default_factory=dict)
    raise_floor: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a document, named `Kind/namespace/name`."""

    what: What
    document: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. `releases` are those made or, at a conflict, the newest."""

    outcome: Outcome
    releases: Sequence[Release] = ()
    changes: Sequence[Change] = ()
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True)
class _Plan:
    drafts: list[Draft]
    changes: list[Change]


class Publisher:
    """The one way by which releases come about. One application at a time."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        validate: Validate,
        announce: Callable[[Iterable[str]], None],
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._validate = validate
        self._announce = announce
        self._turn = asyncio.Lock()

    async def apply(self, application: Application) -> Result:
        """Raises StoreFailed; then nothing was published. All else is in the result."""
        documents, problems = await asyncio.to_thread(_parse, application.texts)
        if problems:
            return Result("refused", problems=problems)
        async with self._turn:
            for _ in range(_ATTEMPTS):
                try:
                    return await self._attempt(application, documents)
                except Conflict as conflict:
                    await self._refresh(conflict.newest)
            return self._conflict({document.namespace for document in documents})

    async def _attempt(self, application: Application, documents: Sequence[Document]) -> Result:
        moved = {
            namespace
            for namespace, version in application.base_versions.items()
            if _version(self._catalogue.newest(namespace)) != version
        }
        if moved:
            return self._conflict(moved)
        plan = self._plan(application, documents)
        if not plan.drafts:
            return Result("unchanged", changes=plan.changes)
        problems = _too_large(plan.drafts) or await self._check(plan.drafts)
        if any(not problem.warning for problem in problems):
            return Result("refused", changes=plan.changes, problems=problems)
        if application.dry_run:
            return Result("would_publish", changes=plan.changes, problems=problems)
        releases = await self._store.publish(plan.drafts)
        self._announce(self._catalogue.take(releases))
        return Result("published", releases, plan.changes, problems)

    async def take_over(self) -> None:
        """What other replicas have published. Raises StoreFailed."""
        stored = await self._store.versions()
        self._catalogue.endorsements = self._store.endorsements
        moved = [
            namespace
            for namespace, version in stored.items()
            if _version(self._catalogue.newest(namespace)) != version
        ]
        if moved:
            await self._refresh(moved)

    async def _refresh(self, namespaces: Iterable[str]) -> None:
        """Another replica published: takes over what it did."""
        self._announce(self._catalogue.take(await self._store.newest(namespaces)))

    def _conflict(self, namespaces: Iterable[str]) -> Result:
        newest = [self._catalogue.newest(namespace) for namespace in sorted(namespaces)]
        return Result("conflict", releases=[release for release in newest if release])

    def _plan(self, application: Application, documents: Sequence[Document]) -> _Plan:
        """What would be published, against what is."""
        plan = _Plan([], [])
        namespaces = {document.namespace for document in documents}
        for namespace in sorted(namespaces | set(application.namespaces)):
            published = {
                document.ref: document for document in self._catalogue.documents(namespace)
            }
            applied = {d.ref: d for d in documents if d.namespace == namespace}
            kept = {} if application.prune else published
            merged = {**kept, **applied}
            changes = [
                Change(_what(published.get(ref), merged.get(ref)), ref)
                for ref in sorted(applied.keys() | (published.keys() - merged.keys()))
            ]
            plan.changes.extend(changes)
            newest = self._catalogue.newest(namespace)
            raises = application.raise_floor and newest is not None
            if raises or any(change.what != "unchanged" for change in changes):
                plan.drafts.append(
                    Draft(
                        namespace,
                        _version(newest),
                        tuple(merged[ref] for ref in sorted(merged)),
                        application.raise_floor,
                    )
                )
        return plan

    async def _check(self, drafts: Sequence[Draft]) -> list[Problem]:
        """Problems of every namespace that would change, `platform` changing all of them."""
        drafted = {draft.namespace: draft.documents for draft in drafts}
        namespaces = set(drafted)
        if PLATFORM in drafted:
            namespaces |= {release.namespace for release in self._catalogue.releases()}
        platform = drafted.get(PLATFORM, self._catalogue.documents(PLATFORM))
        problems: dict[tuple[str, str, str], Problem] = {}
        for namespace in sorted(namespaces):
            documents = platform
            if namespace != PLATFORM:
                own = drafted.get(namespace, self._catalogue.documents(namespace))
                documents = (*platform, *own)
            # Off the loop: compiling many expressions takes seconds, and streams must go on.
            for found in await asyncio.to_thread(self._problems, documents):
                problem = replace(found, file="", line=0, column=0)
                problems.setdefault((problem.document, problem.pointer, problem.message), problem)
        return list(problems.values())

    def _problems(self, documents: Sequence[Document]) -> list[Problem]:
        """What is wrong with documents; if reading them fails, which ones it fails for."""
        try:
            return self._validate(documents)
        except Exception as error:  # noqa: BLE001 - a bug of ours: refused, with its document
            _log.exception("validating documents failed")
            failed = error
        blamed = [document.ref for document in documents if self._fails(document)]
        return [_internal(failed, ref) for ref in blamed] or [_internal(failed, "")]

    def _fails(self, document: Document) -> bool:
        try:
            self._validate([document])
        except Exception:  # noqa: BLE001 - it has been logged, for all of them
            return True
        return False


def _internal(error: Exception, ref: str) -> Problem:
    return Problem(f"internal error: {type(error).__name__}: {error}", document=ref)


def _ref(text: bytes, place: int) -> str:
    """The name of a document that could not be read as one, as far as it can be told."""
    try:
        body = orjson.loads(text)
        namespace = body["metadata"].get("namespace", "default")
        return f"{body['kind']}/{namespace}/{body['metadata']['name']}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"document {place + 1} of those applied"


def _parse(texts: Sequence[bytes]) -> tuple[list[Document], list[Problem]]:
    documents: dict[str, Document] = {}
    problems: list[Problem] = []
    for place, text in enumerate(texts):
        try:
            document = from_canonical(text)
        except DocumentsInvalid as error:
            problems += error.problems
            continue
        except Exception as error:  # noqa: BLE001 - a bug of ours: refused, with its document
            _log.exception("reading a document failed")
            problems.append(_internal(error, _ref(text, place)))
            continue
        if documents.setdefault(document.ref, document) is not document:
            problems.append(Problem("applied twice", document=document.ref))
    return list(documents.values()), problems


def _what(before: Document | None, after: Document | None) -> What:
    if after is None:
        return "removed"
    if before is None:
        return "added"
    return "unchanged" if before.digest == after.digest else "changed"


def _version(release: Release | None) -> int | None:
    return release.version if release else None


def _too_large(drafts: Iterable[Draft]) -> list[Problem]:
    return [
        Problem(
            f"namespace {draft.namespace!r} would hold {size} bytes of documents; "
            f"at most {MAX_NAMESPACE}",
            hint="split it into several namespaces",
        )
        for draft in drafts
        if (size := sum(len(document.canonical) for document in draft.documents)) > MAX_NAMESPACE
    ]
