"""What is published now, in memory, and what of it each sidecar has to hold. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cachetools import LRUCache

from sidecar.control.store import Release
from sidecar.decide.documents import PLATFORM, Document, selects
from sidecar.facts.signing import Endorsement
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Resource

MAX_TARGETS: Final = 4096  # remembered sets of labels; beyond it they are worked out again
_DELTAS: Final = 8  # remembered deltas of one target

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


class Catalogue:
    """The newest release of every namespace."""

    def __init__(self) -> None:
        self._releases: dict[str, Release] = {}
        self._targets: LRUCache[tuple[str, frozenset[tuple[str, str]]], Target] = LRUCache(
            MAX_TARGETS
        )
        self.endorsements: Sequence[Endorsement] = ()

    def take(self, releases: Iterable[Release]) -> set[str]:
        """Makes releases the newest unless newer ones are known; the namespaces that changed."""
        changed = set()
        for release in releases:
            known = self._releases.get(release.namespace)
            if known is None or known.version < release.version:
                self._releases[release.namespace] = release
                changed.add(release.namespace)
        for key in [key for key in self._targets if changed & {key[0], PLATFORM}]:
            del self._targets[key]
        return changed

    def newest(self, namespace: str) -> Release | None:
        """The newest release of a namespace."""
        return self._releases.get(namespace)

    def releases(self) -> list[Release]:
        """The newest release of every namespace, in order."""
        return [release for _, release in sorted(self._releases.items())]

    def documents(self, namespace: str) -> tuple[Document, ...]:
        """The documents that are published in a namespace."""
        release = self._releases.get(namespace)
        return release.documents if release else ()

    def target(self, namespace: str, labels: Mapping[str, str]) -> Target | None:
        """What such a sidecar has to hold; None while its namespace has no release."""
        releases = [self._releases.get(name) for name in dict.fromkeys((PLATFORM, namespace))]
        present = [release for release in releases if release is not None]
        if len(present) < len(releases):
            return None
        key = namespace, frozenset(labels.items())
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = _target(present, labels)
        return target


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
