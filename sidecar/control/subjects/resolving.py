"""From a verified caller to the customer's record; on the way, what is new of them is written.

A caller of whom all is known costs two queries and no lock. Else the same questions are asked again
where nobody else links in this pool, and what `linking` says is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.subjects import reading
from sidecar.control.subjects.linking import Plan, Step, link
from sidecar.control.subjects.profiles import offered, write
from sidecar.control.subjects.reads import Reads
from sidecar.control.subjects.records import (
    Identifier,
    Introduction,
    Record,
    Risk,
    check,
    new_id,
    to_json,
)
from sidecar.control.subjects.schema import (
    apart,
    consents,
    identifiers,
    links,
    remembered,
    subjects,
)
from sidecar.control.subjects.transactions import Change, NoCustomer
from sidecar.errors import StoreFailed

MOST_DEVICES: Final = 64  # remembered identifiers of one customer; the oldest are let go


class Resolving(Reads):
    """Who callers are."""

    async def resolve(self, introduction: Introduction, reader: str) -> Record:
        """The customer, linked or made where that is needed. Raises NotStored, StoreFailed."""
        check(introduction)
        record = await self._known(introduction)
        if record is None:
            record = await self._link(introduction)
        await self._looked(record.customer, reader, "resolve")
        return record

    async def find(self, pool: str, identifier: Identifier) -> str | None:
        """The id of who has it."""
        async with self._reading() as connection:
            return (await reading.found(connection, pool, [identifier])).get(identifier)

    async def survivor(self, customer: str) -> str | None:
        """Who this customer is now: an id of one who was merged is good for ever."""
        async with self._reading() as connection:
            wanted = select(subjects.c.survivor).where(subjects.c.customer == customer)
            return (await connection.execute(wanted)).scalar_one_or_none()

    async def record(self, customer: str, reader: str, why: str) -> Record | None:
        """By id, also by that of one who was merged. That it was read is durable on return."""
        async with self._changing() as change:
            try:
                survivor = (await change.survivor(customer)).customer
            except NoCustomer:
                return None
            await self._read_by(change, survivor, reader, why)
            return await reading.read(change.connection, survivor, change.now)

    async def _known(self, introduction: Introduction) -> Record | None:
        """None: something may be new."""
        wanted = introduction.joining
        async with self._reading() as connection:
            found = await reading.found(connection, introduction.pool, wanted)
            customer = found.get(introduction.primary)
            if customer is None:
                return None
            plain = len(found) == len(wanted) and len(set(found.values())) == 1
            if not plain and (await _plan(connection, introduction, found)).steps:
                return None
            now = self._clock()
            record = await reading.read(connection, customer, now)
            if record is None or _news(introduction, record, now):
                return None
            return record

    async def _link(self, introduction: Introduction) -> Record:
        async with self._changing() as change:
            await change.pool(introduction.pool)
            found = await reading.found(change.connection, introduction.pool, introduction.joining)
            plan = await _plan(change.connection, introduction, found)
            customer = await _carry_out(change, introduction, plan)
            before = await reading.read(change.connection, customer, change.now)
            if before is None:
                raise StoreFailed("a customer went away under its lock")
            values = offered(introduction.attributes, before, change.now)
            if values:
                await write(change, customer, values)
            novel = await _remember(change, introduction, customer, before)
            await change.finish()
            record = await reading.read(change.connection, customer, change.now)
            if record is None:
                raise StoreFailed("a customer went away under its lock")
            return replace(record, novel=novel)


async def _plan(
    connection: AsyncConnection, introduction: Introduction, found: Mapping[Identifier, str]
) -> Plan:
    who = await reading.holders(connection, introduction.pool, found.values(), introduction.joining)
    return link(introduction, {each: id_ for each, id_ in found.items() if id_ in who}, who)


def _news(introduction: Introduction, record: Record, now: float) -> bool:
    """Whether more than the way to this customer would be written."""
    return bool(
        offered(introduction.attributes, record, now)
        or not set(introduction.remembered).issubset(record.remembered)
        or (record.anonymous and not introduction.anonymous)
    )


async def _carry_out(change: Change, introduction: Introduction, plan: Plan) -> str:
    """The customer's id."""
    customer = plan.customer
    if customer is None:
        customer = new_id("cus")
        await change.connection.execute(
            insert(subjects).values(
                customer=customer, pool=introduction.pool, survivor=customer, merged_into=None,
                version=0, changed=0, created=change.now, seen=change.now,
                anonymous=introduction.anonymous, segments="[]",
                risk_points=0.0, risk_at=change.now, risk_half_life=Risk().half_life,
            )
        )  # fmt: skip
    else:
        await change.lock([customer, *(each.other for each in plan.steps if each.other)])
        if not introduction.anonymous:
            await change.connection.execute(
                update(subjects).where(subjects.c.customer == customer).values(anonymous=False)
            )
    if not plan.steps:
        return customer
    first = await change.number(len(plan.steps))
    for place, step in enumerate(plan.steps):
        moved: Mapping[str, Any] = {}
        key = step.identifier.key(introduction.pool)
        if step.kind in ("created", "attached"):
            await _hold(change, customer, key, step.identifier)
            type_, data = "linked", {"kind": step.kind, "type": step.identifier.type}
        elif step.kind == "merged":
            moved = await _merge(change, customer, step.other)
            type_, data = "merged", {"type": step.identifier.type, "other": step.other}
        else:
            await change.connection.execute(
                insert(apart).values(customer=customer, key=key, other=step.other)
            )
            type_, data = "kept-apart", {"type": step.identifier.type, "kind": step.kind}
        change.event(customer, f"sidecar.subject.{type_}", data)
        await note(change, customer, first + place, step, key, "sidecar", moved)
    return customer


async def _hold(change: Change, customer: str, key: bytes, identifier: Identifier) -> None:
    await change.connection.execute(
        insert(identifiers).values(
            key=key, customer=customer, holder=customer, sole=identifier.sole, at=change.now,
            **identifier._asdict(),
        )
    )  # fmt: skip


async def note(
    change: Change,
    customer: str,
    number: int,
    step: Step,
    key: bytes | None,
    by: str,
    moved: Mapping[str, Any],
    *,
    kind: str = "",
) -> None:
    """Writes a link down. `moved` is what `undo` takes back besides rows."""
    await change.connection.execute(
        insert(links).values(
            id=new_id("lnk"), customer=customer, number=number, at=change.now,
            kind=kind or step.kind, key=key, other=step.other or None, why=step.why, by=by,
            undone=False, moved=to_json(moved), **step.identifier._asdict(),
        )
    )  # fmt: skip


async def _merge(change: Change, winner: str, loser: str) -> Mapping[str, Any]:
    """Rows stay whose they are; from now on they are read as the winner's."""
    run = change.connection.execute
    rows = {row.customer: row for row in await change.lock([winner, loser])}
    one, other = rows[winner], rows[loser]
    await run(update(subjects).where(subjects.c.survivor == loser).values(survivor=winner))
    await run(update(subjects).where(subjects.c.customer == loser).values(merged_into=winner))
    await run(update(identifiers).where(identifiers.c.holder == loser).values(holder=winner))
    segments = set(json.loads(one.segments))
    added = set(json.loads(other.segments)) - segments
    risks = [Risk(each.risk_points, each.risk_at, each.risk_half_life) for each in (one, other)]
    risk = max(risks, key=lambda each: each.points_at(change.now))
    await run(
        update(subjects)
        .where(subjects.c.customer == winner)
        .values(
            version=max(one.version, other.version), segments=to_json(sorted(segments | added)),
            risk_points=risk.points, risk_at=risk.at, risk_half_life=risk.half_life,
            anonymous=one.anonymous and other.anonymous,
        )
    )  # fmt: skip
    change.touch(loser)
    return {"segments": sorted(added), "superseded": await _supersede(change, winner)}


async def _supersede(change: Change, winner: str) -> list[str]:
    """Of two decisions about the same the later one is in force: the ids of the earlier."""
    c = consents.c
    rows = await change.connection.execute(
        select(c.id, c.purpose, c.binding)
        .where(c.customer.in_(reading.family(winner)), c.latest)
        .order_by(c.number.desc())
    )
    seen: set[tuple[str, str]] = set()
    earlier: list[str] = []
    for row in rows:
        if (row.purpose, row.binding) in seen:
            earlier.append(row.id)
        seen.add((row.purpose, row.binding))
    for id_ in earlier:
        await change.connection.execute(update(consents).where(c.id == id_).values(latest=False))
    return earlier


async def _remember(
    change: Change, introduction: Introduction, customer: str, before: Record
) -> frozenset[str]:
    """The types of those that a customer who was known before brings for the first time."""
    new = [each for each in dict.fromkeys(introduction.remembered) if each not in before.remembered]
    if not new:
        return frozenset()
    r = remembered.c
    rows = (
        await change.connection.execute(
            select(r.customer, r.key)
            .where(r.customer.in_(reading.family(customer)))
            .order_by(r.at.desc())
            .offset(MOST_DEVICES - len(new))
        )
    ).all()
    for row in rows:
        gone = (r.customer == row.customer) & (r.key == row.key)
        await change.connection.execute(delete(remembered).where(gone))
    await change.connection.execute(
        insert(remembered),
        [
            {"customer": customer, "key": each.key(introduction.pool), "at": change.now,
             **each._asdict()}
            for each in new
        ],
    )  # fmt: skip
    types = frozenset(each.type for each in new)
    novel = types if before.version > 0 else frozenset()
    change.event(customer, "sidecar.subject.remembered",
                 {"types": sorted(types), "new": bool(novel)})  # fmt: skip
    return novel
