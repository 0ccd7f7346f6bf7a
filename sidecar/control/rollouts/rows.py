"""Rollouts as rows. Whoever changes one says which revision they saw; if late, nothing changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import desc, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.rollouts.plan import ACTIVE, Plan, Rollout
from sidecar.control.schema import rollouts

MOST: Final = 500


def of_row(row: Any) -> Rollout:
    """From what the store kept."""
    return Rollout(
        namespace=row.namespace, version=row.version, stable=row.stable,
        plan=Plan.from_json(row.plan), author=row.author, started=row.started, state=row.state,
        stage=row.stage, cutoff=row.cutoff, stage_since=row.stage_since, ended=row.ended,
        settled=row.settled, reason=row.reason, revision=row.revision,
        baseline=row.baseline,
    )  # fmt: skip


async def insert_rollout(connection: AsyncConnection, rollout: Rollout) -> None:
    """A new one."""
    await connection.execute(
        insert(rollouts).values(
            namespace=rollout.namespace, version=rollout.version, plan=rollout.plan.to_json(),
            author=rollout.author, started=rollout.started, **_changing(rollout),
        )
    )  # fmt: skip


async def change_rollout(connection: AsyncConnection, rollout: Rollout) -> Rollout | None:
    """Its next revision; None: somebody else has changed it since."""
    changed = replace(rollout, revision=rollout.revision + 1)
    result = await connection.execute(
        update(rollouts)
        .where(
            (rollouts.c.namespace == rollout.namespace)
            & (rollouts.c.version == rollout.version)
            & (rollouts.c.revision == rollout.revision)
        )
        .values(**_changing(changed))
    )
    return changed if result.rowcount == 1 else None


async def keep_baseline(connection: AsyncConnection, rollout: Rollout, baseline: str) -> None:
    """What it is compared with. That is no change of it: whoever changes it is not late for it."""
    await connection.execute(
        update(rollouts)
        .where(
            (rollouts.c.namespace == rollout.namespace) & (rollouts.c.version == rollout.version)
        )
        .values(baseline=baseline)
    )


async def read_rollouts(
    connection: AsyncConnection,
    *,
    namespaces: Sequence[str] = (),
    versions: Sequence[int] = (),
    active: bool = False,
    unsettled: bool = False,
    most: int = MOST,
) -> list[Rollout]:
    """Newest first. Without namespaces of all; `unsettled`: that have ended, but not everywhere."""
    query = select(rollouts).order_by(desc(rollouts.c.started), desc(rollouts.c.version))
    if namespaces:
        query = query.where(rollouts.c.namespace.in_(list(namespaces)))
    if versions:
        query = query.where(rollouts.c.version.in_(list(versions)))
    if active:
        query = query.where(rollouts.c.state.in_(sorted(ACTIVE)))
    if unsettled:
        query = query.where(rollouts.c.ended.is_not(None) & rollouts.c.settled.is_(None))
    return [of_row(row) for row in await connection.execute(query.limit(min(most, MOST)))]


def _changing(rollout: Rollout) -> dict[str, Any]:
    return {
        "stable": rollout.stable,
        "state": rollout.state,
        "stage": rollout.stage,
        "cutoff": rollout.cutoff,
        "stage_since": rollout.stage_since,
        "ended": rollout.ended,
        "settled": rollout.settled,
        "reason": rollout.reason,
        "revision": rollout.revision,
    }
