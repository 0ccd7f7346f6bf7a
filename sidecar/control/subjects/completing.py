"""What customers answer, and how far each challenge came.

An answer is one transaction: the ticket is used up, and all that it says is kept, or neither. A
challenge that was issued is remembered until it was answered, or its time is over: then it was
abandoned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import delete, insert, select, update

from sidecar.control.subjects import profiles
from sidecar.control.subjects.consents import Consents, Decision, decide
from sidecar.control.subjects.events import LARGEST
from sidecar.control.subjects.keeping import RECEIPTS
from sidecar.control.subjects.reading import family
from sidecar.control.subjects.records import Offered, check_attributes, to_json
from sidecar.control.subjects.schema import attributes, challenges, subjects, tickets
from sidecar.control.subjects.transactions import Change

BATCH: Final = 1_000


@dataclass(frozen=True, slots=True)
class Answered:
    """All that a customer said to one ticket. `kind` is the challenge's."""

    ticket: str
    expires: float
    kind: str
    decisions: Sequence[Decision] = ()
    values: Mapping[str, Offered] = field(default_factory=dict)
    declined: Iterable[str] = ()


@dataclass(frozen=True, slots=True)
class Reported:
    """What a sidecar says became of a customer's request. A challenge with a `ticket` in its `data`
    is remembered until it is answered or over. `id` is the same when it is said again."""

    id: str
    customer: str
    type: str
    data: Mapping[str, Any]


class Completing(Consents):
    """Challenges and their answers. All raise NotStored, NoCustomer, StoreFailed."""

    async def redeemed(self, ticket: str) -> bool:
        """Whether it was used up."""
        async with self._reading() as connection:
            wanted = select(tickets.c.jti).where(tickets.c.jti == _digest(ticket))
            return (await connection.execute(wanted)).first() is not None

    async def complete(self, customer: str, answered: Answered) -> bool:
        """False, and nothing kept: the ticket was used up before, or its time is over."""
        check_attributes(answered.values)
        secret = await self.secret(RECEIPTS)
        async with self._changing() as change:
            if answered.expires <= change.now:
                return False
            row = await change.survivor(customer)  # its lock: nobody else answers meanwhile
            digest = _digest(answered.ticket)
            known = select(tickets.c.jti).where(tickets.c.jti == digest)
            if (await change.connection.execute(known)).first() is not None:
                return False
            await change.connection.execute(
                insert(tickets).values(jti=digest, expires=answered.expires)
            )
            for decision in answered.decisions:
                await decide(change, row.customer, decision, secret)
            if answered.values:
                await profiles.write(change, row.customer, answered.values)
            if answered.declined:
                await profiles.mark(change, row.customer, answered.declined, "declined")
            await change.connection.execute(delete(challenges).where(challenges.c.ticket == digest))
            refused = any(each.state != "granted" for each in answered.decisions)
            data = {"kind": answered.kind, "ticket": answered.ticket, "refused": refused}
            change.event(row.customer, "sidecar.challenge.completed", data)
            return True

    async def report_all(self, reported: Sequence[Reported]) -> None:
        """In one transaction, in order; of whom nobody knows (any more), nothing is kept, and a
        ticket that is said again changes nothing. Raises StoreFailed alone."""
        async with self._changing() as change:
            run = change.connection.execute
            named = {each.customer for each in reported}
            rows = await run(
                select(subjects.c.customer, subjects.c.survivor).where(
                    subjects.c.customer.in_(sorted(named))
                )
            )
            survivors = {row.customer: row.survivor for row in rows}
            there = {row.customer for row in await change.lock(survivors.values())}
            for each in reported:
                customer = survivors.get(each.customer, "")
                if customer in there and await _new(change, customer, each):
                    change.event(customer, each.type, each.data, changes=False, id_=each.id)

    async def abandoned(self) -> list[str]:
        """The kinds of the challenges whose time is over since it was last asked, one for each."""
        c = challenges.c
        async with self._changing() as change:
            wanted = (
                select(challenges).where(c.expires <= change.now).order_by(c.expires).limit(BATCH)
            )
            rows = list(await change.connection.execute(wanted.with_for_update(skip_locked=True)))
            for row in rows:
                change.event(
                    row.customer, "sidecar.challenge.abandoned",
                    {"kind": row.kind, "ticket": row.id}, changes=False,
                )  # fmt: skip
            await change.connection.execute(
                delete(challenges).where(c.ticket.in_([row.ticket for row in rows]))
            )
            return [row.kind for row in rows]

    async def forget_attribute(self, customer: str, name: str) -> None:
        """Delete what is known by this name, of all who were merged into the customer as well; of
        what is not known, nothing changes."""
        t = attributes.c
        async with self._changing() as change:
            row = await change.survivor(customer)
            done = await change.connection.execute(
                update(attributes)
                .where(t.customer.in_(family(row.customer)), t.name == name, t.value.is_not(None))
                .values(value=None, source="", at=None, expires=None)
            )
            if done.rowcount:
                change.event(row.customer, "sidecar.profile.deleted", {"names": [name]})


async def _new(change: Change, customer: str, reported: Reported) -> bool:
    """Whether it is to be kept; the ticket of a challenge is remembered."""
    if len(to_json(dict(reported.data))) > LARGEST:
        return False
    ticket, kind = reported.data.get("ticket"), reported.data.get("kind")
    expires = reported.data.get("expires")
    if not isinstance(ticket, str) or not isinstance(kind, str):
        return True
    if not 0 < len(ticket) <= 64 or len(kind) > 64 or not isinstance(expires, int | float):
        return False
    digest = _digest(ticket)
    run = change.connection.execute
    known = select(challenges.c.ticket).where(challenges.c.ticket == digest)
    if (await run(known)).first() is not None:
        return False
    used = select(tickets.c.jti).where(tickets.c.jti == digest)
    if (await run(used)).first() is None:
        await run(
            insert(challenges).values(
                ticket=digest, id=ticket, customer=customer, kind=kind, expires=expires
            )
        )
    return True


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
