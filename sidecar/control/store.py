"""The control plane's store: releases that are never changed and, once acknowledged, never lost.

SQLite (WAL, synchronous=FULL: a commit is on the disk before it returns) or PostgreSQL, through
SQLAlchemy Core. `publish` writes all its releases or none, each one version above the newest that
its author saw: of two publishers who saw the same one, the second gets Conflict and looks again.

The signing keys are rows of the same database: a backup of it is whole, replicas share them, and
making a key is part of the transaction that first needs it. The price: whoever reads the database
can sign, so an SQLite file is 0600.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from alembic.util import CommandError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sidecar.control import database
from sidecar.control.revocations import Numbered, Withdrawal, of_row, row
from sidecar.control.schema import (
    contents,
    entries,
    events,
    releases,
    signatures,
    signing_keys,
)
from sidecar.control.schema import withdrawals as table
from sidecar.decide.documents import PLATFORM, Document
from sidecar.decide.parse import from_canonical
from sidecar.errors import DocumentsInvalid, StoreFailed
from sidecar.facts.releases import Manifest, SignedManifest, cosign, manifest_of, sign
from sidecar.facts.signing import Endorsement, Signature, endorse, raw_public_key

_CHUNK: Final = 500  # parameters of one IN (...)


class Conflict(StoreFailed):
    """Somebody else published first. `newest` holds the versions found, by namespace."""

    def __init__(self, newest: Mapping[str, int | None]) -> None:
        self.newest = newest
        super().__init__(f"published in between: {', '.join(sorted(newest))}")


class Replayed(StoreFailed):
    """An event that was received before."""


@dataclass(frozen=True, slots=True)
class Event:
    """A security event as the store remembers it, until `expires` (seconds since the epoch)."""

    id: str
    expires: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A release to be. `base` is the newest version that its author saw; None: there was none."""

    namespace: str
    base: int | None
    documents: tuple[Document, ...]
    raise_floor: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """A release as it is stored."""

    manifest: Manifest
    signed: SignedManifest
    documents: tuple[Document, ...]

    @property
    def namespace(self) -> str:
        """The namespace it is a release of."""
        return self.manifest.namespace

    @property
    def version(self) -> int:
        """Counts from 1 within the namespace; 0 is the empty release of a new `platform`."""
        return self.manifest.version


class Store:
    """An open store. Every method raises StoreFailed when the database does not do its part."""

    def __init__(
        self, engine: AsyncEngine, path: Path | None, clock: Callable[[], float], lock: int
    ) -> None:
        self.path = path
        """The SQLite file; None for a database elsewhere."""
        self._engine = engine
        self._clock = clock
        self._lock = lock
        self._keys: list[Ed25519PrivateKey] = []
        self.endorsements: tuple[Endorsement, ...] = ()

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> Store:
        """Creates or upgrades what is needed. Raises Misuse for a bad URL, StoreFailed."""
        url_, path = database.address(url)
        lock = database.claim(path) if path else -1
        engine = create_async_engine(url_)
        if path:
            database.configure_sqlite(engine)
        store = cls(engine, path, clock, lock)
        try:
            await store._prepare()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Releases the database; nothing acknowledged waits to be written."""
        await self._engine.dispose()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def engine(self) -> AsyncEngine:
        """The database, for what else is kept in it (`control.subjects`); open until `close`."""
        return self._engine

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """Raw public keys, oldest first."""
        return tuple(raw_public_key(key) for key in self._keys)

    async def newest(self, namespaces: Iterable[str] | None = None) -> list[Release]:
        """The newest release of each namespace (or of those named), documents included."""
        async with self._transaction() as connection:
            return [
                await self._read(connection, namespace, version)
                for namespace, version in await self._versions(connection, namespaces)
            ]

    async def publish(self, drafts: Sequence[Draft]) -> list[Release]:
        """Stores all drafts as releases, or none. Durable on return. Raises Conflict."""
        try:
            async with self._transaction() as connection:
                await self._check_bases(connection, drafts)
                made = [await self._insert(connection, draft) for draft in drafts]
                await database.announce(connection)
                return made
        except IntegrityError:
            raise Conflict({draft.namespace: None for draft in drafts}) from None

    async def rotate_key(self) -> bytes:
        """A new signing key, endorsed by the one before; the newest releases are signed by both.

        Returns the new public key. Sidecars that pinned an older key go on without a break.
        """
        key = Ed25519PrivateKey.generate()
        async with self._transaction() as connection:
            await database.alone(connection)
            await self._load_keys(connection)
            endorsement = endorse(raw_public_key(key), self._keys[-1])
            await self._insert_key(connection, key, endorsement)
            for namespace, version in await self._versions(connection, None):
                release = await self._read(connection, namespace, version)
                both = cosign(release.signed, key)
                last = len(both.signatures) - 1
                await self._insert_signatures(connection, release.manifest, both, last)
            await database.announce(connection)
        self._keys.append(key)
        self.endorsements = (*self.endorsements, endorsement)
        return raw_public_key(key)

    async def withdraw(
        self, withdrawals: Sequence[Withdrawal], event: Event | None = None
    ) -> list[Numbered]:
        """Stores all of them, or none, with the event that they come from. Durable on return.

        Raises Replayed if that event was stored before.
        """
        now = int(self._clock())
        async with self._transaction() as connection:
            await database.alone(connection)
            if event is not None:
                await connection.execute(delete(events).where(events.c.expires <= now))
                known = select(events.c.id).where(events.c.id == event.id)
                if (await connection.execute(known)).first() is not None:
                    raise Replayed("this event was received before")
                await connection.execute(insert(events).values(id=event.id, expires=event.expires))
            newest = await self._newest_number(connection)
            # The newest row stays, lest its number be given again.
            await connection.execute(
                delete(table).where((table.c.expires <= now) & (table.c.number < newest))
            )
            numbered = [
                Numbered(newest + place, now, each) for place, each in enumerate(withdrawals, 1)
            ]
            if numbered:
                await connection.execute(insert(table), [row(each) for each in numbered])
                await database.announce(connection)
            return numbered

    async def withdrawn(self, after: int = 0) -> list[Numbered]:
        """All that was withdrawn with numbers above `after` and not forgotten, in order; the newest
        in any case."""
        async with self._transaction() as connection:
            wanted = select(table).where(table.c.number > after).order_by(table.c.number)
            return [of_row(each) for each in await connection.execute(wanted)]

    async def versions(self) -> dict[str, int]:
        """The newest version of each namespace, and with it the keys as they are now."""
        async with self._transaction() as connection:
            await self._load_keys(connection)
            return dict(await self._versions(connection, None))

    async def _newest_number(self, connection: AsyncConnection) -> int:
        return (await connection.execute(select(func.max(table.c.number)))).scalar_one() or 0

    # Opening.

    async def _prepare(self) -> None:
        async with self._transaction() as connection:
            await database.alone(connection)
            try:
                await connection.run_sync(database.upgrade)
            except CommandError as error:
                raise StoreFailed(
                    f"the store is of a newer version of this program, or none of its own: {error}"
                ) from None
            await self._load_keys(connection)
            if not await self._versions(connection, [PLATFORM]):
                # So that a sidecar can always ask for a signed release of `platform`, and nobody
                # on the way can pretend that there is none.
                await self._insert(connection, Draft(PLATFORM, -1, ()))

    async def _load_keys(self, connection: AsyncConnection) -> None:
        rows = (await connection.execute(select(signing_keys).order_by("place"))).all()
        self._keys = [Ed25519PrivateKey.from_private_bytes(row.private_key) for row in rows]
        self.endorsements = tuple(
            Endorsement(row.public_key, row.endorsed_by, row.endorsement)
            for row in rows
            if row.endorsed_by is not None
        )
        if not rows:
            key = Ed25519PrivateKey.generate()
            await self._insert_key(connection, key, None)
            self._keys = [key]

    async def _insert_key(
        self, connection: AsyncConnection, key: Ed25519PrivateKey, endorsement: Endorsement | None
    ) -> None:
        await connection.execute(
            insert(signing_keys).values(
                place=len(self._keys),
                public_key=raw_public_key(key),
                private_key=key.private_bytes_raw(),
                created=int(self._clock()),
                endorsed_by=endorsement.by if endorsement else None,
                endorsement=endorsement.signature if endorsement else None,
            )
        )

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise StoreFailed(f"the store failed: {reason}") from error

    # Reading.

    async def _versions(
        self, connection: AsyncConnection, namespaces: Iterable[str] | None
    ) -> list[tuple[str, int]]:
        query = select(releases.c.namespace, func.max(releases.c.version)).group_by(
            releases.c.namespace
        )
        if namespaces is not None:
            query = query.where(releases.c.namespace.in_(list(namespaces)))
        rows = (await connection.execute(query.order_by(releases.c.namespace))).all()
        return [(namespace, version) for namespace, version in rows]

    async def _read(self, connection: AsyncConnection, namespace: str, version: int) -> Release:
        def of(table: Any) -> Any:
            return (table.c.namespace == namespace) & (table.c.version == version)

        manifest = (
            await connection.execute(select(releases.c.manifest).where(of(releases)))
        ).scalar_one()
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
            Manifest.from_bytes(manifest),
            SignedManifest(manifest, tuple(Signature(key, value) for key, value in signed)),
            documents,
        )

    # Writing.

    async def _check_bases(self, connection: AsyncConnection, drafts: Sequence[Draft]) -> None:
        newest = dict(await self._versions(connection, [draft.namespace for draft in drafts]))
        moved = {
            draft.namespace: newest.get(draft.namespace)
            for draft in drafts
            if newest.get(draft.namespace) != draft.base
        }
        if moved:
            raise Conflict(moved)

    async def _insert(self, connection: AsyncConnection, draft: Draft) -> Release:
        version = (0 if draft.base is None else draft.base) + 1
        manifest = manifest_of(
            draft.documents,
            namespace=draft.namespace,
            version=version,
            floor=version if draft.raise_floor else await self._floor(connection, draft),
            issued=int(self._clock()),
        )
        signed = sign(manifest, self._keys[-1])
        await self._insert_contents(connection, draft.documents)
        await connection.execute(
            insert(releases).values(
                namespace=draft.namespace,
                version=version,
                floor=manifest.floor,
                issued=manifest.issued,
                manifest=signed.manifest,
            )
        )
        rows = [
            {
                "namespace": draft.namespace,
                "version": version,
                "kind": document.kind,
                "name": document.name,
                "sha256": document.digest,
            }
            for document in draft.documents
        ]
        if rows:
            await connection.execute(insert(entries), rows)
        await self._insert_signatures(connection, manifest, signed, 0)
        return Release(manifest, signed, draft.documents)

    async def _floor(self, connection: AsyncConnection, draft: Draft) -> int:
        floor = await connection.execute(
            select(func.max(releases.c.floor)).where(releases.c.namespace == draft.namespace)
        )
        return floor.scalar_one() or 0

    async def _insert_contents(
        self, connection: AsyncConnection, documents: Sequence[Document]
    ) -> None:
        wanted = {document.digest: document.canonical for document in documents}
        digests = list(wanted)
        for start in range(0, len(digests), _CHUNK):
            found = await connection.execute(
                select(contents.c.sha256).where(
                    contents.c.sha256.in_(digests[start : start + _CHUNK])
                )
            )
            for digest in found.scalars():
                del wanted[digest]
        rows = [{"sha256": digest, "canonical": text} for digest, text in wanted.items()]
        if rows:
            await connection.execute(insert(contents), rows)

    async def _insert_signatures(
        self, connection: AsyncConnection, manifest: Manifest, signed: SignedManifest, first: int
    ) -> None:
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
        await connection.execute(insert(signatures), rows)
