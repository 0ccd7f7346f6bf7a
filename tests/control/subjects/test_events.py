"""The outbox and who changed, on each database: in the order of the commits, nothing missed."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.control.store import Store
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.records import NotStored, Offered
from sidecar.control.subjects.store import SubjectStore
from sidecar.control.subjects.transactions import NoCustomer
from tests.control.subjects.callers import SOCIAL, caller, email, known, sub
from tests.control.subjects.conftest import Clock


async def test_events_tell_the_journey_and_no_values(subjects: SubjectStore) -> None:
    alice = (await known(subjects, caller("alice", email("a@x")))).customer
    await subjects.decide_consent(
        alice, Decision("shop/pay", 1, "granted", "en", "Pay", "I allow it.", "ab", {"amount": 70})
    )
    await subjects.spend(alice, "shop/pay", "ab", "u")
    await subjects.set_attributes(alice, {"d/name": Offered("Alice", "page")})
    await subjects.report(alice, "sidecar.challenge.issued", {"kind": "consent"})
    events = await subjects.events(0)
    assert [each.type for each in events] == [
        "sidecar.subject.linked", "sidecar.subject.linked", "sidecar.consent.granted",
        "sidecar.consent.used", "sidecar.profile.set", "sidecar.challenge.issued",
    ]  # fmt: skip
    assert [each.seq for each in events] == sorted({each.seq for each in events})
    assert {each.customer for each in events} == {alice}
    assert len({each.id for each in events}) == 6
    assert events[-1].data == {"kind": "consent"}
    said = str([each.data for each in events])
    assert not any(value in said for value in ("a@x", "Alice", "alice", "70"))
    assert await subjects.events(events[2].seq, 2) == events[3:5]


async def test_what_is_delivered_is_remembered(subjects: SubjectStore) -> None:
    assert await subjects.undelivered_after() == 0
    await subjects.delivered(7)
    await subjects.delivered(3)
    assert await subjects.undelivered_after() == 7


async def test_a_report_is_a_small_event_of_a_customer(subjects: SubjectStore) -> None:
    record = await known(subjects, caller("alice"))
    for type_ in (
        "challenge",
        "sidecar",
        "sidecar.Challenge",
        "sidecar.x\n",
        "sidecar." + "x" * 200,
    ):
        with pytest.raises(NotStored):
            await subjects.report(record.customer, type_, {})
    with pytest.raises(NotStored):
        await subjects.report(record.customer, "sidecar.x", {"a": "x" * 20_000})
    with pytest.raises(NoCustomer):
        await subjects.report("cus_nobody", "sidecar.x", {})
    await subjects.report(record.customer, "sidecar.x", {})
    assert await known(subjects, caller("alice")) == record


async def test_who_reads_on_after_the_last_number_misses_nothing(
    subjects: SubjectStore, url: str, clock: Clock
) -> None:
    opened = [] if url.startswith("sqlite") else [await Store.open(url, clock=clock)]
    replicas = [subjects, *(SubjectStore(each.engine, clock) for each in opened)]
    ids = [(await known(subjects, caller(f"u{n}"))).customer for n in range(8)]
    after = (await subjects.events(0))[-1].seq
    seen: list[tuple[int, str]] = []
    writing = True

    async def read() -> None:
        nonlocal after
        while True:
            last = not writing
            events = await subjects.events(after, 3)
            seen.extend((each.seq, each.customer) for each in events)
            after = events[-1].seq if events else after
            if last and not events:
                return

    reader = asyncio.create_task(read())
    await asyncio.gather(
        *(replicas[n % len(replicas)].raise_risk(ids[n % 8], 1, 60, f"s{n}") for n in range(64))
    )
    writing = False
    await reader
    assert len(seen) == len(set(seen)) == 64
    assert seen == sorted(seen)
    for each in opened:
        await each.close()


async def test_changes_are_found_from_a_marker_on(subjects: SubjectStore) -> None:
    nobody, start = await subjects.changes_since(None)
    assert nobody == frozenset()
    one = await known(subjects, caller("alice", email("a@x")))
    two = await known(subjects, caller(sub("s", SOCIAL)))
    changed, marker = await subjects.changes_since(start)
    assert changed == {one.customer, two.customer}
    assert await subjects.changes_since(marker) == (frozenset(), marker)
    await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    changed, marker = await subjects.changes_since(marker)
    assert changed == {one.customer, two.customer}  # also who is nobody of their own any more
    await subjects.erase(one.customer, "customer")
    changed, marker = await subjects.changes_since(marker)
    assert changed == {one.customer, two.customer}


async def test_many_changes_come_in_parts(subjects: SubjectStore) -> None:
    ids = {(await known(subjects, caller(f"u{n}"))).customer for n in range(7)}
    found: set[str] = set()
    marker, parts = 0, 0
    while part := (await subjects.changes_since(marker, limit=3)):
        if not part[0]:
            break
        found |= part[0]
        marker, parts = part[1], parts + 1
    assert (found, parts) == (ids, 3)


async def test_the_owner_hears_after_the_commit_who_changed(subjects: SubjectStore) -> None:
    heard: list[frozenset[str]] = []
    subjects.changed = heard.append
    alice = (await known(subjects, caller("alice"))).customer
    await known(subjects, caller("alice"))
    await subjects.set_segments(alice, ["a"])
    with pytest.raises(NotStored):
        await subjects.raise_risk(alice, 500, 60, "x")
    await subjects.report(alice, "sidecar.x", {})
    assert heard == [{alice}, {alice}]
