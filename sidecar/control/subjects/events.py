"""What happened, for other systems and other replicas: the outbox, and who changed since when.

Events are written in the transaction that makes them, in the order of the commits: nobody who reads
on after the last number misses one. They name no values; who may see those looks at the record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.subjects.records import NotStored, to_json
from sidecar.control.subjects.schema import counters, outbox, subjects, tombstones
from sidecar.control.subjects.transactions import Transactions

LARGEST: Final = 16_384  # bytes of the data that `report` takes
MOST: Final = 10_000  # events or customers of one answer
_TYPE: Final = re.compile(r"sidecar(\.[a-z][a-z-]*){1,5}")


@dataclass(frozen=True, slots=True)
class Event:
    """`seq` grows in the order of the commits; `time` is in seconds since the epoch."""

    seq: int
    id: str
    customer: str
    type: str
    time: float
    data: Mapping[str, Any]


class Events(Transactions):
    """The outbox, and what changed. All raise StoreFailed."""

    async def events(self, after: int, limit: int = 500) -> list[Event]:
        """In order, those with greater numbers."""
        o = outbox.c
        wanted = select(outbox).where(o.seq > after).order_by(o.seq).limit(min(limit, MOST))
        async with self._reading() as connection:
            return [
                Event(row.seq, row.id, row.customer, row.type, row.at, json.loads(row.data))
                for row in await connection.execute(wanted)
            ]

    async def delivered(self, upto: int) -> None:
        """Others hold all up to this number; `expire` may forget them."""
        c = counters.c
        async with self._changing() as change:
            await change.connection.execute(
                update(counters).where(c.name == "delivered", c.value < upto).values(value=upto)
            )

    async def undelivered_after(self) -> int:
        """The number to go on after: what was said to `delivered` last."""
        async with self._reading() as connection:
            return await counter(connection, "delivered")

    async def report(self, customer: str, type_: str, data: Mapping[str, Any]) -> None:
        """An event of somebody else's making: a challenge, a refusal. It changes no record.
        Raises NotStored, NoCustomer."""
        text = to_json(dict(data))
        if not _TYPE.fullmatch(type_) or len(type_) > 128:
            raise NotStored("type: a name like sidecar.challenge.issued is expected")
        if len(text) > LARGEST:
            raise NotStored(f"data: longer than {LARGEST} bytes")
        async with self._changing() as change:
            row = await change.survivor(customer)
            change.event(row.customer, type_, data, changes=False)

    async def changes_since(
        self, marker: int | None, limit: int = MOST
    ) -> tuple[frozenset[str], int]:
        """Who changed after the marker, at least so many where there are, erased ones among them;
        and the marker to go on with. None: nobody, and the marker of now."""
        async with self._reading() as connection:
            newest = await counter(connection, "changes")
            if marker is None:
                return frozenset(), newest
            tables = (subjects, tombstones)
            rows: list[tuple[int, str]] = []
            for table in tables:
                wanted = (
                    select(table.c.changed, table.c.customer)
                    .where(table.c.changed > marker, table.c.customer.is_not(None))
                    .order_by(table.c.changed)
                    .limit(limit)
                )
                rows += [(row.changed, row.customer) for row in await connection.execute(wanted)]
            rows.sort()
            if len(rows) < limit:
                return frozenset(customer for _, customer in rows), max(newest, marker)
            last = rows[limit - 1][0]
            found = {customer for number, customer in rows if number <= last}
            for table in tables:  # one change is of several customers
                same = select(table.c.customer).where(
                    table.c.changed == last, table.c.customer.is_not(None)
                )
                found.update((await connection.execute(same)).scalars())
            return frozenset(found), last


async def counter(connection: AsyncConnection, name: str) -> int:
    """Its value."""
    wanted = select(counters.c.value).where(counters.c.name == name)
    return int((await connection.execute(wanted)).scalar_one())
