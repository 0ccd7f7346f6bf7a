"""Many records at once: for sidecars that come back, and for all who follow what has changed."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from sidecar.control.subjects import reading
from sidecar.control.subjects.reads import Reads
from sidecar.control.subjects.records import Record
from sidecar.control.subjects.schema import subjects


class Batches(Reads):
    """Reading many."""

    async def records(self, customers: Iterable[str], reader: str) -> dict[str, Record]:
        """By the ids that were asked for, also those of who was merged; nobody is left out who is
        there. An empty `reader`: sidecars that were written down when they first read it. Raises
        StoreFailed."""
        wanted = list(dict.fromkeys(customers))
        found: dict[str, Record] = {}
        async with self._reading() as connection:
            rows = await connection.execute(
                select(subjects.c.customer, subjects.c.survivor).where(
                    subjects.c.customer.in_(wanted)
                )
            )
            survivors = {row.customer: row.survivor for row in rows}
            now = self._clock()
            known: dict[str, Record | None] = {}
            for customer, survivor in survivors.items():
                if survivor not in known:
                    known[survivor] = await reading.read(connection, survivor, now)
                record = known[survivor]
                if record is not None:
                    found[customer] = record
        if reader:
            for record in {id(each): each for each in found.values()}.values():
                await self._looked(record.customer, reader, "follow")
        return found
