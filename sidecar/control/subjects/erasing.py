"""Everything that is known of a customer, as one answer; and the end of it.

Erasing deletes every row of a customer and of those merged into them, in one transaction, and what
other customers' links say of their identifiers. What remains is a digest that only this store can
make of an id that is known, and a signed certificate. Rows are overwritten in an SQLite file
(secure_delete) and its log is cut; in PostgreSQL VACUUM does that, and backups are the operator's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, insert, or_, select, update

from sidecar.control.subjects import receipts as signed
from sidecar.control.subjects import schema
from sidecar.control.subjects.events import counter
from sidecar.control.subjects.keeping import RECEIPTS, TOMBSTONES, Keeping
from sidecar.control.subjects.reading import family, read
from sidecar.control.subjects.reads import Reads
from sidecar.control.subjects.records import new_id, words
from sidecar.control.subjects.transactions import Change, NoCustomer

# Of these the customer's rows are all there is; the others are looked at one by one.
_OWN: Final = (
    schema.remembered, schema.attributes, schema.consents, schema.uses, schema.receipts,
    schema.reads, schema.challenges,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Erasure:
    """`rows` counts what was deleted, by table; `certificate` is a JWS that says so, and holds no
    personal data; `customers` are the ids that mean nobody from now on."""

    customers: tuple[str, ...]
    at: float
    rows: Mapping[str, int]
    certificate: str


class Erasing(Reads, Keeping):
    """Export and erasure."""

    async def export(
        self, customer: str, reader: str = "customer", why: str = "export"
    ) -> dict[str, Any]:
        """All that is known, as JSON. The reading itself is part of it. Raises NoCustomer."""
        async with self._changing() as change:
            survivor = (await change.survivor(customer)).customer
            await self._read_by(change, survivor, reader, why)
            record = await read(change.connection, survivor, change.now)
            if record is None:
                raise NoCustomer("there is no such customer")
            rows = {
                table.name: await _rows(change, table, survivor)
                for table in (
                    schema.subjects, schema.identifiers, schema.remembered, schema.attributes,
                    schema.consents, schema.uses, schema.receipts, schema.links, schema.reads,
                    schema.outbox,
                )
            }  # fmt: skip
        for row in rows[schema.attributes.name]:
            row["value"] = None if row["value"] is None else json.loads(row["value"])
        for row in rows[schema.outbox.name]:
            row["data"] = json.loads(row["data"])
        for row in rows[schema.receipts.name]:
            row["claims"] = signed.claims(row["jws"])
        return {
            "customer": survivor,
            "exported": change.now,
            "pool": record.pool,
            "created": record.created,
            "segments": sorted(record.segments),
            "risk": {"points": record.risk.points_at(change.now), **record.risk._asdict()},
            "ids": [row["customer"] for row in rows[schema.subjects.name]],
            "identifiers": rows[schema.identifiers.name],
            "remembered": rows[schema.remembered.name],
            "attributes": rows[schema.attributes.name],
            "consents": rows[schema.consents.name],
            "uses": rows[schema.uses.name],
            "receipts": rows[schema.receipts.name],
            "links": rows[schema.links.name],
            "reads": rows[schema.reads.name],
            "events": rows[schema.outbox.name],
        }

    async def erase(self, customer: str, by: str) -> Erasure:
        """Deletes everything. `by` is a role (`customer`, `operator`), for it stays. Raises
        NoCustomer, StoreFailed."""
        words("by", by, 64)
        secret, salt = await self.secret(RECEIPTS), await self.secret(TOMBSTONES)
        async with self._changing() as change:
            pool = select(schema.subjects.c.pool).where(schema.subjects.c.customer == customer)
            found = (await change.connection.execute(pool)).scalar_one_or_none()
            if found is None:
                raise NoCustomer("there is no such customer")
            await change.pool(found)
            survivor = (await change.survivor(customer)).customer
            erasure = await forget(change, survivor, by, secret, salt)
        for key in [key for key in self._waiting if key[0] in erasure.customers]:
            del self._waiting[key]
        await self._cut_log()
        return erasure

    async def erased(self, customer: str) -> str | None:
        """The certificate that this id was erased, if it was."""
        digest = _digest(await self.secret(TOMBSTONES), customer)
        t = schema.tombstones.c
        async with self._reading() as connection:
            wanted = select(t.certificate).where(t.digest == digest)
            return (await connection.execute(wanted)).scalar_one_or_none()

    async def _cut_log(self) -> None:
        """SQLite's log holds pages as they were. Somebody who reads just now may keep it for a
        while; the next checkpoint that finds nobody reading cuts it."""
        if self._engine.dialect.name != "sqlite":
            return
        async with self._reading() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def forget(change: Change, survivor: str, by: str, secret: bytes, salt: bytes) -> Erasure:
    """In a transaction that holds the customer's lock."""
    run = change.connection.execute
    i, o = schema.identifiers.c, schema.outbox.c
    members: list[str] = sorted((await run(family(survivor))).scalars())
    await change.lock(members)
    keys = list((await run(select(i.key).where(i.holder == survivor))).scalars())
    keys += (
        await run(select(schema.remembered.c.key).where(schema.remembered.c.customer.in_(members)))
    ).scalars()
    rows: dict[str, int] = {}
    for table in _OWN:
        rows[table.name] = (await run(delete(table).where(table.c.customer.in_(members)))).rowcount
    rows[schema.identifiers.name] = (
        await run(delete(schema.identifiers).where(i.holder == survivor))
    ).rowcount
    for table in (schema.links, schema.apart):
        named = or_(
            table.c.customer.in_(members), table.c.other.in_(members), table.c.key.in_(keys)
        )
        rows[table.name] = (await run(delete(table).where(named))).rowcount
    delivered = await counter(change.connection, "delivered")
    old = o.customer.in_(members) & (o.seq <= delivered)
    rows[schema.outbox.name] = (await run(delete(schema.outbox).where(old))).rowcount
    await run(update(schema.outbox).where(o.customer.in_(members)).values(data="{}"))
    rows[schema.subjects.name] = (
        await run(delete(schema.subjects).where(schema.subjects.c.customer.in_(members)))
    ).rowcount
    for each in members:
        change.event(each, "sidecar.subject.erased", {"by": by})
    number = await change.finish()
    digests = {each: _digest(salt, each) for each in members}
    claims = {
        "jti": new_id("era"), "iat": int(change.now), "by": by, "rows": rows,
        "customers": [digests[each].hex() for each in members],
    }  # fmt: skip
    certificate = signed.sign(claims, secret, signed.ERASURE)
    await run(
        insert(schema.tombstones),
        [
            {"digest": digests[each], "changed": number, "at": change.now, "customer": each,
             "certificate": certificate}
            for each in members
        ],
    )  # fmt: skip
    return Erasure(tuple(members), change.now, rows, certificate)


async def _rows(change: Change, table: Any, survivor: str) -> list[dict[str, Any]]:
    """Of the customer and all who were merged into them, without what only the store can read."""
    order = [table.c.at] if "at" in table.c else [table.c.customer]
    found = await change.connection.execute(
        select(table).where(table.c.customer.in_(family(survivor))).order_by(*order)
    )
    hidden = {"key", "sole", "use", "moved"}
    return [
        {name: value for name, value in row._mapping.items() if name not in hidden} for row in found
    ]


def _digest(salt: bytes, customer: str) -> bytes:
    """Random ids cannot be guessed; keyed, it also tells two stores nothing of each other."""
    return hmac.new(salt, customer.encode(), hashlib.sha256).digest()
