"""What was published when, by whom and why: the history of a namespace, and what differs in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import desc, func, select

from sidecar.control import answers, expiries
from sidecar.control.applications import Planned, drafted, parse
from sidecar.control.catalogue import Catalogue, Line
from sidecar.control.proposals import Proposal
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.rollouts.rows import read_rollouts
from sidecar.control.schema import entries, releases
from sidecar.control.store import Release, Store
from sidecar.decide.documents import Document
from sidecar.decide.effects import Effect, effects
from sidecar.wire import admin_pb2 as pb

LISTED: Final = 50
MOST: Final = 500


async def history(
    store: Store, catalogue: Catalogue, request: pb.HistoryRequest
) -> pb.HistoryResponse:
    """Releases of a namespace, newest first. Raises StoreFailed."""
    most = min(request.most or LISTED, MOST)
    query = select(releases).where(releases.c.namespace == request.namespace)
    if request.before:
        query = query.where(releases.c.version < request.before)
    async with store.reading() as connection:
        rows = (
            await connection.execute(query.order_by(desc(releases.c.version)).limit(most))
        ).all()
        versions = [row.version for row in rows]
        counted = await connection.execute(
            select(entries.c.version, func.count())
            .where((entries.c.namespace == request.namespace) & entries.c.version.in_(versions))
            .group_by(entries.c.version)
        )
        counts = {row[0]: row[1] for row in counted}
        steered = await read_rollouts(
            connection, namespaces=[request.namespace], versions=versions or [-1]
        )
        ends = await expiries.of_versions(connection, request.namespace, versions)
    rollouts = {each.version: each for each in steered}
    line = catalogue.line(request.namespace)
    return pb.HistoryResponse(
        entries=[
            _entry(row, counts.get(row.version, 0), rollouts.get(row.version), ends, line)
            for row in rows
        ]
    )


async def documents(
    store: Store, namespace: str, version: int
) -> tuple[Release | None, Sequence[Document]]:
    """Those of one release. Raises StoreFailed."""
    found = await store.release(namespace, version)
    return found, found.documents if found is not None else ()


async def difference(
    store: Store,
    catalogue: Catalogue,
    namespace: str,
    from_: int,
    to: int,
    sees: Callable[[str], bool] = lambda _kind: True,
) -> pb.DiffResponse | None:
    """What differs between two releases, as far as it is of kinds that somebody `sees`; None: there
    is no such release. Raises StoreFailed."""
    line = catalogue.line(namespace)
    newest = line.stable.version if line is not None else 0
    before = await store.release(namespace, from_)
    after = await store.release(namespace, to or newest)
    if before is None or after is None:
        return None
    planned, meant = await asyncio.to_thread(compared, before, after, sees)
    was, is_ = (each.documents for each in (before, after))
    old = {document.ref: document.canonical for document in was}
    new = {document.ref: document.canonical for document in is_}
    return pb.DiffResponse(
        changes=answers.changes(planned.changes),
        effects=answers.effects(meant),
        documents=[
            pb.DiffResponse.Pair(
                document=each.document,
                before=old.get(each.document, b""),
                after=new.get(each.document, b""),
            )
            for each in planned.changes
        ],
    )


async def proposed(store: Store, found: Proposal) -> list[pb.DiffResponse.Pair]:
    """What a proposal changes, before and after. Raises StoreFailed."""
    given, _ = await asyncio.to_thread(parse, found.application.texts)
    after = {document.ref: document.canonical for document in given}
    before: dict[str, bytes] = {}
    for namespace, version in found.application.base_versions.items():
        base = await store.release(namespace, version)
        before |= {each.ref: each.canonical for each in (base.documents if base else ())}
    return [
        pb.DiffResponse.Pair(
            document=each.document,
            before=before.get(each.document, b""),
            after=after.get(each.document, b""),
        )
        for each in found.changes
        if each.what != "unchanged"
    ]


def compared(
    before: Release, after: Release, sees: Callable[[str], bool]
) -> tuple[Planned, Sequence[Effect]]:
    """What differs, and what it means, of kinds that somebody `sees`."""
    was, is_ = (
        tuple(document for document in each.documents if sees(document.kind))
        for each in (before, after)
    )
    alone = Catalogue()
    alone.take([replace(before, documents=was)])
    planned = drafted({after.namespace: {document.ref: document for document in is_}}, alone)
    return planned, effects(was, is_)


def _entry(
    row: Any, count: int, rollout: Rollout | None, ends: Mapping[int, float], line: Line | None
) -> pb.HistoryEntry:
    return pb.HistoryEntry(
        release=pb.Release(
            namespace=row.namespace, version=row.version, floor=row.floor, issued=row.issued,
            documents=count,
        ),
        author=row.author, message=row.message,
        parent=-1 if row.parent is None else row.parent,
        restores=-1 if row.restores is None else row.restores,
        approver=row.approver,
        rollout=answers.rollout(rollout) if rollout is not None else None,
        in_force=line is not None and line.descends(line.stable.version, row.version),
        expires=int(ends.get(row.version, 0)),
    )  # fmt: skip
