"""What was withdrawn, and the security events that it came by, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.revocations import Numbered, Withdrawal, of_row, row
from sidecar.control.schema import events, withdrawals
from sidecar.errors import StoreFailed


class Replayed(StoreFailed):
    """An event that was received before."""


@dataclass(frozen=True, slots=True)
class Event:
    """A security event as the store remembers it, until `expires` (seconds since the epoch)."""

    id: str
    expires: int


async def remember(connection: AsyncConnection, event: Event, now: int) -> None:
    """An event that is received. Raises Replayed if it was before."""
    await connection.execute(delete(events).where(events.c.expires <= now))
    known = select(events.c.id).where(events.c.id == event.id)
    if (await connection.execute(known)).first() is not None:
        raise Replayed("this event was received before")
    await connection.execute(insert(events).values(id=event.id, expires=event.expires))


async def insert_withdrawals(
    connection: AsyncConnection, wanted: Sequence[Withdrawal], now: int
) -> list[Numbered]:
    """All of them, with the numbers that follow; what has expired is forgotten."""
    newest_query = select(func.max(withdrawals.c.number))
    newest = (await connection.execute(newest_query)).scalar_one() or 0
    # The newest row stays, lest its number be given again.
    old = (withdrawals.c.expires <= now) & (withdrawals.c.number < newest)
    await connection.execute(delete(withdrawals).where(old))
    numbered = [Numbered(newest + place, now, each) for place, each in enumerate(wanted, 1)]
    if numbered:
        await connection.execute(insert(withdrawals), [row(each) for each in numbered])
    return numbered


async def read_withdrawals(connection: AsyncConnection, after: int) -> list[Numbered]:
    """Those with numbers above `after`, in order."""
    wanted = select(withdrawals).where(withdrawals.c.number > after)
    rows = await connection.execute(wanted.order_by(withdrawals.c.number))
    return [of_row(each) for each in rows]
