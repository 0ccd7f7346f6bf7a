"""Transactions over the tables of customers: reads that wait for nobody, and changes.

A change takes its numbers from one counter, whose row is locked until the commit: events come in
the order of their commits, and who asks what changed after a number misses nothing. So locks are
taken in one order, everywhere: the pool, then customers by their ids, then the counter.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from sidecar.control import database
from sidecar.control.subjects.records import NotStored, new_id, to_json
from sidecar.control.subjects.schema import counters, outbox, subjects
from sidecar.errors import StoreFailed

SUBJECTS: Final = "subjects"  # as `control.announcements` knows it
"""What announcements of changes to customers are about."""
_TURNS: Final = 16  # customers may be merged while one waits for the lock


class NoCustomer(NotStored):
    """There is nobody with this id, or not any more."""


class Change:
    """A transaction that changes customers."""

    def __init__(self, connection: AsyncConnection, now: float) -> None:
        self.connection: Final = connection
        self.now: Final = now
        self.customers: dict[str, None] = {}
        self.changed: frozenset[str] = frozenset()
        """Whom `finish` wrote down."""
        self._events: list[dict[str, Any]] = []

    async def pool(self, pool: str) -> None:
        """Until the end nobody else links in this pool."""
        if self.connection.dialect.name == "postgresql":
            digest = hashlib.sha256(b"sidecar pool\n" + pool.encode()).digest()
            number = int.from_bytes(digest[:8], "big", signed=True)
            await self.connection.execute(select(func.pg_advisory_xact_lock(number)))

    async def lock(self, customers: Iterable[str]) -> list[Any]:
        """The rows of these, by id. Nobody else changes them until the end."""
        wanted = (
            select(subjects)
            .where(subjects.c.customer.in_(sorted(set(customers))))
            .order_by(subjects.c.customer)
            .with_for_update()
        )
        return list(await self.connection.execute(wanted))

    async def survivor(self, customer: str) -> Any:
        """The locked row of who this customer is now. Raises NoCustomer."""
        for _ in range(_TURNS):
            found = (
                await self.connection.execute(
                    select(subjects.c.survivor).where(subjects.c.customer == customer)
                )
            ).scalar_one_or_none()
            rows = [] if found is None else await self.lock([found])
            if not rows:
                raise NoCustomer("there is no such customer")
            if rows[0].survivor == found:
                return rows[0]
            customer = rows[0].survivor
        raise StoreFailed("this customer changes too fast")

    async def number(self, count: int = 1) -> int:
        """The first of so many new numbers. Everybody else waits for them: call it late."""
        last: int = (
            await self.connection.execute(
                update(counters)
                .where(counters.c.name == "changes")
                .values(value=counters.c.value + count)
                .returning(counters.c.value)
            )
        ).scalar_one()
        return last - count + 1

    def touch(self, customer: str) -> None:
        """Its version counts up, and other replicas hear of it."""
        self.customers[customer] = None

    def event(
        self,
        customer: str,
        type_: str,
        data: Mapping[str, Any],
        *,
        changes: bool = True,
        id_: str = "",
    ) -> None:
        """For the outbox. `data` names no values: who may see them looks at the record. `id_` is
        that of an event which may be said again."""
        if changes:
            self.touch(customer)
        self._events.append(
            {"id": id_ or new_id("evt"), "customer": customer, "type": type_, "at": self.now,
             "data": to_json(data)}
        )  # fmt: skip

    async def finish(self) -> int:
        """Writes down what was said to `touch` and `event`; the last number. Then only reads."""
        if not self.customers and not self._events:
            return 0
        first = await self.number(max(1, len(self._events)))
        last = first + max(1, len(self._events)) - 1
        if self._events:
            rows = [{"seq": first + place, **each} for place, each in enumerate(self._events)]
            await self.connection.execute(insert(outbox), rows)
        await self.connection.execute(
            update(subjects)
            .where(subjects.c.customer.in_(sorted(self.customers)))
            .values(version=subjects.c.version + 1, changed=last)
        )
        await database.announce(self.connection, SUBJECTS)
        self.changed |= frozenset(self.customers)
        self.customers, self._events = {}, []
        return last


class Transactions:
    """An engine that a Store opened; what is kept of customers in it comes and goes through this.

    `changed`, once set, is called after each commit with the ids of the customers that it changed.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float]) -> None:
        self.changed: Callable[[frozenset[str]], None] | None = None
        self._engine = engine
        self._reader = engine.execution_options(**{database.READS: True})
        self._clock = clock
        # SQLite has one writer: waiting here is orderly, waiting there is a loop that sleeps.
        self._writer = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._reader.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise _failed(error) from error

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[Change]:
        """Durable at the end, or undone as a whole."""
        try:
            async with AsyncExitStack() as stack:
                if self._writer is not None:
                    await stack.enter_async_context(self._writer)
                connection = await stack.enter_async_context(self._engine.begin())
                change = Change(connection, self._clock())
                yield change
                await change.finish()
        except (SQLAlchemyError, OSError) as error:
            raise _failed(error) from error
        if self.changed is not None and change.changed:
            self.changed(change.changed)


def _failed(error: Exception) -> StoreFailed:
    """Without the statement's parameters, which are personal data."""
    cause = getattr(error, "orig", None) or error
    # Of SQLite one type says "full", "locked" and "broken".
    kind = getattr(cause, "sqlite_errorname", "") or type(cause).__name__
    return StoreFailed(f"the store of customers failed: {kind}")
