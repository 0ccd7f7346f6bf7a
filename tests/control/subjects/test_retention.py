"""What may not be kept any longer goes, on each database, and nothing else does."""

from __future__ import annotations

import pytest
from sqlalchemy import Table, func, select

from sidecar.control.store import Store
from sidecar.control.subjects import retention, schema
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.records import Offered
from sidecar.control.subjects.retention import Ages
from sidecar.control.subjects.store import SubjectStore
from tests.control.subjects.callers import SOCIAL, caller, email, guest, known, sub
from tests.control.subjects.conftest import Clock

DAY = 86_400.0


async def counted(store: Store, table: Table) -> int:
    async with store.engine.connect() as connection:
        query = select(func.count()).select_from(table)
        return int((await connection.execute(query)).scalar_one())


async def test_an_attribute_goes_with_what_it_replaced(
    subjects: SubjectStore, store: Store, clock: Clock
) -> None:
    one = (await known(subjects, caller("alice", email("a@x")))).customer
    await subjects.set_attributes(one, {"d/city": Offered("old", "page")})
    clock.now += 1
    two = (await known(subjects, caller(sub("s", SOCIAL)))).customer
    await subjects.set_attributes(
        two, {"d/city": Offered("new", "page", clock.now + 10), "d/name": Offered("A", "page")}
    )
    await subjects.asked(two, ["d/city"])
    await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    assert await subjects.expire(clock.now + 9) == frozenset()
    clock.now += 10
    assert await subjects.expire(clock.now) == {two}
    record = await known(subjects, caller("alice"))
    assert [each.name for each in record.attributes] == ["d/name"]
    assert "d/city" in record.asked
    assert await counted(store, schema.attributes) == 2
    assert (await subjects.events(0))[-1].type == "sidecar.profile.expired"
    assert await subjects.expire(clock.now) == frozenset()


async def test_visitors_who_never_came_back_are_erased(
    subjects: SubjectStore, clock: Clock
) -> None:
    gone = (await known(subjects, guest("v1"))).customer
    back = (await known(subjects, guest("v2"))).customer
    alice = (await known(subjects, caller("alice", visitor="v3", merge=True))).customer
    clock.now += 80 * DAY
    await known(subjects, guest("v2"))
    await subjects.flush_reads()
    clock.now += 20 * DAY
    assert await subjects.expire(clock.now) == {gone}
    assert await subjects.survivor(gone) is None
    assert [await subjects.survivor(each) for each in (back, alice)] == [back, alice]
    assert await subjects.erased(gone)


async def test_many_go_in_batches(
    subjects: SubjectStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for number in range(3):
        clock.now += 1
        await known(subjects, guest(f"v{number}"))
    clock.now += 100 * DAY
    assert [len(await subjects.expire(clock.now)) for _ in range(3)] == [2, 1, 0]


async def test_rows_that_have_served_go(subjects: SubjectStore, store: Store, clock: Clock) -> None:
    alice = (await known(subjects, caller("alice"))).customer
    pay = Decision("shop/pay", 1, "granted", "en", "Pay", "I allow it.", "ab", max_uses=1)
    await subjects.decide_consent(alice, pay)
    assert await subjects.spend(alice, "shop/pay", "ab", "u") == "spent"
    await subjects.redeem("t", clock.now + 60)
    await subjects.flush_reads()
    last = (await subjects.events(0))[-1].seq
    await subjects.delivered(last - 1)
    tables = (schema.uses, schema.tickets, schema.reads, schema.outbox)
    await subjects.expire(clock.now + 60)
    assert [await counted(store, each) for each in tables] == [1, 1, 1, 3]
    clock.now += 500 * DAY
    assert await subjects.expire(clock.now, Ages()) == frozenset()
    assert [await counted(store, each) for each in tables] == [0, 0, 0, 1]
    assert [each.seq for each in await subjects.events(0)] == [last]
    assert await counted(store, schema.consents) == await counted(store, schema.receipts) == 1
    assert await subjects.spend(alice, "shop/pay", "ab", "u2") == "missing"
