"""What somebody asks to be published, and what it would make of what is published. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

from sidecar.control.catalogue import Catalogue
from sidecar.control.releases import Draft, Release
from sidecar.control.rollouts.plan import Plan, PlanRefused, Rollout
from sidecar.decide.documents import Document
from sidecar.decide.effects import Effect
from sidecar.decide.parse import from_canonical
from sidecar.errors import DocumentsInvalid, Problem
from sidecar.facts.releases import SignedManifest

MAX_NAMESPACE: Final = 24 * 1024 * 1024
"""Bytes of a namespace's documents: with `platform`'s as many, they still fit one push."""
LONGEST_MESSAGE: Final = 1024  # characters
LONGEST_TTL: Final = 400 * 86_400  # seconds
_log = logging.getLogger(__name__)

What = Literal["added", "changed", "removed", "unchanged"]
Outcome = Literal[
    "published", "unchanged", "would_publish", "refused", "conflict", "awaits_approval"
]


@dataclass(frozen=True, slots=True)
class Application:
    """What somebody asks to be published; see ApplyRequest in proto/sidecar/v1/admin.proto."""

    texts: Sequence[bytes]
    namespaces: Sequence[str] = ()
    prune: bool = False
    dry_run: bool = False
    base_versions: Mapping[str, int] = field(default_factory=dict)
    raise_floor: bool = False
    rollout: Plan | None = None
    ttl: float = 0.0
    message: str = ""
    manifests: Sequence[SignedManifest] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a document, named `Kind/namespace/name`."""

    what: What
    document: str

    @property
    def namespace(self) -> str:
        """Of the document."""
        return self.document.split("/")[1]

    @property
    def kind(self) -> str:
        """Of the document."""
        return self.document.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. `releases` are those made or, at a conflict, the newest; `effects` is what
    the changes mean; `proposal` waits for a second person; `manifests` are what would be signed."""

    outcome: Outcome
    releases: Sequence[Release] = ()
    changes: Sequence[Change] = ()
    problems: Sequence[Problem] = ()
    effects: Sequence[Effect] = ()
    proposal: str = ""
    manifests: Sequence[bytes] = ()
    rollouts: Sequence[Rollout] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """Releases to be, what they change, and the documents before and after, by namespace."""

    drafts: list[Draft]
    changes: list[Change]
    before: dict[str, Sequence[Document]]

    @property
    def differing(self) -> list[Change]:
        """Without what stays."""
        return [change for change in self.changes if change.what != "unchanged"]


def parse(texts: Sequence[bytes]) -> tuple[list[Document], list[Problem]]:
    """Documents of canonical JSON, each once."""
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
            problems.append(internal(error, _ref(text, place)))
            continue
        if documents.setdefault(document.ref, document) is not document:
            problems.append(Problem("applied twice", document=document.ref))
    return list(documents.values()), problems


def plan(application: Application, documents: Sequence[Document], catalogue: Catalogue) -> Planned:
    """What would be published, against what is: merged, or with `prune` in its place."""
    merged: dict[str, dict[str, Document]] = {}
    namespaces = {document.namespace for document in documents} | set(application.namespaces)
    for namespace in namespaces:
        published = {each.ref: each for each in catalogue.documents(namespace)}
        applied = {each.ref: each for each in documents if each.namespace == namespace}
        merged[namespace] = {**({} if application.prune else published), **applied}
    return drafted(
        merged, catalogue, raise_floor=application.raise_floor,
        about={document.ref for document in documents},
    )  # fmt: skip


def drafted(
    wanted: Mapping[str, Mapping[str, Document]],
    catalogue: Catalogue,
    *,
    raise_floor: bool = False,
    about: set[str] | None = None,
) -> Planned:
    """What makes namespaces hold just these documents. Of those that stay the ones in `about` are
    told, too."""
    planned = Planned([], [], {})
    for namespace, after in sorted(wanted.items()):
        published = {each.ref: each for each in catalogue.documents(namespace)}
        refs = (about or set()) & after.keys()
        refs |= {
            ref for ref, each in after.items() if _what(published.get(ref), each) != "unchanged"
        }
        refs |= published.keys() - after.keys()
        changes = [Change(_what(published.get(ref), after.get(ref)), ref) for ref in sorted(refs)]
        planned.changes.extend(changes)
        line = catalogue.line(namespace)
        differs = any(change.what != "unchanged" for change in changes)
        if not differs and (not raise_floor or line is None):
            continue
        planned.before[namespace] = list(published.values())
        planned.drafts.append(
            Draft(
                namespace,
                line.newest if line else None,
                tuple(after[ref] for ref in sorted(after)),
                raise_floor,
                parent=line.stable.version if line else None,
            )
        )
    return planned


def taken_back(made: Release, before: Sequence[Document], catalogue: Catalogue) -> Planned:
    """What takes back what a release changed, as far as it is still as it made it."""
    was = {document.ref: document for document in before}
    has = {document.ref: document for document in made.documents}
    after = {document.ref: document for document in catalogue.documents(made.namespace)}
    for ref in was.keys() | has.keys():
        mine, now = has.get(ref), after.get(ref)
        if _what(was.get(ref), mine) == "unchanged" and mine is not None:
            continue
        if (mine.digest if mine else "") != (now.digest if now else ""):
            continue  # somebody has changed it since
        if ref in was:
            after[ref] = was[ref]
        else:
            after.pop(ref, None)
    return drafted({made.namespace: after}, catalogue)


def misshapen(application: Application) -> list[Problem]:
    """What no application may be, whatever is published."""
    found = []
    if len(application.message) > LONGEST_MESSAGE or "\0" in application.message:
        found.append(Problem(f"message: at most {LONGEST_MESSAGE} characters, and no NUL"))
    if not 0 <= application.ttl <= LONGEST_TTL:
        found.append(Problem("ttl: at most 400 days are possible"))
    if application.rollout is not None:
        try:
            application.rollout.check()
        except PlanRefused as error:
            found.append(Problem(f"rollout: {error}"))
    return found


def too_large(drafts: Iterable[Draft]) -> list[Problem]:
    """Namespaces that would hold more than a push can carry."""
    return [
        Problem(
            f"namespace {draft.namespace!r} would hold {size} bytes of documents; "
            f"at most {MAX_NAMESPACE}",
            hint="split it into several namespaces",
        )
        for draft in drafts
        if (size := sum(len(document.canonical) for document in draft.documents)) > MAX_NAMESPACE
    ]


def internal(error: Exception, ref: str) -> Problem:
    """An error of ours, with the document that it came of."""
    return Problem(f"internal error: {type(error).__name__}: {error}", document=ref)


def _ref(text: bytes, place: int) -> str:
    """The name of a document that could not be read as one, as far as it can be told."""
    try:
        body = orjson.loads(text)
        namespace = body["metadata"].get("namespace", "default")
        return f"{body['kind']}/{namespace}/{body['metadata']['name']}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"document {place + 1} of those applied"


def _what(before: Document | None, after: Document | None) -> What:
    if after is None:
        return "removed"
    if before is None:
        return "added"
    return "unchanged" if before.digest == after.digest else "changed"
