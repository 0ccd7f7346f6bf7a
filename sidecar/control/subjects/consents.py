"""What customers allowed, refused and withdrew, and how often it was used.

Every decision is a row that stays; the latest about a purpose and binding is in force. With it, in
one transaction, comes a receipt. A use is counted under the customer's lock, once for each id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import and_, func, insert, or_, select, update

from sidecar.control.subjects import receipts as signed
from sidecar.control.subjects.keeping import RECEIPTS, Keeping
from sidecar.control.subjects.reading import family, family_of
from sidecar.control.subjects.receipts import Receipt
from sidecar.control.subjects.records import (
    LONGEST,
    LONGEST_NAME,
    STATES,
    NotStored,
    State,
    new_id,
    to_json,
    words,
)
from sidecar.control.subjects.schema import consents, receipts, uses
from sidecar.control.subjects.transactions import Change, NoCustomer

MOST_DECISIONS: Final = 10_000  # of one customer that are kept
SHOWN: Final = 30 * 86_400.0  # seconds that a bound one which was used up still says so
LONGEST_TEXT: Final = 65_536  # characters
LARGEST_VALUES: Final = 16_384  # of what a decision is bound to, as JSON
MOST_USES: Final = 2**53

Spent = Literal["spent", "exhausted", "missing"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a customer decided. `title` and `text` are the words they were shown, in `language`;
    `values` what the decision is bound to, as they were shown it, and `binding` its digest (hex).
    `via` is the way (`page`, `api`), `by` who decided (`customer`)."""

    purpose: str
    version: int
    state: State
    language: str
    title: str
    text: str
    binding: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    expires: float | None = None
    max_uses: int | None = None
    via: str = "api"
    by: str = "customer"


class Consents(Keeping):
    """Decisions and their uses."""

    async def decide_consent(self, customer: str, decision: Decision) -> Receipt:
        """In force and durable on return. Raises NotStored, NoCustomer, StoreFailed."""
        return (await self.decide_consents(customer, [decision]))[0]

    async def decide_consents(self, customer: str, decisions: Sequence[Decision]) -> list[Receipt]:
        """In order, all or none; in force and durable on return. Raises NotStored, NoCustomer,
        StoreFailed."""
        for decision in decisions:
            _check(decision)
        secret = await self.secret(RECEIPTS)
        async with self._changing() as change:
            row = await change.survivor(customer)
            return [await decide(change, row.customer, each, secret) for each in decisions]

    async def spend(self, customer: str, purpose: str, binding: str, use: str) -> Spent:
        """Counts one use; the same `use` again counts nothing. `missing`: nothing was granted, or
        it was refused, withdrawn, or has expired. Raises StoreFailed."""
        digest = hashlib.sha256(use.encode("utf-8", "surrogatepass")).digest()
        c = consents.c
        async with self._changing() as change:
            try:
                row = await change.survivor(customer)
            except NoCustomer:
                return "missing"
            run = change.connection.execute
            about = and_(
                c.customer.in_(family(row.customer)), c.purpose == purpose, c.binding == binding
            )
            known = (
                select(uses.c.consent)
                .join(consents, c.id == uses.c.consent)
                .where(uses.c.use == digest, about)
            )
            if (await run(known)).first() is not None:
                return "spent"
            consent = (
                await run(select(consents).where(about, c.latest).order_by(c.number.desc()))
            ).first()
            if consent is None or consent.state != "granted":
                return "missing"
            if consent.expires is not None and consent.expires <= change.now:
                return "missing"
            if consent.max_uses is not None and consent.used >= consent.max_uses:
                return "exhausted"
            await run(
                insert(uses).values(
                    consent=consent.id, use=digest, customer=consent.customer, at=change.now
                )
            )
            await run(update(consents).where(c.id == consent.id).values(used=c.used + 1))
            data = {"purpose": purpose, "consent": consent.id, "used": consent.used + 1}
            change.event(row.customer, "sidecar.consent.used", data)
            return "spent"

    async def receipts(self, customer: str) -> list[Receipt]:
        """All, in the order of their making; those of each who was merged are a chain of their own.
        Raises StoreFailed."""
        async with self._reading() as connection:
            r = receipts.c
            rows = await connection.execute(
                select(receipts).where(r.customer.in_(family_of(customer))).order_by(r.at, r.number)
            )
            return [
                Receipt(row.id, row.customer, row.number, row.consent, row.at, row.jws)
                for row in rows
            ]


async def decide(change: Change, customer: str, decision: Decision, secret: bytes) -> Receipt:
    """The customer's row is locked. Raises NotStored."""
    _check(decision)
    c = consents.c
    # Those of whom was merged into this customer as well: it is one person who decides.
    ended = await change.connection.execute(
        update(consents)
        .where(
            c.customer.in_(family(customer)), c.latest,
            c.purpose == decision.purpose, c.binding == decision.binding,
        )
        .values(latest=False)
        .returning(c.state)
    )  # fmt: skip
    # What was granted can be withdrawn, however much was decided before (GDPR article 7(3)).
    withdrawn = decision.state == "withdrawn" and "granted" in ended.scalars().all()
    made = select(func.count()).where(c.customer == customer)
    if not withdrawn and ((await change.connection.execute(made)).scalar_one() >= MOST_DECISIONS):
        raise NotStored(f"a customer has at most {MOST_DECISIONS} decisions")
    await _let_go(change, customer)
    id_ = new_id("cns")
    await change.connection.execute(
        insert(consents).values(
            id=id_, customer=customer, number=await change.number(), latest=True,
            purpose=decision.purpose, version=decision.version, binding=decision.binding,
            state=decision.state, at=change.now, language=decision.language,
            expires=decision.expires, max_uses=decision.max_uses, used=0,
            via=decision.via, by=decision.by,
        )
    )  # fmt: skip
    receipt = await _receipt(change, customer, id_, decision, secret)
    change.event(
        customer, f"sidecar.consent.{decision.state}",
        {"purpose": decision.purpose, "version": decision.version,
         "bound": bool(decision.binding), "receipt": receipt.id, "via": decision.via},
    )  # fmt: skip
    return receipt


async def _let_go(change: Change, customer: str) -> None:
    """What was bound to values and cannot be used is history, once nobody tries it again."""
    c = consents.c
    served = or_(c.state != "granted", c.expires < change.now, c.used >= c.max_uses)
    await change.connection.execute(
        update(consents)
        .where(c.customer == customer, c.latest, c.binding != "", c.at < change.now - SHOWN, served)
        .values(latest=False)
    )


async def _receipt(
    change: Change, customer: str, consent: str, decision: Decision, secret: bytes
) -> Receipt:
    r = receipts.c
    last = (
        await change.connection.execute(
            select(r.number, r.jws).where(r.customer == customer).order_by(r.number.desc()).limit(1)
        )
    ).first()
    number = last.number + 1 if last else 1
    id_ = new_id("rcp")
    jws = signed.sign(
        {
            "jti": id_, "sub": customer, "iat": int(change.now), "number": number,
            "previous": signed.digest(last.jws) if last else "",
            "consent": consent, "purpose": decision.purpose, "version": decision.version,
            "state": decision.state, "binding": decision.binding, "values": dict(decision.values),
            "language": decision.language, "title": decision.title, "text": decision.text,
            "until": decision.expires, "max_uses": decision.max_uses,
            "via": decision.via, "by": decision.by,
        },
        secret, signed.CONSENT,
    )  # fmt: skip
    row: dict[str, Any] = {"id": id_, "customer": customer, "number": number, "consent": consent,
           "at": change.now, "jws": jws}  # fmt: skip
    await change.connection.execute(insert(receipts).values(**row))
    return Receipt(**row)


def _check(decision: Decision) -> None:
    words("purpose", decision.purpose, LONGEST_NAME)
    words("language", decision.language, 64)
    words("title", decision.title, LONGEST_TEXT, least=0)
    words("text", decision.text, LONGEST_TEXT, least=0)
    words("via", decision.via, LONGEST)
    words("by", decision.by, LONGEST)
    words("binding", decision.binding, 128, least=0)
    if decision.state not in STATES:
        raise NotStored(f"state: one of {', '.join(STATES)} is expected")
    if not 0 <= decision.version <= MOST_USES:
        raise NotStored("version: a whole number from 0 is expected")
    if decision.max_uses is not None and not 0 < decision.max_uses <= MOST_USES:
        raise NotStored("max_uses: a whole number from 1 is expected")
    if len(to_json(dict(decision.values))) > LARGEST_VALUES:
        raise NotStored(f"values: longer than {LARGEST_VALUES} bytes")
    if bool(decision.values) and not decision.binding:
        raise NotStored("values: a decision about them is bound to them")
