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
from sidecar.control.subjects.keeping import RECEIPTS
from sidecar.control.subjects.reading import family
from sidecar.control.subjects.records import Offered, check_attributes, words
from sidecar.control.subjects.schema import attributes, challenges, tickets

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

    async def issued(
        self, customer: str, kind: str, ticket: str, expires: float, data: Mapping[str, Any]
    ) -> None:
        """A sidecar sent the customer on with this ticket; said again it changes nothing."""
        words("kind", kind, 64)
        words("ticket", ticket, 64)
        digest = _digest(ticket)
        async with self._changing() as change:
            row = await change.survivor(customer)
            known = select(challenges.c.ticket).where(challenges.c.ticket == digest)
            if (await change.connection.execute(known)).first() is not None:
                return
            used = select(tickets.c.jti).where(tickets.c.jti == digest)
            if (await change.connection.execute(used)).first() is None:
                await change.connection.execute(
                    insert(challenges).values(
                        ticket=digest, id=ticket, customer=row.customer, kind=kind, expires=expires
                    )
                )
            change.event(row.customer, "sidecar.challenge.issued", data, changes=False)

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


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
