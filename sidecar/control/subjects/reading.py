"""Records out of rows. A record is one query, whatever it holds: sidecars wait for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Float,
    Select,
    Text,
    bindparam,
    case,
    cast,
    literal,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.subjects.linking import Holder
from sidecar.control.subjects.records import Attribute, Consent, Identifier, Record, Risk
from sidecar.control.subjects.schema import (
    apart,
    attributes,
    consents,
    identifiers,
    remembered,
    subjects,
)

_WHO: Final = bindparam("who", type_=Text)
_NOW: Final = bindparam("now", type_=Float)
_TEXTS: Final = ("a", "b", "c", "d", "e")
_FLOATS: Final = ("w", "x", "y", "z")
_INTEGERS: Final = ("l", "m", "n", "o")


def family(survivor: Any) -> Select[Any]:
    """The ids of a survivor and of all who were merged into it."""
    return select(subjects.c.customer).where(subjects.c.survivor == survivor)


def family_of(customer: str) -> Select[Any]:
    """The same, of whoever this customer is now."""
    own = select(subjects.c.survivor).where(subjects.c.customer == customer).scalar_subquery()
    return family(own)


def _part(name: str, **columns: Any) -> Any:
    """One kind of row, in the form that all have here."""
    found = [literal(name, Text).label("part")]
    for names, type_ in ((_TEXTS, Text), (_FLOATS, Float), (_INTEGERS, BigInteger)):
        found += [
            (columns[each] if each in columns else cast(null(), type_)).label(each)
            for each in names
        ]
    return select(*found)


def _record_query() -> Any:
    s, i, r, t, c = subjects.c, identifiers.c, remembered.c, attributes.c, consents.c
    members = family(_WHO)
    usable = or_(
        c.binding == "",
        (c.state == "granted")
        & or_(c.expires.is_(None), c.expires > _NOW)
        & or_(c.max_uses.is_(None), c.used < c.max_uses),
    )
    return union_all(
        _part(
            "subject", a=s.pool, b=s.segments, w=s.created, x=s.risk_points, y=s.risk_at,
            z=s.risk_half_life, n=s.version, o=case((s.anonymous, 1), else_=0),
        ).where(s.customer == _WHO, s.survivor == _WHO),
        _part("identifier", a=i.type, b=i.issuer, c=i.value, x=i.at).where(i.holder == _WHO),
        _part("remembered", a=r.type, b=r.issuer, c=r.value, x=r.at).where(r.customer.in_(members)),
        _part("attribute", a=t.name, b=t.source, c=t.value, w=t.at, x=t.expires, y=t.declined,
              z=t.asked).where(t.customer.in_(members)),
        _part(
            "consent", a=c.purpose, b=c.binding, c=c.state, d=c.language, e=c.id, x=c.at,
            y=c.expires, l=c.number, m=c.max_uses, n=c.used, o=c.version,
        ).where(c.customer.in_(members), c.latest, usable),
    )  # fmt: skip


_RECORD: Final = _record_query()


async def read(connection: AsyncConnection, survivor: str, now: float) -> Record | None:
    """None: it is nobody, or was merged into somebody else."""
    rows = (await connection.execute(_RECORD, {"who": survivor, "now": now})).all()
    parts: dict[str, list[Any]] = {
        name: [] for name in ("subject", "identifier", "remembered", "attribute", "consent")
    }
    for row in rows:
        parts[row.part].append(row)
    if not parts["subject"]:
        return None
    subject = parts["subject"][0]
    values, declined, asked = _attributes(parts["attribute"], now)
    return Record(
        customer=survivor,
        pool=subject.a,
        version=subject.n,
        created=subject.w,
        identifiers=_identifiers(parts["identifier"]),
        consents=tuple(
            Consent(row.e, row.a, row.o, row.b, row.c, row.x, row.d, row.y, row.m, row.n)
            for row in sorted(parts["consent"], key=lambda row: row.l)
        ),
        attributes=values,
        declined=declined,
        asked=asked,
        segments=frozenset(json.loads(subject.b)),
        risk=Risk(subject.x, subject.y, subject.z),
        anonymous=bool(subject.o),
        remembered=_identifiers(parts["remembered"]),
    )


def _identifiers(rows: list[Any]) -> tuple[Identifier, ...]:
    """The oldest first, each once."""
    ordered = sorted(rows, key=lambda row: (row.x, row.a, row.b, row.c))
    return tuple(dict.fromkeys(Identifier(row.a, row.b, row.c) for row in ordered))


def _attributes(
    rows: list[Any], now: float
) -> tuple[tuple[Attribute, ...], dict[str, float], dict[str, float]]:
    """Of a family the newest value counts, were it one that may not be kept any longer."""
    newest: dict[str, Any] = {}
    declined: dict[str, float] = {}
    asked: dict[str, float] = {}
    for row in rows:
        if row.c is not None and (row.a not in newest or row.w > newest[row.a].w):
            newest[row.a] = row
        if row.y is not None:
            declined[row.a] = max(row.y, declined.get(row.a, row.y))
        if row.z is not None:
            asked[row.a] = max(row.z, asked.get(row.a, row.z))
    for name, row in newest.items():
        if declined.get(name, row.w + 1) <= row.w:
            del declined[name]  # answered since
    values = tuple(
        Attribute(row.a, json.loads(row.c), row.b, row.w, row.x)
        for _, row in sorted(newest.items())
        if row.x is None or row.x > now
    )
    return values, declined, asked


async def found(
    connection: AsyncConnection, pool: str, wanted: Iterable[Identifier]
) -> dict[Identifier, str]:
    """Who has each of these."""
    by_key = {each.key(pool): each for each in wanted}
    rows = await connection.execute(
        select(identifiers.c.key, identifiers.c.holder).where(identifiers.c.key.in_(list(by_key)))
    )
    return {by_key[row.key]: row.holder for row in rows}


async def holders(
    connection: AsyncConnection, pool: str, customers: Iterable[str], known: Iterable[Identifier]
) -> Mapping[str, Holder]:
    """Who these are, for `linking`. `known` are the identifiers of the introduction."""
    ids = sorted(set(customers))
    created = {
        row.customer: row.created
        for row in await connection.execute(
            select(subjects.c.customer, subjects.c.created).where(subjects.c.customer.in_(ids))
        )
    }
    held: dict[str, set[Identifier]] = {each: set() for each in created}
    i = identifiers.c
    wanted = select(i.holder, i.type, i.issuer, i.value).where(i.holder.in_(ids))
    for holder, *parts in await connection.execute(wanted):
        if holder in held:
            held[holder].add(Identifier(*parts))
    by_key = {each.key(pool): each for each in {*known, *set().union(*held.values())}}
    split: dict[str, set[Identifier]] = {each: set() for each in created}
    noted: dict[str, set[tuple[Identifier, str]]] = {each: set() for each in created}
    kept = await connection.execute(
        select(subjects.c.survivor, apart.c.key, apart.c.other)
        .join(subjects, subjects.c.customer == apart.c.customer)
        .where(subjects.c.survivor.in_(ids))
    )
    for survivor, key, other in kept:
        # One that nobody here has counts all the same: only so many are noted.
        identifier = by_key.get(key, Identifier("", "", key.hex()))
        if other and survivor in noted:
            noted[survivor].add((identifier, other))
        elif survivor in split:
            split[survivor].add(identifier)
    return {
        each: Holder(
            each, created[each], frozenset(held[each]), frozenset(split[each]),
            frozenset(noted[each]),
        )
        for each in created
    }  # fmt: skip
