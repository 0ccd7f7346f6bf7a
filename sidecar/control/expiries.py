"""Releases whose changes are taken back at a time, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.schema import expiries


async def insert_expiry(
    connection: AsyncConnection, namespace: str, version: int, at: float
) -> None:
    """`at` is in seconds since the epoch."""
    await connection.execute(
        insert(expiries).values(namespace=namespace, version=version, at=at, done=False, outcome="")
    )


async def due(connection: AsyncConnection, now: float) -> list[tuple[str, int]]:
    """Namespace and version of those whose time has come, oldest first."""
    query = select(expiries.c.namespace, expiries.c.version).where(
        ~expiries.c.done & (expiries.c.at <= now)
    )
    rows = await connection.execute(query.order_by(expiries.c.at, expiries.c.version))
    return [(row.namespace, row.version) for row in rows]


async def finish(connection: AsyncConnection, namespace: str, version: int, outcome: str) -> None:
    """It is taken back, or never will be."""
    await connection.execute(
        update(expiries)
        .where((expiries.c.namespace == namespace) & (expiries.c.version == version))
        .values(done=True, outcome=outcome)
    )


async def of_versions(
    connection: AsyncConnection, namespace: str, versions: Sequence[int]
) -> Mapping[int, float]:
    """When each of these releases is taken back, where it is and has not been."""
    query = select(expiries.c.version, expiries.c.at).where(
        (expiries.c.namespace == namespace)
        & expiries.c.version.in_(list(versions))
        & ~expiries.c.done
    )
    return {row.version: row.at for row in await connection.execute(query)}
