"""Who looked at whom. What sidecars resolve is collected and written in batches, for it is much;
everything else is written in the transaction that reads.

A process that dies takes what it had not written with it: a batch, of the last seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import bindparam, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from sidecar.control.subjects.records import new_id
from sidecar.control.subjects.schema import reads, subjects
from sidecar.control.subjects.transactions import Change, Transactions

MOST_WAITING: Final = 10_000  # that nobody has written yet; who reads one more writes them
SEEN_EVERY: Final = 3600.0  # seconds: a customer is not written to at each request
LONGEST_WORDS: Final = 512  # characters of a reader or a reason that are kept


class Reads(Transactions):
    """The record of reading."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float]) -> None:
        super().__init__(engine, clock)
        self._waiting: dict[tuple[str, str, str], list[float]] = {}

    @property
    def unwritten(self) -> int:
        """Rows that the next `flush_reads` will write."""
        return len(self._waiting)

    async def flush_reads(self) -> int:
        """Writes what was collected: how many rows. On StoreFailed they are kept for the next."""
        taken, self._waiting = self._waiting, {}
        if not taken:
            return 0
        try:
            async with self._changing() as change:
                # Locked: of somebody who is erased meanwhile nothing comes back.
                there = {row.customer for row in await change.lock(each[0] for each in taken)}
                rows = [
                    _row(customer, at, reader, why, count)
                    for (customer, reader, why), (at, count) in taken.items()
                    if customer in there
                ]
                if rows:
                    await change.connection.execute(insert(reads), rows)
                    await self._seen(change, taken)
        except BaseException:
            for key, (at, count) in taken.items():
                self._count(key, at, count)
            raise
        return len(rows)

    async def _seen(self, change: Change, taken: dict[tuple[str, str, str], list[float]]) -> None:
        last: dict[str, float] = {}
        for (customer, _, _), (at, _) in taken.items():
            last[customer] = max(at, last.get(customer, at))
        await change.connection.execute(
            update(subjects)
            .where(
                subjects.c.customer == bindparam("who"),
                subjects.c.seen < bindparam("at") - SEEN_EVERY,
            )
            .values(seen=bindparam("at")),
            [{"who": customer, "at": at} for customer, at in sorted(last.items())],
        )

    async def _looked(self, customer: str, reader: str, why: str) -> None:
        """Raises StoreFailed where no more can be collected and none can be written."""
        self._count((customer, reader[:LONGEST_WORDS], why[:LONGEST_WORDS]), self._clock(), 1)
        if len(self._waiting) >= MOST_WAITING:
            await self.flush_reads()

    def _count(self, key: tuple[str, str, str], at: float, count: float) -> None:
        held = self._waiting.get(key)
        if held is None:
            self._waiting[key] = [at, count]
        else:
            held[0] = max(held[0], at)
            held[1] += count

    async def _read_by(self, change: Change, customer: str, reader: str, why: str) -> None:
        row = _row(customer, change.now, reader, why, 1)
        await change.connection.execute(insert(reads), [row])


def _row(customer: str, at: float, reader: str, why: str, count: float) -> dict[str, Any]:
    return {
        "id": new_id("red"), "customer": customer, "at": at, "reader": reader[:LONGEST_WORDS],
        "why": why[:LONGEST_WORDS], "count": int(count),
    }  # fmt: skip
