"""What may not be kept any longer goes: attributes, visitors, and rows that have served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, select, update

from sidecar.control.subjects.erasing import Erasing, forget
from sidecar.control.subjects.events import counter
from sidecar.control.subjects.keeping import RECEIPTS, TOMBSTONES
from sidecar.control.subjects.reading import family
from sidecar.control.subjects.schema import (
    attributes,
    consents,
    outbox,
    reads,
    subjects,
    tickets,
    tombstones,
    uses,
)

BATCH: Final = 500  # of attributes and of visitors at a time: others want to write, too
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Ages:
    """In seconds. `visitors`: not seen for so long; `uses`: no request is tried again after that;
    `events`: after they were made, where they are delivered; `gone`: until every cache has heard
    of an erasure."""

    visitors: float = 90 * _DAY
    uses: float = 30 * _DAY
    events: float = 7 * _DAY
    reads: float = 400 * _DAY
    gone: float = 7 * _DAY


class Retention(Erasing):
    """To be called every few minutes."""

    async def expire(self, now: float, ages: Ages | None = None) -> frozenset[str]:
        """The ids of the customers that this changed. Where more than a batch is due the next call
        goes on. Raises StoreFailed."""
        ages = ages or Ages()
        changed = await self._attributes(now) | await self._visitors(now - ages.visitors)
        async with self._changing() as change:
            run = change.connection.execute
            await run(delete(uses).where(uses.c.at < now - ages.uses))
            await run(delete(reads).where(reads.c.at < now - ages.reads))
            # An hour on top: replicas' clocks differ, and no ticket is good twice.
            await run(delete(tickets).where(tickets.c.expires < now - 3600))
            delivered = await counter(change.connection, "delivered")
            old = (outbox.c.seq <= delivered) & (outbox.c.at < now - ages.events)
            await run(delete(outbox).where(old))
            gone = (tombstones.c.at < now - ages.gone) & tombstones.c.customer.is_not(None)
            await run(update(tombstones).where(gone).values(customer=None))
            c = consents.c
            served = (c.binding != "") & c.latest & (c.at < now - ages.uses) & (
                (c.state != "granted") | (c.expires < now) | (c.used >= c.max_uses)
            )  # fmt: skip
            await run(update(consents).where(served).values(latest=False))
        return changed

    async def _attributes(self, now: float) -> frozenset[str]:
        t = attributes.c
        async with self._changing() as change:
            run = change.connection.execute
            due = (
                select(t.customer, subjects.c.survivor)
                .join(subjects, subjects.c.customer == t.customer)
                .where(t.expires <= now)
                .order_by(t.expires)
                .limit(BATCH)
            )
            survivors = {row.survivor for row in await run(due)}
            locked = {row.customer: row for row in await change.lock(survivors)}
            for survivor in sorted(locked):
                own = t.customer.in_(family(survivor))
                names: set[str] = set()
                for row in (await run(select(t.name, t.at).where(own, t.expires <= now))).all():
                    # With it what it had replaced, lest that come to light again.
                    gone = own & (t.name == row.name) & (t.at <= row.at)
                    await run(
                        update(attributes)
                        .where(gone)
                        .values(value=None, source="", at=None, expires=None)
                    )
                    names.add(row.name)
                empty = own & t.value.is_(None) & t.declined.is_(None) & t.asked.is_(None)
                await run(delete(attributes).where(empty))
                if names:
                    data = {"names": sorted(names)}
                    change.event(survivor, "sidecar.profile.expired", data)
        return change.changed

    async def _visitors(self, before: float) -> frozenset[str]:
        secret, salt = await self.secret(RECEIPTS), await self.secret(TOMBSTONES)
        s = subjects.c
        due = (
            select(s.customer, s.pool)
            .where(s.anonymous, s.survivor == s.customer, s.seen < before)
            .order_by(s.seen)
            .limit(BATCH)
        )
        async with self._changing() as change:
            rows = (await change.connection.execute(due)).all()
            for pool in sorted({row.pool for row in rows}):
                await change.pool(pool)
            # Seen or logged in meanwhile: stays.
            ids = [row.customer for row in rows]
            wanted = select(s.customer).where(s.survivor.in_(ids))
            for row in await change.lock((await change.connection.execute(wanted)).scalars()):
                if row.anonymous and row.survivor == row.customer and row.seen < before:
                    await forget(change, row.customer, "retention", secret, salt)
        if change.changed:
            await self._cut_log()
        return change.changed
