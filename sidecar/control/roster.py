"""The sidecars of all control planes on one PostgreSQL: what each replica knows, the others read.

Each writes what changed of its own a few times a second, and a beat; what a replica wrote whose
beat stands still is left out, by the reader's clock and nobody else's. With SQLite there is one
control plane, and no roster.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import orjson
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.fleet import Fleet
from sidecar.control.rollouts.health import Tally
from sidecar.control.rollouts.tallies import from_plain
from sidecar.control.schema import replicas, roster
from sidecar.control.session import Session
from sidecar.control.store import Store
from sidecar.errors import StoreFailed

WRITE: Final = 0.3  # seconds between looks at what changed
FRESH: Final = 0.2  # seconds for which what was read is not read again
BEAT: Final = 2.0  # seconds between beats while nothing changes
STILL: Final = 10.0  # seconds after which a replica without a beat is gone
_FORGOTTEN: Final = 60.0  # seconds after which what a gone replica wrote is removed
_ROWS: Final = 500  # of one statement
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """A sidecar of another replica, as `session.Session` has it of one's own."""

    sidecar_id: str
    namespace: str
    replica: str
    labels: Mapping[str, str] = field(default_factory=dict)
    build: str = ""
    address: str = ""
    since: float = 0.0
    started: int = 0
    enforced: Mapping[str, int] = field(default_factory=dict)
    confirmed: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    last_error: str = ""
    behind: float | None = None
    revocations: int = -1
    """The number up to which it refuses what was withdrawn; -1: it knows nothing of that."""


class Roster:
    """`write` is to be done again and again, WRITE seconds apart; `refresh` reads."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self.replica = os.urandom(8).hex()
        self.tallies: dict[str, list[Any]] = {}
        """What this replica's sidecars reported, by rollout; others read it."""
        self._store = store
        self._fleet = fleet
        self._written: dict[str, bytes] = {}
        self._beat = 0
        self._beaten = 0.0
        self._told = ""
        self._others: dict[str, dict[str, Member]] = {}
        self._beats: dict[str, tuple[int, float]] = {}
        self._reported: dict[str, Any] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed = -inf
        self._interrupted = False

    def others(self) -> Iterable[Member]:
        """The sidecars of other replicas, as of the last `refresh`; each once, and none that has
        come here since."""
        found: dict[str, Member] = {}
        for member in (each for members in self._others.values() for each in members.values()):
            known = found.get(member.sidecar_id)
            if known is None or known.since < member.since:
                found[member.sidecar_id] = member
        for session in self._fleet:
            found.pop(session.sidecar_id, None)
        return found.values()

    def reported(self, rollout: str) -> list[tuple[Tally, Tally, Tally]]:
        """What other replicas' sidecars reported in a rollout."""
        return [from_plain(found[rollout]) for found in self._reported.values() if rollout in found]

    async def write(self) -> None:
        """What changed since the last time. Raises StoreFailed."""
        now = {session.sidecar_id: _row(session) for session in self._fleet}
        changed = [(id_, row) for id_, row in now.items() if self._written.get(id_) != row[1]]
        gone = [id_ for id_ in self._written if id_ not in now]
        tallies = orjson.dumps(self.tallies).decode()
        at = time.monotonic()
        if not changed and not gone and tallies == self._told and at - self._beaten < BEAT:
            return
        self._beat += 1
        async with self._store.transaction() as connection:
            for start in range(0, len(gone), _ROWS):
                await connection.execute(
                    delete(roster).where(
                        (roster.c.replica == self.replica)
                        & roster.c.sidecar_id.in_(gone[start : start + _ROWS])
                    )
                )
            for start in range(0, len(changed), _ROWS):
                await self._upsert(connection, changed[start : start + _ROWS])
            beat = {"beat": self._beat, "tallies": tallies}
            statement = upsert(replicas).values(replica=self.replica, **beat)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["replica"], set_=beat)
            )
        self._written = {id_: row[1] for id_, row in now.items()}
        self._told, self._beaten = tallies, at

    async def _upsert(
        self, connection: AsyncConnection, rows: Sequence[tuple[str, tuple[str, bytes]]]
    ) -> None:
        statement = upsert(roster).values(
            [
                {"replica": self.replica, "sidecar_id": id_, "namespace": row[0],
                 "seen": row[1].decode()}
                for id_, row in rows
            ]
        )  # fmt: skip
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["replica", "sidecar_id"],
                set_={"namespace": statement.excluded.namespace, "seen": statement.excluded.seen},
            )
        )

    async def refresh(self) -> None:
        """Reads what the others have written; those who ask within FRESH seconds read once. Raises
        StoreFailed."""
        if time.monotonic() - self._refreshed < FRESH:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        try:
            await self._read()
        except StoreFailed:
            self._interrupted = True
            raise

    async def _read(self) -> None:
        async with self._store.transaction() as connection:
            beats = (
                await connection.execute(select(replicas).where(replicas.c.replica != self.replica))
            ).all()
            now = time.monotonic()
            if self._interrupted:  # nobody could say anything meanwhile
                self._interrupted = False
                self._beats = {replica: (beat, now) for replica, (beat, _) in self._beats.items()}
            alive = {row.replica for row in beats if self._lives(row.replica, row.beat, now)}
            self._reported = {
                row.replica: orjson.loads(row.tallies) for row in beats if row.replica in alive
            }
            rows = (
                await connection.execute(select(roster).where(roster.c.replica.in_(sorted(alive))))
            ).all()
            for replica in [row.replica for row in beats if row.replica not in alive]:
                if now - self._beats[replica][1] > _FORGOTTEN:
                    await _remove(connection, replica)
        found: dict[str, dict[str, Member]] = {replica: {} for replica in alive}
        for row in rows:
            found[row.replica][row.sidecar_id] = _member(row)
        self._others = found
        self._refreshed = time.monotonic()

    def _lives(self, replica: str, beat: int, now: float) -> bool:
        """Whether it has said something within `STILL`, by the clock here."""
        last = self._beats.get(replica)
        if last is None or last[0] != beat:
            self._beats[replica] = beat, now
            return True
        return now - last[1] <= STILL

    async def leave(self) -> None:
        """The control plane stops: its sidecars go elsewhere."""
        if self._refreshing is not None:
            await asyncio.wait({self._refreshing})
        try:
            async with self._store.transaction() as connection:
                await _remove(connection, self.replica)
        except StoreFailed as error:
            _log.warning("other replicas are not told of the end of this one: %s", error)


async def _remove(connection: AsyncConnection, replica: str) -> None:
    for table in (roster, replicas):
        await connection.execute(delete(table).where(table.c.replica == replica))


def _row(session: Session) -> tuple[str, bytes]:
    cursor = session.revocations
    return session.namespace, orjson.dumps(
        {
            "labels": dict(session.labels),
            "build": session.build,
            "address": session.address,
            "since": session.since,
            "started": session.started,
            "enforced": dict(session.enforced),
            "confirmed": dict(session.confirmed),
            "refused": dict(session.refused),
            "error": session.last_error,
            "behind": session.behind,
            "revocations": -1 if cursor is None else cursor.number,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def _member(row: Any) -> Member:
    seen = orjson.loads(row.seen)
    return Member(
        row.sidecar_id, row.namespace, row.replica, seen["labels"], seen["build"], seen["address"],
        seen["since"], seen["started"], seen["enforced"], seen["confirmed"], seen["refused"],
        seen["error"], seen["behind"], seen["revocations"],
    )  # fmt: skip
