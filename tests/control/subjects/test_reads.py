"""Who looked at whom is kept: at once, or in batches that lose nothing while the process lives."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from sidecar.control.store import Store
from sidecar.control.subjects import reads
from sidecar.control.subjects.store import SubjectStore
from sidecar.errors import StoreFailed
from tests.control.subjects.callers import caller, known
from tests.control.subjects.conftest import Clock


async def found(subjects: SubjectStore, customer: str) -> list[tuple[Any, ...]]:
    rows = (await subjects.export(customer, "t", "t"))["reads"]
    return [
        (each["at"], each["reader"], each["why"], each["count"])
        for each in rows
        if each["reader"] != "t"
    ]


async def test_what_sidecars_resolve_is_written_in_batches(
    subjects: SubjectStore, clock: Clock
) -> None:
    for _ in range(3):
        alice = (await known(subjects, caller("alice"))).customer
        clock.now += 1
    await subjects.resolve(caller("alice"), "edge-2")
    assert await found(subjects, alice) == []
    assert subjects.unwritten == 2
    assert await subjects.flush_reads() == 2
    assert await found(subjects, alice) == [
        (1_000_002.0, "edge-1", "resolve", 3), (1_000_003.0, "edge-2", "resolve", 1),
    ]  # fmt: skip
    assert (subjects.unwritten, await subjects.flush_reads()) == (0, 0)


async def test_a_record_that_people_read_is_noted_at_once(subjects: SubjectStore) -> None:
    alice = (await known(subjects, caller("alice"))).customer
    await subjects.record(alice, "carol", "a complaint")
    assert await found(subjects, alice) == [(1_000_000.0, "carol", "a complaint", 1)]


async def test_the_batch_has_a_bound(
    subjects: SubjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "MOST_WAITING", 3)
    for number in range(3):
        await known(subjects, caller(f"u{number}"))
    assert subjects.unwritten == 0


async def test_what_could_not_be_written_is_written_later(
    subjects: SubjectStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = (await known(subjects, caller("alice"))).customer
    async with store.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE subject_reads RENAME TO elsewhere"))
    with pytest.raises(StoreFailed):
        await subjects.flush_reads()
    monkeypatch.setattr(reads, "MOST_WAITING", 1)
    with pytest.raises(StoreFailed):  # rather than a read that nobody knows of
        await known(subjects, caller("alice"))
    async with store.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO subject_reads"))
    assert await subjects.flush_reads() == 1
    assert [each[3] for each in await found(subjects, alice)] == [2]
