"""Signed releases: the manifest, who may sign it, and what exactly a sidecar must hold. Pure.

A manifest is canonical JSON (keys sorted, no spaces):

    {"entries": [{"kind", "name", "selector", "sha256"}, ...],   sorted by kind and name
     "floor": 3, "issued": 1700000000, "namespace": "payments", "version": 7}

and is signed with Ed25519 (`signing` knows whose keys count). A sidecar is sent the manifests of
its namespace and of `platform` and the documents whose selectors match its labels. It evaluates the
selectors itself: a document missing, added or altered on the way is noticed, whoever did it.

Nothing in here reads a clock, a file or a socket; `state` keeps what must outlive the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.decide.documents import PLATFORM, Document, selects
from sidecar.errors import ReleaseRefused
from sidecar.facts.signing import Endorsement, Signature, TrustedKeys, sign_release

MAX_MANIFEST: Final = 16 * 1024 * 1024  # bytes; some 100,000 entries


@dataclass(frozen=True, slots=True)
class Entry:
    """One document of a release: what it is, whom it is for, and the SHA-256 of its bytes (hex)."""

    kind: str
    name: str
    selector: Mapping[str, str]
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a namespace's release consists of. `issued` is Unix time in seconds."""

    namespace: str
    version: int
    floor: int
    issued: int
    entries: tuple[Entry, ...]

    def to_bytes(self) -> bytes:
        """The canonical form, the one that is signed."""
        entries = sorted(self.entries, key=lambda entry: (entry.kind, entry.name))
        body = {
            "entries": [
                {"kind": e.kind, "name": e.name, "selector": dict(e.selector), "sha256": e.sha256}
                for e in entries
            ],
            "floor": self.floor,
            "issued": self.issued,
            "namespace": self.namespace,
            "version": self.version,
        }
        return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Raises ReleaseRefused unless `data` is exactly the canonical form of a manifest."""
        if len(data) > MAX_MANIFEST:
            raise ReleaseRefused(f"manifest of {len(data)} bytes; at most {MAX_MANIFEST}")
        try:
            manifest = cls._read(orjson.loads(data))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ReleaseRefused("manifest is not of the form that this version knows") from None
        if manifest.to_bytes() != data:
            raise ReleaseRefused("manifest is not in canonical form")
        if len({(entry.kind, entry.name) for entry in manifest.entries}) != len(manifest.entries):
            raise ReleaseRefused("manifest names a document twice")
        if not 0 <= manifest.floor <= manifest.version:
            raise ReleaseRefused("manifest has a floor above its own version")
        return manifest

    @classmethod
    def _read(cls, body: Any) -> Manifest:
        entries = tuple(
            Entry(
                kind=_text(entry["kind"]),
                name=_text(entry["name"]),
                selector={_text(key): _text(value) for key, value in entry["selector"].items()},
                sha256=_text(entry["sha256"]),
            )
            for entry in body["entries"]
        )
        version, floor, issued = body["version"], body["floor"], body["issued"]
        if not all(type(number) is int for number in (version, floor, issued)):
            raise ValueError
        return cls(_text(body["namespace"]), version, floor, issued, entries)


def manifest_of(
    documents: Iterable[Document], *, namespace: str, version: int, floor: int, issued: int
) -> Manifest:
    """The manifest of a release that consists of `documents`, all of `namespace`."""
    entries = sorted(
        (Entry(d.kind, d.name, dict(d.selector), d.digest) for d in documents),
        key=lambda entry: (entry.kind, entry.name),
    )
    return Manifest(namespace, version, floor, issued, tuple(entries))


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest's bytes as signed. Several signatures while keys rotate; one trusted is enough."""

    manifest: bytes
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's bytes, hex."""
        return hashlib.sha256(self.manifest).hexdigest()


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> SignedManifest:
    """A manifest signed with one key."""
    return cosign(SignedManifest(manifest.to_bytes(), ()), key)


def cosign(signed: SignedManifest, key: Ed25519PrivateKey) -> SignedManifest:
    """The same manifest with one more signature."""
    return replace(signed, signatures=(*signed.signatures, sign_release(signed.manifest, key)))


# Assignments.


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one sidecar has to enforce: verified, complete, nothing besides.

    `trust` and `floors` are what to remember once it is adopted. `documents` come in order of
    namespace (platform first), kind and name.
    """

    namespace: str
    labels: Mapping[str, str]
    manifests: Mapping[str, SignedManifest]
    versions: Mapping[str, int]
    issued: int
    documents: tuple[Document, ...]
    endorsements: tuple[Endorsement, ...]
    trust: TrustedKeys
    floors: Mapping[str, int]

    @property
    def version(self) -> str:
        """For logs and metrics: `payments@7 platform@2`."""
        return " ".join(
            f"{namespace}@{version}" for namespace, version in sorted(self.versions.items())
        )


@dataclass(frozen=True, slots=True)
class Verified:
    """Manifests whose signatures count, and which documents they assign; by `Kind/namespace/name`.

    For whoever holds documents as bytes: `admit` them before anything reads them.
    """

    namespace: str
    labels: Mapping[str, str]
    signed: Mapping[str, SignedManifest]
    manifests: Mapping[str, Manifest]
    expected: Mapping[str, Entry]
    endorsements: tuple[Endorsement, ...]
    trust: TrustedKeys
    floors: Mapping[str, int]

    def admit(self, ref: str, digest: str) -> None:
        """Raises ReleaseRefused unless a document of this SHA-256 is assigned under this name."""
        entry = self.expected.get(ref)
        if entry is None:
            raise ReleaseRefused(f"{ref} is not part of what is assigned here")
        if digest != entry.sha256:
            raise ReleaseRefused(f"{ref} is not what its manifest says: it was altered")

    def assignment(self, documents: Iterable[Document]) -> Assignment:
        """All of it together. Raises ReleaseRefused for a document missing, extra or altered."""
        return Assignment(
            namespace=self.namespace,
            labels=self.labels,
            manifests=self.signed,
            versions={name: manifest.version for name, manifest in self.manifests.items()},
            issued=max(manifest.issued for manifest in self.manifests.values()),
            documents=self._exactly(documents),
            endorsements=self.endorsements,
            trust=self.trust,
            floors=self.floors,
        )

    def _exactly(self, documents: Iterable[Document]) -> tuple[Document, ...]:
        given: dict[str, Document] = {}
        for document in documents:
            self.admit(document.ref, document.digest)
            if dict(document.selector) != dict(self.expected[document.ref].selector):
                raise ReleaseRefused(
                    f"{document.ref} is not what its manifest says: it was altered"
                )
            given[document.ref] = document
        missing = self.expected.keys() - given.keys()
        if missing:
            raise ReleaseRefused(f"missing: {_list(sorted(missing)[:10])}")
        return tuple(
            sorted(
                given.values(), key=lambda d: (d.namespace != PLATFORM, d.namespace, d.kind, d.name)
            )
        )


def verify_manifests(
    manifests: Iterable[SignedManifest],
    *,
    namespace: str,
    labels: Mapping[str, str],
    trust: TrustedKeys,
    floors: Mapping[str, int],
    endorsements: Sequence[Endorsement] = (),
) -> Verified:
    """What a sidecar of `namespace` with `labels` is to enforce, as its manifests say.

    `floors` holds the highest floor seen per namespace. Raises ReleaseRefused for a signature that
    does not count, a manifest missing or too many, and a version below the floor.
    """
    signed_by_namespace: dict[str, SignedManifest] = {}
    read: dict[str, Manifest] = {}
    for signed in manifests:
        trust.verify_release(signed.manifest, signed.signatures, endorsements)
        manifest = Manifest.from_bytes(signed.manifest)
        if manifest.namespace in read:
            raise ReleaseRefused(f"two manifests for namespace {manifest.namespace!r}")
        read[manifest.namespace] = manifest
        signed_by_namespace[manifest.namespace] = signed
    if read.keys() != (wanted := {namespace, PLATFORM}):
        raise ReleaseRefused(f"expected manifests of {_list(wanted)}, found {_list(read)}")
    new_floors = dict(floors)
    for name, manifest in read.items():
        floor = max(floors.get(name, 0), manifest.floor)
        if manifest.version < floor:
            raise ReleaseRefused(
                f"release {name}@{manifest.version} is below the floor, {floor}: "
                "an old release was replayed, or the control plane lost its store"
            )
        new_floors[name] = floor
    return Verified(
        namespace=namespace,
        labels=dict(labels),
        signed=signed_by_namespace,
        manifests=read,
        expected={
            f"{entry.kind}/{manifest.namespace}/{entry.name}": entry
            for manifest in read.values()
            for entry in manifest.entries
            if selects(entry.selector, labels)
        },
        endorsements=tuple(endorsements),
        trust=trust.after(signed.signatures for signed in signed_by_namespace.values()),
        floors=new_floors,
    )


def verify_assignment(
    manifests: Iterable[SignedManifest],
    documents: Iterable[Document],
    *,
    namespace: str,
    labels: Mapping[str, str],
    trust: TrustedKeys,
    floors: Mapping[str, int],
    endorsements: Sequence[Endorsement] = (),
) -> Assignment:
    """The exact set of documents that a sidecar of `namespace` with `labels` enforces.

    For documents that are at hand as such; `Document.digest` must have been computed from the bytes
    received. Raises ReleaseRefused, as `verify_manifests` and `Verified.assignment` do.
    """
    return verify_manifests(
        manifests,
        namespace=namespace,
        labels=labels,
        trust=trust,
        floors=floors,
        endorsements=endorsements,
    ).assignment(documents)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
