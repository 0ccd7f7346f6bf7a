"""What is known of a customer: attributes, what they declined, segments, risk.

A claim that comes along with a credential fills what is missing and renews what it filled; what the
customer said, or another source, it does not touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import and_, func, insert, select, update

from sidecar.control.subjects import reading
from sidecar.control.subjects.records import (
    MOST_ATTRIBUTES,
    Attribute,
    NotStored,
    Offered,
    Record,
    Risk,
    check_attributes,
    many,
    to_json,
    words,
)
from sidecar.control.subjects.schema import attributes, subjects
from sidecar.control.subjects.transactions import Change, Transactions

MOST_KEPT: Final = 4 * MOST_ATTRIBUTES  # of one customer
MOST_SEGMENTS: Final = 256


class Profiles(Transactions):
    """Changes of what is known of a customer. All raise NotStored, NoCustomer, StoreFailed."""

    async def set_attributes(self, customer: str, values: Mapping[str, Offered]) -> None:
        """Whatever was known by these names is replaced, and is not declined any more."""
        check_attributes(values)
        async with self._changing() as change:
            row = await change.survivor(customer)
            if values:
                await write(change, row.customer, values)

    async def decline(self, customer: str, names: Iterable[str]) -> None:
        """The customer would rather not say; to be left alone about it."""
        await self._mark(customer, names, "declined")

    async def asked(self, customer: str, names: Iterable[str]) -> None:
        """The customer has just been asked for these."""
        await self._mark(customer, names, "asked")

    async def set_segments(self, customer: str, segments: Iterable[str]) -> None:
        """These and no others."""
        text = to_json(many("segments", segments, MOST_SEGMENTS))
        async with self._changing() as change:
            row = await change.survivor(customer)
            if row.segments == text:
                return
            await _update(change, row.customer, segments=text)
            change.event(row.customer, "sidecar.profile.segments", {})

    async def raise_risk(self, customer: str, points: float, half_life: float, signal: str) -> Risk:
        """Adds points to what is left of those before. `signal` says for what; half-life in
        seconds, of all points from now on."""
        words("signal", signal, 256)
        async with self._changing() as change:
            row = await change.survivor(customer)
            before = Risk(row.risk_points, row.risk_at, row.risk_half_life)
            risk = before.raised(points, half_life, change.now)
            await _update(
                change, row.customer,
                risk_points=risk.points, risk_at=risk.at, risk_half_life=risk.half_life,
            )  # fmt: skip
            data = {"signal": signal, "points": points, "risk": round(risk.points, 3)}
            change.event(row.customer, "sidecar.risk.raised", data)
            return risk

    async def _mark(self, customer: str, names: Iterable[str], column: str) -> None:
        async with self._changing() as change:
            row = await change.survivor(customer)
            await mark(change, row.customer, names, column)


def offered(values: Mapping[str, Offered], record: Record, now: float) -> dict[str, Offered]:
    """Which of the values that come along with a credential would change the record."""
    known = {each.name: each for each in record.attributes}
    wanted: dict[str, Offered] = {}
    for name, each in values.items():
        if each.expires is not None and each.expires <= now:
            continue
        held = known.get(name)
        if held is None or (held.source == each.source and _differs(held, each, now)):
            wanted[name] = each
    return wanted


def _differs(held: Attribute, new: Offered, now: float) -> bool:
    """Time is renewed once half of it is over, lest every request write."""
    if to_json(held.value) != to_json(new.value):
        return True
    if held.expires is None or new.expires is None:
        return held.expires != new.expires
    return new.expires < held.expires or held.expires - now < (new.expires - now) / 2


async def write(change: Change, customer: str, values: Mapping[str, Offered]) -> None:
    """The customer's row is locked."""
    rows = {
        name: {"value": to_json(each.value), "source": each.source, "at": change.now,
               "expires": each.expires, "declined": None}
        for name, each in values.items()
    }  # fmt: skip
    await _upsert(change, customer, rows)
    sources = {name: each.source for name, each in sorted(values.items())}
    change.event(customer, "sidecar.profile.set", {"sources": sources})


async def mark(change: Change, customer: str, names: Iterable[str], column: str) -> None:
    """`declined` or `asked`, now. The customer's row is locked. Raises NotStored."""
    wanted = many("names", names, MOST_ATTRIBUTES)
    if wanted:
        await _upsert(change, customer, {name: {column: change.now} for name in wanted})
        change.event(customer, f"sidecar.profile.{column}", {"names": wanted})


async def _upsert(change: Change, customer: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    t = attributes.c
    own = set(
        (
            await change.connection.execute(
                select(t.name).where(and_(t.customer == customer, t.name.in_(list(rows))))
            )
        ).scalars()
    )
    new = [name for name in rows if name not in own]
    if new:
        kept = select(func.count()).where(t.customer.in_(reading.family(customer)))
        if (await change.connection.execute(kept)).scalar_one() + len(new) > MOST_KEPT:
            raise NotStored(f"a customer has at most {MOST_KEPT} attributes")
    blank = {"value": None, "source": "", "at": None, "expires": None, "declined": None,
             "asked": None}  # fmt: skip
    for name, row in rows.items():
        if name in own:
            where = and_(t.customer == customer, t.name == name)
            await change.connection.execute(update(attributes).where(where).values(**row))
    if new:
        await change.connection.execute(
            insert(attributes),
            [{"customer": customer, "name": name, **blank, **rows[name]} for name in new],
        )


async def _update(change: Change, customer: str, **values: Any) -> None:
    await change.connection.execute(
        update(subjects).where(subjects.c.customer == customer).values(**values)
    )
