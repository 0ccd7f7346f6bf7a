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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sidecar.control import audit, database, keys
from sidecar.control.keys import Keys
from sidecar.control.releases import By as By
from sidecar.control.releases import Draft as Draft
from sidecar.control.releases import Release as Release
from sidecar.control.releases import (
    insert_release,
    insert_signatures,
    manifest_for,
    newest_versions,
    parents,
    read,
)
from sidecar.control.revocations import Numbered, Withdrawal
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.rollouts.rows import change_rollout, insert_rollout, read_rollouts
from sidecar.control.schema import releases as releases_table
from sidecar.control.schema import rollouts
from sidecar.control.withdrawals import Event as Event
from sidecar.control.withdrawals import Replayed as Replayed
from sidecar.control.withdrawals import insert_withdrawals, read_withdrawals, remember
from sidecar.decide.documents import PLATFORM
from sidecar.errors import StoreFailed
from sidecar.facts.releases import cosign
from sidecar.facts.signing import Endorsement, raw_public_key

Also = Callable[[AsyncConnection], Awaitable[None]]
"""What else belongs to a transaction."""


class Conflict(StoreFailed):
    """Somebody else published first. `newest` holds the versions found, by namespace."""

    def __init__(self, newest: dict[str, int | None]) -> None:
        self.newest = newest
        super().__init__(f"published in between: {', '.join(sorted(newest))}")


class OutcomeUnknown(StoreFailed):
    """The database was asked to commit and gave no answer: it may have, or not."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a namespace's sidecars are to enforce: `stable`, and `candidate` while `rollout` is
    under way. `newest` is the highest version there ever was, `steered` counts changes of its
    rollouts, `parents` says what each release builds on."""

    stable: Release
    candidate: Release | None = None
    rollout: Rollout | None = None
    newest: int = 0
    steered: int = 0
    parents: Mapping[int, int | None] = field(default_factory=dict)


class Store:
    """An open store. Every method raises StoreFailed when the database does not do its part."""

    def __init__(
        self, engine: AsyncEngine, path: Path | None, clock: Callable[[], float], lock: int
    ) -> None:
        self.path = path
        """The SQLite file; None for a database elsewhere."""
        self.clock = clock
        self.keys = Keys()
        """As they were when last looked at."""
        self.signs = True
        """Whether it signs releases; otherwise delegated signers have to."""
        self._engine = engine
        self._reader = engine.execution_options(**{database.READS: True})
        self._lock = lock

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
        """The store's own raw public keys, oldest first."""
        return self.keys.public

    @property
    def endorsements(self) -> tuple[Endorsement, ...]:
        """Who vouches for which key."""
        return self.keys.everybody

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Committed at its end. Raises StoreFailed, which is OutcomeUnknown where the commit itself
        failed; errors of constraints as they are."""
        asked = False
        try:
            async with self._engine.begin() as connection:
                yield connection
                asked = True
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            raise (OutcomeUnknown if asked else StoreFailed)(_reason(error)) from error

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One that only reads, and waits for nobody who writes. Raises StoreFailed."""
        try:
            async with self._reader.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise StoreFailed(_reason(error)) from error

    # Reading.

    async def newest(self, namespaces: Iterable[str] | None = None) -> list[Release]:
        """The newest release of each namespace (or of those named), documents included."""
        async with self.reading() as connection:
            return [
                await _sure(connection, namespace, version)
                for namespace, version in await newest_versions(connection, namespaces)
            ]

    async def published(self, namespaces: Iterable[str] | None = None) -> list[Published]:
        """What is to be enforced in each namespace (or in those named)."""
        async with self.reading() as connection:
            return [
                await self._published(connection, namespace, version)
                for namespace, version in await newest_versions(connection, namespaces)
            ]

    async def release(self, namespace: str, version: int) -> Release | None:
        """One of them, documents included."""
        async with self.reading() as connection:
            return await read(connection, namespace, version)

    async def revisions(self) -> dict[str, tuple[int, int]]:
        """The newest version of each namespace, and how often rollouts in it were changed; with it
        the keys as they are now."""
        async with self.reading() as connection:
            self.keys = await keys.load(connection)
            steered = await _steered(connection)
            return {
                namespace: (version, steered.get(namespace, 0))
                for namespace, version in await newest_versions(connection, None)
            }

    # Writing.

    async def publish(
        self, drafts: Sequence[Draft], by: By | None = None, also: Also | None = None
    ) -> list[Release]:
        """Stores all drafts as releases, or none, with the record of it. Durable on return.

        Raises Conflict, and OutcomeUnknown where nobody can be asked what has become of it.
        """
        made: list[Release] = []
        try:
            await self._publish(drafts, by or By(), also, made)
        except OutcomeUnknown as unknown:
            if not await self._published_all(made):
                raise StoreFailed(str(unknown)) from None
        return made

    async def _published_all(self, made: Sequence[Release]) -> bool:
        """Whether a commit without an answer took place. Raises OutcomeUnknown."""
        try:
            async with self.transaction() as connection:
                # Whoever was to commit holds this until they have, or will not any more.
                await database.alone(connection)
                found = [await read(connection, r.namespace, r.version) for r in made]
        except StoreFailed as error:
            raise OutcomeUnknown(str(error)) from error
        return bool(made) and found == list(made)

    async def _publish(
        self, drafts: Sequence[Draft], by: By, also: Also | None, made: list[Release]
    ) -> None:
        now = self.clock()
        try:
            async with self.transaction() as connection:
                await database.alone(connection)
                await self._check_bases(connection, drafts)
                key = self.keys.private[-1] if self.signs else None
                for draft in drafts:
                    release = await insert_release(connection, draft, by, now, key)
                    if draft.rollout is not None:
                        await insert_rollout(connection, draft.rollout)
                    made.append(release)
                if also is not None:
                    await also(connection)
                await self._record(connection, now, by, drafts, made)
                await database.announce(connection)
        except IntegrityError:
            raise Conflict({draft.namespace: None for draft in drafts}) from None

    async def manifests(self, drafts: Sequence[Draft]) -> list[bytes]:
        """What would be signed, one for each draft."""
        async with self.reading() as connection:
            now = int(self.clock())
            return [(await manifest_for(connection, each, now)).to_bytes() for each in drafts]

    async def note(self, by: By) -> None:
        """Puts something into the audit trail that is about to be done elsewhere."""
        await self.record(by, None)

    async def record(self, by: By, also: Also | None) -> None:
        """Does something else that belongs into the audit trail, together with its record."""
        async with self.transaction() as connection:
            await database.alone(connection)
            if also is not None:
                await also(connection)
            await audit.append(connection, self.clock(), by.who, by.action, by.about)

    async def steer(self, rollout: Rollout, by: By) -> Rollout | None:
        """Stores how a rollout goes on; None: somebody else has changed it meanwhile."""
        async with self.transaction() as connection:
            await database.alone(connection)
            changed = await change_rollout(connection, rollout)
            if changed is not None:
                about = {
                    "release": rollout.name, "state": rollout.state, "reason": rollout.reason,
                    "stage": str(rollout.plan.stages[rollout.stage]), **by.about,
                }  # fmt: skip
                now = self.clock()
                await audit.append(connection, now, by.who, by.action, about)
                await database.announce(connection)
            return changed

    async def rotate_key(self, by: By | None = None) -> bytes:
        """A new signing key, endorsed by the one before; what is enforced is signed by both.

        Returns the new public key. Sidecars that pinned an older key go on without a break.
        """
        by = by or By(action="rotate-key")
        async with self.transaction() as connection:
            await database.alone(connection)
            now = self.clock()
            key = await keys.add(connection, await keys.load(connection), int(now))
            for namespace, version in await newest_versions(connection, None):
                found = await self._published(connection, namespace, version)
                for release in filter(None, (found.stable, found.candidate)):
                    both = cosign(release.signed, key)
                    last = len(both.signatures) - 1
                    await insert_signatures(connection, release.manifest, both, last)
            new = raw_public_key(key)
            about = {"publicKey": new.hex(), "endorsedBy": self.keys.public[-1].hex()}
            await audit.append(connection, now, by.who, by.action, about)
            await database.announce(connection)
            self.keys = await keys.load(connection)
        return new

    async def delegate(self, public_key: bytes, name: str, by: By) -> None:
        """Somebody else's key may sign releases from now on. Raises StoreFailed if it may."""
        async with self.transaction() as connection:
            await database.alone(connection)
            now = self.clock()
            await keys.delegate(connection, await keys.load(connection), public_key, name, int(now))
            about = {"publicKey": public_key.hex(), "name": name}
            await audit.append(connection, now, by.who, by.action, about)
            await database.announce(connection)
            self.keys = await keys.load(connection)

    async def withdraw(
        self,
        withdrawals: Sequence[Withdrawal],
        event: Event | None = None,
        by: By | None = None,
    ) -> list[Numbered]:
        """Stores all of them, or none, with the event that they come from. Durable on return.

        Raises Replayed if that event was stored before.
        """
        by = by or By(action="revoke")
        now = int(self.clock())
        async with self.transaction() as connection:
            await database.alone(connection)
            if event is not None:
                await remember(connection, event, now)
            numbered = await insert_withdrawals(connection, withdrawals, now)
            if numbered:
                # Not what: who was withdrawn is personal, and forgotten when it expires.
                numbers = [numbered[0].number, numbered[-1].number]
                about = {"numbers": numbers, "kinds": sorted({w.kind for w in withdrawals})}
                await audit.append(connection, now, by.who, by.action, {**about, **by.about})
                await database.announce(connection)
            return numbered

    async def withdrawn(self, after: int = 0) -> list[Numbered]:
        """All that was withdrawn with numbers above `after` and not forgotten, in order; the newest
        in any case."""
        async with self.reading() as connection:
            return await read_withdrawals(connection, after)

    async def _prepare(self) -> None:
        async with self.transaction() as connection:
            await database.alone(connection)
            try:
                await connection.run_sync(database.upgrade)
            except CommandError as error:
                raise StoreFailed(
                    f"the store is of a newer version of this program, or none of its own: {error}"
                ) from None
            self.keys = await keys.load(connection)
            if not self.keys.private:
                await keys.add(connection, self.keys, int(self.clock()))
                self.keys = await keys.load(connection)
            if not await newest_versions(connection, [PLATFORM]):
                # So that a sidecar can always ask for a signed release of `platform`, and nobody
                # on the way can pretend that there is none.
                first = Draft(PLATFORM, -1, ())
                await insert_release(connection, first, By(), self.clock(), self.keys.private[-1])

    async def _published(
        self, connection: AsyncConnection, namespace: str, newest: int
    ) -> Published:
        unfinished = (rollouts.c.namespace == namespace) & (rollouts.c.state != "completed")
        stable = (
            await connection.execute(
                select(func.max(releases_table.c.version)).where(
                    (releases_table.c.namespace == namespace)
                    & releases_table.c.version.not_in(select(rollouts.c.version).where(unfinished))
                )
            )
        ).scalar_one()
        active = await read_rollouts(connection, namespaces=[namespace], active=True, most=1)
        rollout = active[0] if active else None
        return Published(
            await _sure(connection, namespace, stable),
            await _sure(connection, namespace, rollout.version) if rollout is not None else None,
            rollout,
            newest,
            (await _steered(connection, namespace)).get(namespace, 0),
            await parents(connection, namespace),
        )

    async def _check_bases(self, connection: AsyncConnection, drafts: Sequence[Draft]) -> None:
        newest = dict(await newest_versions(connection, [draft.namespace for draft in drafts]))
        moved = {
            draft.namespace: newest.get(draft.namespace)
            for draft in drafts
            if newest.get(draft.namespace) != draft.base
        }
        if moved:
            raise Conflict(moved)

    async def _record(
        self,
        connection: AsyncConnection,
        now: float,
        by: By,
        drafts: Sequence[Draft],
        made: Sequence[Release],
    ) -> None:
        about = {
            "message": by.message,
            "releases": {f"{r.namespace}@{r.version}": r.signed.digest for r in made},
            "rollouts": {
                draft.namespace: [str(stage) for stage in draft.rollout.plan.stages]
                for draft in drafts
                if draft.rollout is not None
            },
            **({"approver": by.approver} if by.approver else {}),
            **by.about,
        }
        await audit.append(connection, now, by.who, by.action, about)


def _reason(error: Exception) -> str:
    reason = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
    return f"the store failed: {reason[0]}"


async def _sure(connection: AsyncConnection, namespace: str, version: int) -> Release:
    found = await read(connection, namespace, version)
    if found is None:
        raise StoreFailed(f"{namespace}@{version} is not in the store, and should be")
    return found


async def _steered(connection: AsyncConnection, namespace: str = "") -> dict[str, int]:
    """How often rollouts were changed, by namespace; each counts once when it begins."""
    query = select(rollouts.c.namespace, func.sum(rollouts.c.revision + 1))
    if namespace:
        query = query.where(rollouts.c.namespace == namespace)
    found = await connection.execute(query.group_by(rollouts.c.namespace))
    return {name: int(count) for name, count in found}
