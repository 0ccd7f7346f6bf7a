"""Secrets and tickets, on each database: once is once."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.control.store import Store
from sidecar.control.subjects.records import NotStored
from sidecar.control.subjects.store import SubjectStore
from tests.control.subjects.conftest import Clock


async def test_a_secret_is_made_once_and_stays(
    subjects: SubjectStore, store: Store, url: str, clock: Clock
) -> None:
    opened = [] if url.startswith("sqlite") else [await Store.open(url, clock=clock)]
    stores = [subjects, SubjectStore(store.engine, clock)]
    stores += [SubjectStore(each.engine, clock) for each in opened]
    found = await asyncio.gather(*(stores[n % len(stores)].secret("visitors") for n in range(12)))
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert await subjects.secret("tickets") != found[0]
    with pytest.raises(NotStored):
        await subjects.secret("")
    for each in opened:
        await each.close()


async def test_a_ticket_is_good_once(
    subjects: SubjectStore, store: Store, url: str, clock: Clock
) -> None:
    opened = [] if url.startswith("sqlite") else [await Store.open(url, clock=clock)]
    stores = [subjects, *(SubjectStore(each.engine, clock) for each in opened)]
    answers = await asyncio.gather(
        *(stores[n % len(stores)].redeem("t1", clock.now + 60) for n in range(20))
    )
    assert sorted(answers) == [False] * 19 + [True]
    assert await subjects.redeem("t2", clock.now + 60)
    assert not await subjects.redeem("t3", clock.now)
    for each in opened:
        await each.close()


async def test_a_forgotten_ticket_is_not_good_again(subjects: SubjectStore, clock: Clock) -> None:
    expires = clock.now + 60
    assert await subjects.redeem("t", expires)
    clock.now += 10_000
    await subjects.expire(clock.now)
    assert not await subjects.redeem("t", expires)
