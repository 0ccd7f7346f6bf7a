"""Releases as rows: immutable, ordered within their namespace, each saying what it builds on.

`parent` is the release whose documents it changed, or restored. It is not always the one before: a
release that was rolled back is nobody's parent. So whether a change is in force somewhere has one
answer: it is where the enforced release descends from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.rollouts.plan import Rollout
from sidecar.control.schema import contents, entries, releases, signatures
from sidecar.decide.documents import Document
from sidecar.decide.parse import from_canonical
from sidecar.errors import DocumentsInvalid, StoreFailed
from sidecar.facts.releases import Manifest, SignedManifest, manifest_of, sign
from sidecar.facts.signing import Signature

_CHUNK: Final = 500  # parameters of one IN (...)
SYSTEM: Final = "control-plane"
"""Who did what nobody asked for at the time: rolled back by itself, took back what had its time."""


@dataclass(frozen=True, slots=True)
class By:
    """Who does a thing, what and why. `asked` is when it was first asked for (seconds since the
    epoch; 0: now). `about` goes to the audit trail as it is."""

    who: str = SYSTEM
    action: str = "apply"
    message: str = ""
    approver: str = ""
    asked: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draft:
    """A release to be. `base` is the newest version that its author saw; None: there was none.

    `parent` is what it builds on: `base` unless said otherwise. `signed` is what a delegated signer
    has signed. With `rollout` it is not everybody's at once. `expires` is when what it changes is
    taken back (seconds since the epoch).
    """

    namespace: str
    base: int | None
    documents: tuple[Document, ...]
    raise_floor: bool = False
    parent: int | None = None
    restores: int | None = None
    signed: SignedManifest | None = None
    rollout: Rollout | None = None
    expires: float | None = None

    @property
    def version(self) -> int:
        """The one that it gets."""
        return (0 if self.base is None else self.base) + 1

    @property
    def builds_on(self) -> int | None:
        """Its parent."""
        return self.base if self.parent is None else self.parent


@dataclass(frozen=True, slots=True)
class Release:
    """A release as it is stored. `asked` and `created` are seconds since the epoch."""

    manifest: Manifest
    signed: SignedManifest
    documents: tuple[Document, ...]
    author: str = ""
    approver: str = ""
    message: str = ""
    parent: int | None = None
    restores: int | None = None
    asked: float = 0.0
    created: float = 0.0

    @property
    def namespace(self) -> str:
        """The namespace it is a release of."""
        return self.manifest.namespace

    @property
    def version(self) -> int:
        """Counts from 1 within the namespace; 0 is the empty release of a new `platform`."""
        return self.manifest.version


async def newest_versions(
    connection: AsyncConnection, namespaces: Iterable[str] | None
) -> list[tuple[str, int]]:
    """Of each namespace, or of those named, in order."""
    query = select(releases.c.namespace, func.max(releases.c.version)).group_by(
        releases.c.namespace
    )
    if namespaces is not None:
        query = query.where(releases.c.namespace.in_(list(namespaces)))
    rows = (await connection.execute(query.order_by(releases.c.namespace))).all()
    return [(namespace, version) for namespace, version in rows]


async def read(connection: AsyncConnection, namespace: str, version: int) -> Release | None:
    """One, documents included; None: there is none. Raises StoreFailed for one of the future."""

    def of(table: Any) -> Any:
        return (table.c.namespace == namespace) & (table.c.version == version)

    row = (await connection.execute(select(releases).where(of(releases)))).one_or_none()
    if row is None:
        return None
    signed = (
        await connection.execute(
            select(signatures.c.public_key, signatures.c.signature)
            .where(of(signatures))
            .order_by(signatures.c.place)
        )
    ).all()
    texts = await connection.execute(
        select(contents.c.canonical)
        .join(entries, entries.c.sha256 == contents.c.sha256)
        .where(of(entries))
        .order_by(entries.c.kind, entries.c.name)
    )
    try:
        documents = tuple(from_canonical(text) for text in texts.scalars())
    except DocumentsInvalid as error:
        raise StoreFailed(
            f"{namespace}@{version} holds a document that this version does not read: {error}"
        ) from None
    return Release(
        Manifest.from_bytes(row.manifest),
        SignedManifest(row.manifest, tuple(Signature(key, value) for key, value in signed)),
        documents,
        author=row.author,
        approver=row.approver,
        message=row.message,
        parent=row.parent,
        restores=row.restores,
        asked=row.asked,
        created=row.created,
    )


async def parents(connection: AsyncConnection, namespace: str) -> dict[int, int | None]:
    """What each release of a namespace builds on."""
    query = select(releases.c.version, releases.c.parent).where(releases.c.namespace == namespace)
    return {row.version: row.parent for row in await connection.execute(query)}


async def insert_release(
    connection: AsyncConnection, draft: Draft, by: By, now: float, key: Ed25519PrivateKey | None
) -> Release:
    """Signed with `key`, unless it is None, and by whoever else has signed the draft."""
    manifest = await manifest_for(connection, draft, int(now))
    if draft.signed is not None:
        signed = draft.signed  # what it says was compared with the draft before
        manifest = Manifest.from_bytes(signed.manifest)
    elif key is None:
        raise StoreFailed("releases are signed elsewhere, and nobody has signed this one")
    else:
        signed = sign(manifest, key)
    await _insert_contents(connection, draft.documents)
    release = Release(
        manifest, signed, draft.documents, by.who, by.approver, by.message, draft.builds_on,
        draft.restores, by.asked or now, now,
    )  # fmt: skip
    await connection.execute(
        insert(releases).values(
            namespace=draft.namespace, version=manifest.version, floor=manifest.floor,
            issued=manifest.issued, manifest=signed.manifest, author=release.author,
            approver=release.approver, message=release.message, parent=release.parent,
            restores=release.restores, asked=release.asked, created=release.created,
        )
    )  # fmt: skip
    rows = [
        {
            "namespace": draft.namespace,
            "version": manifest.version,
            "kind": document.kind,
            "name": document.name,
            "sha256": document.digest,
        }
        for document in draft.documents
    ]
    if rows:
        await connection.execute(insert(entries), rows)
    await insert_signatures(connection, manifest, signed, 0)
    return release


async def manifest_for(connection: AsyncConnection, draft: Draft, issued: int) -> Manifest:
    """What is to be signed."""
    version = draft.version
    floor = version
    if not draft.raise_floor:
        found = await connection.execute(
            select(func.max(releases.c.floor)).where(releases.c.namespace == draft.namespace)
        )
        floor = found.scalar_one() or 0
    return manifest_of(
        draft.documents, namespace=draft.namespace, version=version, floor=floor, issued=issued
    )


async def insert_signatures(
    connection: AsyncConnection, manifest: Manifest, signed: SignedManifest, first: int
) -> None:
    """Those from the place `first` on."""
    rows = [
        {
            "namespace": manifest.namespace,
            "version": manifest.version,
            "place": place,
            "public_key": signature.public_key,
            "signature": signature.signature,
        }
        for place, signature in enumerate(signed.signatures)
        if place >= first
    ]
    if rows:
        await connection.execute(insert(signatures), rows)


async def _insert_contents(connection: AsyncConnection, documents: Sequence[Document]) -> None:
    wanted = {document.digest: document.canonical for document in documents}
    digests = list(wanted)
    for start in range(0, len(digests), _CHUNK):
        found = await connection.execute(
            select(contents.c.sha256).where(contents.c.sha256.in_(digests[start : start + _CHUNK]))
        )
        for digest in found.scalars():
            del wanted[digest]
    rows = [{"sha256": digest, "canonical": text} for digest, text in wanted.items()]
    if rows:
        await connection.execute(insert(contents), rows)
