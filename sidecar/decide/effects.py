"""What a change of documents means, in words: for who reviews it, and for who asks what happened.

Everything that differs is said, if need be by its field. First comes what admits more, requires
less or enforces nothing (`[wider]`), then what nobody can tell from the documents (`[check]`), then
what is stricter, then the rest. Secrets are never said, nor what stands for them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.decide import effects_callers as callers
from sidecar.decide import effects_customers as customers
from sidecar.decide.documents import KINDS, PLATFORM, AccessPolicy, Document, order_key
from sidecar.decide.effects_fields import Saying, differences
from sidecar.decide.effects_policy import policy_added, policy_changed, policy_removed
from sidecar.decide.effects_words import ORDER, Change, Said, listed, sidecars
from sidecar.decide.pace import pause

MOST: Final = 500
"""Sentences; beyond them one says how many more there are."""
_MARKS: Final[Mapping[Change, str]] = {"wider": "[wider] ", "check": "[check] "}


@dataclass(frozen=True, slots=True)
class Effect:
    """One sentence, and the document that it comes from, `Kind/namespace/name`; "" where that is
    several."""

    text: str
    document: str


def effects(before: Sequence[Document], after: Sequence[Document]) -> list[Effect]:
    """What changes from `before` to `after`, the most dangerous first. Each holds all documents, or
    at least all that may differ; a document is the same by its kind, namespace and name."""
    found = [(ORDER.index(said.change), said, at) for at, said in _all(before, after)]
    found.sort(key=lambda each: each[0])
    said = [Effect(_MARKS.get(each.change, "") + each.text, at) for _, each, at in found[:MOST]]
    rest = [each.change for _, each, _ in found[MOST:]]
    if rest:
        counted = [f"{rest.count(c)} [{c}]" for c in ORDER if c in rest and c in _MARKS]
        said.append(Effect(f"and {len(rest)} more{_among(counted)}", ""))
    return said


def _among(counted: Sequence[str]) -> str:
    return f", {listed(counted)} among them" if counted else ""


def _all(before: Sequence[Document], after: Sequence[Document]) -> Iterator[tuple[str, Said]]:
    old = {document.ref: document for document in before}
    new = {document.ref: document for document in after}
    differing = [
        ref
        for ref in {**old, **new}
        if ref not in old or ref not in new or old[ref].canonical != new[ref].canonical
    ]
    kinds = list(KINDS)
    differing.sort(key=lambda ref: _place(old.get(ref) or new[ref], kinds))
    gone = [old[ref] for ref in differing if ref not in new]
    come = [new[ref] for ref in differing if ref not in old]
    successors = _renamed(gone, come)
    renamed = {*successors, *(each.ref for each in successors.values())}
    for ref in differing:
        pause()
        if ref in successors:
            for said in _called(old[ref], successors[ref]):
                yield successors[ref].ref, said
        elif ref not in renamed:
            document = new[ref] if ref in new else old[ref]
            for said in _document(document, old.get(ref), new.get(ref)):
                yield ref, said


def _place(document: Document, kinds: Sequence[str]) -> tuple[Any, ...]:
    return (*order_key(document), kinds.index(document.kind))


def _renamed(gone: Iterable[Document], come: Iterable[Document]) -> dict[str, Document]:
    """Policies that only go by another name. Of other kinds the name is what rules ask for."""
    successors: dict[tuple[str, bytes], list[Document]] = {}
    for document in come:
        if document.kind == "AccessPolicy":
            successors.setdefault(_content(document), []).append(document)
    found: dict[str, Document] = {}
    for document in gone:
        if document.kind == "AccessPolicy":
            same = successors.get(_content(document))
            if same:
                found[document.ref] = same.pop(0)
    return found


def _content(document: Document) -> tuple[str, bytes]:
    return document.namespace, document.canonical.partition(b'"spec":')[2]


def _called(before: Document, after: Document) -> Iterator[Said]:
    yield Said(
        "check",
        f"policy {_name(before)} is called {_name(after)} now and is otherwise the same; policies "
        "count in the order of their names",
    )
    if before.labels != after.labels:
        yield _labels(before, after, f"policy {_name(after)}")


def _name(document: Document) -> str:
    if document.namespace == PLATFORM:
        return f"{PLATFORM}/{document.name}"
    return document.name


def _document(
    document: Document, before: Document | None, after: Document | None
) -> Iterator[Said]:
    words = _KINDS[document.kind]
    who = f"{words.noun} {_name(document)}"
    spoken = list(_spoken(words, before, after, who))
    if not spoken:
        # A default that is written out, or a list that counts as a set.
        spoken = [Said("neutral", f"{who} is written differently, and means the same")]
    yield from spoken


def _spoken(
    words: _Words, before: Document | None, after: Document | None, who: str
) -> Iterator[Said]:
    if before is None or after is None:
        if after is not None:
            yield from _whole(after, f"{who} is new", words.added, policy_added)
        elif before is not None:
            yield from _whole(before, f"{who} is gone", words.removed, policy_removed)
        return
    if before.selector != after.selector:
        yield _selector(before, after, who)
    if before.labels != after.labels:
        yield _labels(before, after, who)
    if isinstance(before.spec, AccessPolicy) and isinstance(after.spec, AccessPolicy):
        yield from policy_changed(before.spec, after.spec, _name(after))
        return
    for said in differences(words.fields, before.spec, after.spec):
        yield Said(said.change, f"{who}: {said.text}")


def _whole(
    document: Document,
    sentence: str,
    speak: Callable[[Any], Iterator[Said]],
    rules: Callable[[AccessPolicy, str], Iterator[Said]],
) -> Iterator[Said]:
    if isinstance(document.spec, AccessPolicy):
        many = len(document.spec.rules)
        count = f"{many} rule{'s' if many > 1 else ''} for {sidecars(document.selector)}"
        yield Said("neutral", f"{sentence}: {count}")
        yield from rules(document.spec, _name(document))
        return
    for said in speak(document.spec):
        yield Said(said.change, f"{sentence}: {said.text}")


def _selector(before: Document, after: Document, who: str) -> Said:
    was, now = before.selector, after.selector
    change: Change = "check"
    if after.kind == "ApiKey":
        narrower = was.items() <= now.items()
        change = "stricter" if narrower else "wider"
    return Said(change, f"{who} is for {sidecars(now)} now; before: {sidecars(was)}")


def _labels(before: Document, after: Document, who: str) -> Said:
    """Segments look at those of who vouches for a caller."""
    was, now = (
        listed(f"{key}={value}" for key, value in sorted(document.labels.items())) or "none"
        for document in (before, after)
    )
    vouches = after.kind in ("TokenIssuer", "ApiKey")
    return Said("check" if vouches else "neutral", f"{who} has labels {now} now; before: {was}")


@dataclass(frozen=True, slots=True)
class _Words:
    """How one kind is spoken of."""

    noun: str
    added: Callable[[Any], Iterator[Said]]
    removed: Callable[[Any], Iterator[Said]]
    fields: Mapping[str, Saying]


def _nothing(_: Any) -> Iterator[Said]:
    return iter(())


_KINDS: Final[Mapping[str, _Words]] = {
    "TokenIssuer": _Words("issuer", callers.issuer_added, callers.issuer_removed, callers.ISSUER),
    "ApiKey": _Words("API key", callers.key_added, callers.key_removed, callers.KEY),
    "ProtectedService": _Words(
        "service", callers.service_added, callers.service_removed, callers.SERVICE
    ),
    "AccessPolicy": _Words("policy", _nothing, _nothing, {}),  # has `effects_rules`
    "Segment": _Words(
        "segment", customers.segment_added, customers.segment_removed, customers.SEGMENT
    ),
    "Enricher": _Words(
        "enricher", customers.enricher_added, customers.enricher_removed, customers.ENRICHER
    ),
    "IdentityPolicy": _Words(
        "identity policy", customers.identity_added, customers.identity_removed, customers.IDENTITY
    ),
    "ConsentPurpose": _Words(
        "consent", customers.purpose_added, customers.purpose_removed, customers.PURPOSE
    ),
    "ProfileAttribute": _Words(
        "attribute", customers.attribute_added, customers.attribute_removed, customers.ATTRIBUTE
    ),
}
