"""What the history of releases says of how well changes go: when each was everywhere, and how often
and how fast one had to be taken back (lead time, change failure rate and time to restore, as in
DORA's metrics).

A change is a release that somebody asked for; one that takes another back is its restoration. It
fails if its rollout is aborted or rolled back, or if a later release restores an older one over it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select, update

from sidecar.control.catalogue import Catalogue
from sidecar.control.reach import Everyone
from sidecar.control.releases import SYSTEM
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.rollouts.rows import read_rollouts
from sidecar.control.schema import releases, rollouts
from sidecar.control.store import Store
from sidecar.decide.documents import PLATFORM

LATE: Final = 3600.0  # seconds; a release that is not everywhere by then is not measured
ALONE: Final = 60.0  # seconds after which one that concerns nobody is not waited for
LOOKED_AT: Final = 2_000  # releases, the newest ones
BUCKETS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""Seconds."""
_Key = tuple[str, int]
_PAUSE: Final = 5.0  # seconds between two looks at all of it


@dataclass(slots=True)
class Figures:
    """Of the newest LOOKED_AT releases. Times are in seconds."""

    lead_times: Sequence[float] = ()
    restore_times: Sequence[float] = ()
    changes: Mapping[str, int] = field(default_factory=dict)
    """By outcome: completed, aborted, rolled_back, undone."""

    @property
    def failure_ratio(self) -> float:
        """Of changes that have ended."""
        total = sum(self.changes.values())
        return 1 - self.changes.get("completed", 0) / total if total else 0.0


class History:
    """Notes when releases are everywhere, and keeps the figures for whoever scrapes."""

    def __init__(self, store: Store, everyone: Everyone) -> None:
        self.figures = Figures()
        self._store = store
        self._everyone = everyone
        self._waiting: dict[str, tuple[int, float]] = {}  # by namespace: version and since when
        self._ended: dict[str, Rollout] = {}  # rolled back, and not everywhere back
        self._settled: dict[str, int] = {}
        self._stale = True
        self._figured = 0.0
        self._looked = False

    @property
    def waiting(self) -> bool:
        """Whether anything is under way."""
        return bool(self._waiting or self._ended)

    def note(self, rollout: Rollout) -> None:
        """A rollout was changed."""
        if rollout.state in ("aborted", "rolled_back"):
            self._ended[rollout.namespace] = rollout
        self._stale = True

    async def load(self) -> None:
        """What had not settled when the control plane ended. Raises StoreFailed."""
        async with self._store.reading() as connection:
            for rollout in await read_rollouts(connection, unsettled=True):
                self.note(rollout)
            query = select(releases.c.namespace, releases.c.version).where(
                releases.c.settled.is_not(None)
            )
            for row in await connection.execute(query.order_by(releases.c.version)):
                self._settled[row.namespace] = row.version

    async def look(self, catalogue: Catalogue) -> None:
        """Notes what is everywhere by now. Raises StoreFailed."""
        now = self._store.clock()
        for release in catalogue.releases():
            name, version = release.namespace, release.version
            if self._settled.get(name, -1) < version and not (name == PLATFORM and not version):
                known = self._waiting.get(name)
                if known is None or known[0] != version:
                    self._waiting[name] = version, now if self._looked else release.created
        self._looked = True
        for namespace, (version, since) in list(self._waiting.items()):
            everywhere = self._everyone.settled(namespace)
            alone = everywhere is None and now - since > ALONE
            if everywhere or alone or now - since > LATE:
                del self._waiting[namespace]
                self._settled[namespace] = version
                if everywhere and now - since <= LATE:
                    await self._settle(namespace, version, now)
        for namespace, rollout in list(self._ended.items()):
            late = now - (rollout.ended or now) > LATE
            if late or self._everyone.settled(namespace) is not False:
                del self._ended[namespace]
                if not late:
                    await self._back(rollout, now)
        if self._stale and abs(now - self._figured) > _PAUSE:
            self._stale, self._figured = False, now
            self.figures = await self._figures()

    async def _settle(self, namespace: str, version: int, now: float) -> None:
        async with self._store.transaction() as connection:
            of = (releases.c.namespace == namespace) & (releases.c.version == version)
            await connection.execute(update(releases).where(of).values(settled=now))
        self._stale = True

    async def _back(self, rollout: Rollout, now: float) -> None:
        async with self._store.transaction() as connection:
            of = (rollouts.c.namespace == rollout.namespace) & (
                rollouts.c.version == rollout.version
            )
            await connection.execute(
                update(rollouts).where(of & rollouts.c.settled.is_(None)).values(settled=now)
            )
        self._stale = True

    async def _figures(self) -> Figures:
        async with self._store.reading() as connection:
            query = select(
                releases.c.namespace, releases.c.version, releases.c.parent, releases.c.restores,
                releases.c.asked, releases.c.created, releases.c.settled, releases.c.author,
            ).order_by(releases.c.created.desc(), releases.c.version.desc())  # fmt: skip
            found = (await connection.execute(query.limit(LOOKED_AT))).all()
            ended = {
                (row.namespace, row.version): row
                for row in await connection.execute(
                    select(rollouts).where(rollouts.c.ended.is_not(None))
                )
            }
            under_way = {
                (row.namespace, row.version)
                for row in await connection.execute(
                    select(rollouts.c.namespace, rollouts.c.version).where(
                        rollouts.c.ended.is_(None)
                    )
                )
            }
        return await asyncio.to_thread(_figures_of, found, ended, under_way)


def _figures_of(
    found: Sequence[Any], ended: Mapping[_Key, Any], under_way: Container[_Key]
) -> Figures:
    leads: list[float] = []
    restores: list[float] = []
    changes: Counter[str] = Counter()
    restoring: dict[str, list[Any]] = {}
    for row in found:
        if row.restores is not None and row.author != SYSTEM:  # but for the end of a trial
            restoring.setdefault(row.namespace, []).append(row)
    for row in found:
        key = row.namespace, row.version
        if row.restores is not None or key in under_way or row.version == 0:
            continue
        if row.author == SYSTEM:  # the end of a trial
            continue
        rollout = ended.get(key)
        outcome = rollout.state if rollout is not None else "completed"
        if outcome == "completed":
            if row.settled is not None:
                leads.append(row.settled - row.asked)
            # Oldest first: the one that took it back.
            for back in reversed(restoring.get(row.namespace, ())):
                if back.restores < row.version < back.version:
                    outcome = "undone"
                    if back.settled is not None:
                        restores.append(back.settled - row.created)
                    break
        elif rollout is not None and rollout.settled is not None:
            restores.append(rollout.settled - rollout.started)
        changes[outcome] += 1
    return Figures(leads, restores, changes)
