"""The audit trail: everything that is done, in the transaction in which it is done.

A record is canonical JSON: `number` from 1 on, `at`, `by`, `action`, `about`, and `previous`, the
SHA-256 of the record before it. Whoever changes or removes one breaks every hash after it, which
`sidecar audit verify` finds without trusting the control plane (`facts.audit`). The newest hash is
in the log and in a metric: noted elsewhere, it shows also that nothing was cut off at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import desc, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control import database
from sidecar.control.schema import audit as table
from sidecar.facts.audit import Head, Record, content_of, hash_of

MOST: Final = 1000  # records of one answer
_log = logging.getLogger(__name__)


async def append(
    connection: AsyncConnection, at: float, by: str, action: str, about: Mapping[str, Any]
) -> Head:
    """Adds a record to what the transaction does. The numbers follow on each other: until it ends
    nobody else adds one."""
    await database.alone(connection)
    last = await head(connection)
    content = content_of(last.number + 1, at, by, action, about, last.hash)
    new = Head(last.number + 1, hash_of(content))
    await connection.execute(
        insert(table).values(number=new.number, content=content, hash=new.hash)
    )
    _log.info("audit %d %s by %s: %s", new.number, action, by, new.hash.hex())
    return new


async def head(connection: AsyncConnection) -> Head:
    """The newest record's number and hash; of an empty trail 0 and nothing."""
    query = select(table.c.number, table.c.hash).order_by(desc(table.c.number)).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return Head(0, b"") if row is None else Head(row.number, row.hash)


async def read(
    connection: AsyncConnection, after: int, most: int, *, newest: bool = False
) -> list[Record]:
    """Those above `after`, oldest first; or the newest ones, newest first."""
    query = select(table).where(table.c.number > after)
    order = desc(table.c.number) if newest else table.c.number
    rows = await connection.execute(query.order_by(order).limit(min(most or MOST, MOST)))
    return [Record(row.number, _bytes(row.content), _bytes(row.hash)) for row in rows]


def _bytes(found: Any) -> bytes:
    """SQLite keeps whatever somebody puts there; what is no bytes is shown, and hashes to nothing
    that is expected."""
    return found if isinstance(found, bytes) else str(found).encode()
