"""What is published now, in memory, and what of it each sidecar has to hold. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cachetools import LRUCache

from sidecar.control.releases import Release
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.store import Published
from sidecar.decide.documents import PLATFORM, Document, selects
from sidecar.facts.signing import Endorsement
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Resource

MAX_TARGETS: Final = 4096  # remembered sets of labels; beyond it they are worked out again
_DELTAS: Final = 8  # remembered deltas of one target

_Key = tuple[tuple[tuple[str, int], ...], frozenset[tuple[str, str]]]

Held = Mapping[str, str]
"""Resource versions by resource name, as a sidecar holds them."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What sidecars of one namespace with the same labels hold once they are current."""

    versions: Mapping[str, int]
    resources: Mapping[str, Resource]
    held: Held
    documents: tuple[Document, ...] = ()
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    """For whoever works something out of it."""
    _deltas: dict[int, tuple[Held, tuple[list[Resource], list[str]]]] = field(
        default_factory=dict, repr=False
    )

    def delta(self, known: Held) -> tuple[list[Resource], list[str]]:
        """What to add or change, and what to drop, for a sidecar that holds `known`.

        Remembered by identity: after a release all sidecars with the same labels come from the
        same target, and each delta is worked out once.
        """
        remembered = self._deltas.get(id(known))
        if remembered is not None and remembered[0] is known:
            return remembered[1]
        changed = [r for name, r in self.resources.items() if known.get(name) != r.version]
        removed = [name for name in known if name not in self.resources]
        delta = changed, removed
        if len(self._deltas) < _DELTAS:
            self._deltas[id(known)] = known, delta
        return delta


@dataclass(slots=True)
class Line:
    """The releases of one namespace that count. See `store.Published`."""

    stable: Release
    candidate: Release | None = None
    rollout: Rollout | None = None
    newest: int = -1
    steered: int = 0
    parents: dict[int, int | None] = field(default_factory=dict)

    def assigned(self, sidecar_id: str, labels: Mapping[str, str]) -> Release:
        """The one that such a sidecar is to enforce."""
        rollout = self.rollout
        if self.candidate is None or rollout is None or not rollout.includes(sidecar_id, labels):
            return self.stable
        return self.candidate

    def descends(self, later: int, earlier: int) -> bool:
        """Whether one release is the other, or builds on it."""
        at: int | None = later
        while at is not None and at > earlier:
            at = self.parents.get(at)
        return at == earlier


class Catalogue:
    """What is to be enforced in every namespace, and by whom."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._targets: LRUCache[_Key, Target] = LRUCache(MAX_TARGETS)
        self.endorsements: Sequence[Endorsement] = ()

    def take(self, releases: Iterable[Release], rollouts: Iterable[Rollout] = ()) -> set[str]:
        """Releases that were made, unless newer ones are known; the namespaces that changed. Those
        with a rollout are not everybody's yet."""
        changed = set()
        steering = {rollout.name: rollout for rollout in rollouts}
        for release in releases:
            line = self._lines.get(release.namespace)
            if line is not None and line.newest >= release.version:
                continue
            rollout = steering.get(f"{release.namespace}@{release.version}")
            if line is None:
                line = self._lines[release.namespace] = Line(release)
            elif rollout is None:
                line.stable = release
            line.newest = release.version
            line.parents[release.version] = release.parent
            if rollout is not None:
                line.candidate, line.rollout = release, rollout
                line.steered += 1
            changed.add(release.namespace)
        self._forget()
        return changed

    def take_over(self, found: Iterable[Published]) -> set[str]:
        """All that the store says of some namespaces; their names."""
        changed = set()
        for each in found:
            namespace = each.stable.namespace
            self._lines[namespace] = Line(
                each.stable, each.candidate, each.rollout, each.newest, each.steered,
                dict(each.parents),
            )  # fmt: skip
            changed.add(namespace)
        for key in [key for key in self._targets if changed & dict(key[0]).keys()]:
            del self._targets[key]  # also of the same versions: signatures may have been added
        return changed

    def steer(self, rollout: Rollout) -> None:
        """How the rollout of a namespace goes on."""
        line = self._lines[rollout.namespace]
        line.steered += 1
        if line.rollout is None or line.rollout.version != rollout.version:
            return
        if rollout.active:
            line.rollout = rollout
        else:
            if rollout.state == "completed" and line.candidate is not None:
                line.stable = line.candidate
            line.candidate = line.rollout = None
            self._forget()

    def _forget(self) -> None:
        """Targets of what nobody is assigned any more."""
        kept = {(r.namespace, r.version) for line in self._lines.values() for r in _both(line)}
        for key in [key for key in self._targets if not kept.issuperset(key[0])]:
            del self._targets[key]

    def line(self, namespace: str) -> Line | None:
        """What counts of a namespace."""
        return self._lines.get(namespace)

    def newest(self, namespace: str) -> Release | None:
        """What everybody enforces, or did until the rollout that is under way."""
        line = self._lines.get(namespace)
        return line.stable if line else None

    def newest_version(self, namespace: str) -> int | None:
        """The highest there is, a rollout that was ended included."""
        line = self._lines.get(namespace)
        return line.newest if line else None

    def releases(self) -> list[Release]:
        """`newest` of every namespace, in order."""
        return [line.stable for _, line in sorted(self._lines.items())]

    def rollouts(self) -> list[Rollout]:
        """Those that are under way."""
        return [line.rollout for _, line in sorted(self._lines.items()) if line.rollout is not None]

    def revisions(self) -> dict[str, tuple[int, int]]:
        """As `Store.revisions`, of what is known here."""
        return {name: (line.newest, line.steered) for name, line in self._lines.items()}

    def documents(self, namespace: str) -> tuple[Document, ...]:
        """The documents that are published in a namespace."""
        release = self.newest(namespace)
        return release.documents if release else ()

    def known(self, namespace: str) -> Iterator[Document]:
        """The same, and those that are new in a rollout under way: some sidecars speak of them."""
        line = self._lines.get(namespace)
        if line is None:
            return
        yield from line.stable.documents
        if line.candidate is not None:
            there = {document.ref for document in line.stable.documents}
            yield from (each for each in line.candidate.documents if each.ref not in there)

    def descends(self, namespace: str, later: int, earlier: int) -> bool:
        """Whether one release of a namespace is the other, or builds on it."""
        line = self._lines.get(namespace)
        return line is not None and line.descends(later, earlier)

    def target(
        self, namespace: str, labels: Mapping[str, str], sidecar_id: str = ""
    ) -> Target | None:
        """What such a sidecar has to hold; None while its namespace has no release."""
        present = []
        for name in dict.fromkeys((PLATFORM, namespace)):
            line = self._lines.get(name)
            if line is None:
                return None
            present.append(line.assigned(sidecar_id, labels))
        versions = tuple((release.namespace, release.version) for release in present)
        key = versions, frozenset(labels.items())
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = _target(present, labels)
        return target


def _both(line: Line) -> list[Release]:
    return [line.stable] if line.candidate is None else [line.stable, line.candidate]


def _target(releases: Sequence[Release], labels: Mapping[str, str]) -> Target:
    resources: dict[str, Resource] = {}
    documents: list[Document] = []
    for release in releases:
        name = convert.manifest_name(release.namespace)
        signed = release.signed
        resources[name] = Resource(
            name=name,
            version=signed.digest,
            manifest=convert.signed_to_wire(signed.manifest, signed.signatures),
        )
        for document in release.documents:
            if selects(document.selector, labels):
                documents.append(document)
                name = convert.document_name(document.ref)
                resources[name] = Resource(
                    name=name, version=document.digest, document=document.canonical
                )
    return Target(
        versions={release.namespace: release.version for release in releases},
        resources=resources,
        held={name: resource.version for name, resource in resources.items()},
        documents=tuple(documents),
    )
