"""Why a customer is who they are, and taking it back.

Undoing a merge gives back what came with the other one: their rows never left them. What happened
in between stays with the survivor. What was separated by hand is not joined again (`linking`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import delete, insert, select, update

from sidecar.control.subjects.linking import Step
from sidecar.control.subjects.reading import family, family_of
from sidecar.control.subjects.records import SUBJECT, Identifier, Link, NotStored, to_json, words
from sidecar.control.subjects.resolving import note
from sidecar.control.subjects.schema import apart, consents, identifiers, links, subjects
from sidecar.control.subjects.transactions import Change, Transactions

_NOBODY: Final = Identifier("", "", "")


class Undoing(Transactions):
    """Links, and their undoing."""

    async def links(self, customer: str) -> list[Link]:
        """In order, with those of everybody who was merged into this customer."""
        wanted = (
            select(links)
            .where(links.c.customer.in_(family_of(customer)))
            .order_by(links.c.at, links.c.number)
        )
        async with self._reading() as connection:
            return [link_of(row) for row in await connection.execute(wanted)]

    async def undo(self, link: str, by: str) -> Link:
        """Detaches an identifier, or splits what was merged: the link that says so. Raises
        NotStored where there is nothing to take back, StoreFailed."""
        words("by", by, 512)
        async with self._changing() as change:
            run = change.connection.execute
            about = (
                select(links, subjects.c.pool)
                .join(subjects, subjects.c.customer == links.c.customer)
                .where(links.c.id == link)
            )
            row = (await run(about)).first()
            if row is None:
                raise NotStored("there is no such link")
            await change.pool(row.pool)
            row = (await run(about)).first()
            if row is None or row.undone or row.kind not in ("attached", "merged"):
                raise NotStored(
                    "only what was attached or merged, and not undone yet, can be undone"
                )
            survivor = (await change.survivor(row.customer)).customer
            if row.kind == "merged":
                await _split(change, survivor, row)
            else:
                await _detach(change, survivor, row)
            await run(update(links).where(links.c.id == link).values(undone=True))
            step = Step("kept-apart", link_of(row).identifier or _NOBODY, row.other or "",
                        f"undone by hand: {row.why}")  # fmt: skip
            number = await change.number()
            await note(change, row.customer, number, step, row.key, by, {}, kind="undone")
            data = {"type": row.type, "other": row.other}
            change.event(survivor, "sidecar.subject.separated", data)
            made = select(links).where(links.c.customer == row.customer, links.c.number == number)
            return link_of((await run(made)).one())


async def _detach(change: Change, survivor: str, row: Any) -> None:
    gone = await change.connection.execute(
        delete(identifiers)
        .where(identifiers.c.key == row.key, identifiers.c.holder == survivor)
        .returning(identifiers.c.customer)
    )
    if gone.first() is None:
        raise NotStored("the customer does not have this identifier any more")
    await _separate(change, survivor, [row.key])
    await _logged_in(change, survivor)


async def _split(change: Change, survivor: str, row: Any) -> None:
    run = change.connection.execute
    other = row.other
    s = subjects.c
    rows = {each.customer: each for each in await run(
        select(subjects).where(s.survivor == survivor)
    )}  # fmt: skip
    if other not in rows or rows[other].merged_into != row.customer:
        raise NotStored("they are not one customer by this link any more")
    await change.lock(rows)
    members = {other}
    while more := {each for each in rows if rows[each].merged_into in members} - members:
        members |= more
    await run(update(subjects).where(s.customer.in_(sorted(members))).values(survivor=other))
    await run(
        update(subjects)
        .where(s.customer == other)
        .values(merged_into=None, version=max(rows[other].version, rows[survivor].version))
    )
    i = identifiers.c
    await run(update(identifiers).where(i.customer.in_(sorted(members))).values(holder=other))
    for one, two in ((row.customer, other), (other, survivor)):
        keys = (await run(select(i.key).where(i.holder == two))).scalars().all()
        await _separate(change, one, keys)
    moved = json.loads(row.moved)
    segments = set(json.loads(rows[survivor].segments)) - set(moved["segments"])
    await run(
        update(subjects).where(s.customer == survivor).values(segments=to_json(sorted(segments)))
    )
    for each in (survivor, other):
        await _in_force_again(change, each, moved["superseded"])
        await _logged_in(change, each)
    change.event(other, "sidecar.subject.separated", {"type": row.type, "other": survivor})


async def _separate(change: Change, customer: str, keys: Iterable[bytes]) -> None:
    """None of these identifiers joins the customer again."""
    a = apart.c
    known = set(
        (
            await change.connection.execute(
                select(a.key).where(a.customer == customer, a.other == "")
            )
        ).scalars()
    )
    new = [{"customer": customer, "key": key, "other": ""} for key in set(keys) - known]
    if new:
        await change.connection.execute(insert(apart), new)


async def _in_force_again(change: Change, customer: str, superseded: list[str]) -> None:
    """Of the decisions that only the merge had put out of force, those of this customer."""
    c = consents.c
    rows = (
        await change.connection.execute(
            select(c.id, c.purpose, c.binding, c.number, c.latest)
            .where(c.customer.in_(family(customer)), c.latest | c.id.in_(superseded))
            .order_by(c.number.desc())
        )
    ).all()
    decided: set[tuple[str, str]] = set()
    for row in rows:
        about = row.purpose, row.binding
        if not row.latest and about not in decided:
            await change.connection.execute(
                update(consents).where(c.id == row.id).values(latest=True)
            )
        decided.add(about)


async def _logged_in(change: Change, customer: str) -> None:
    """Whether somebody is more than a visitor hangs on what is left of their identifiers."""
    i = identifiers.c
    wanted = select(i.key).where(i.holder == customer, i.type == SUBJECT).limit(1)
    anonymous = (await change.connection.execute(wanted)).first() is None
    await change.connection.execute(
        update(subjects).where(subjects.c.customer == customer).values(anonymous=anonymous)
    )


def link_of(row: Any) -> Link:
    """From what the store kept."""
    identifier = Identifier(row.type, row.issuer, row.value) if row.type else None
    return Link(
        row.id, row.customer, row.at, row.kind, identifier, row.other, row.why, row.by, row.undone
    )
