"""Callers become customers, on each database and at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from sidecar.control.store import Store
from sidecar.control.subjects.records import (
    MOST_OTHERS,
    Identifier,
    Introduction,
    NotStored,
    Offered,
)
from sidecar.control.subjects.resolving import MOST_DEVICES
from sidecar.control.subjects.store import SubjectStore
from sidecar.errors import StoreFailed
from tests.control.subjects.callers import (
    CORP,
    SOCIAL,
    account,
    caller,
    device,
    email,
    guest,
    known,
    sub,
)
from tests.control.subjects.conftest import Clock
from tests.control.subjects.test_linking import callers, components


async def test_a_customer_is_made_once_and_found_again(subjects: SubjectStore) -> None:
    made = await known(subjects, caller("alice", email("a@x")))
    assert made.customer.startswith("cus_")
    assert len(made.customer) == 30
    assert made.identifiers == (email("a@x"), sub("alice"))
    assert (made.version, made.created, made.anonymous) == (1, 1_000_000.0, False)
    assert await known(subjects, caller("alice", email("a@x"))) == made
    assert await known(subjects, caller("alice")) == made
    assert await subjects.find("shop", email("a@x")) == made.customer
    assert await subjects.find("shop", email("b@x")) is None


async def test_pools_never_meet(subjects: SubjectStore) -> None:
    one = await known(subjects, caller("alice", email("a@x")))
    other = await known(subjects, caller("alice", email("a@x"), pool="bank"))
    assert one.customer != other.customer
    assert await subjects.find("bank", sub("alice")) == other.customer


async def test_a_known_caller_takes_no_lock_and_two_queries(
    subjects: SubjectStore, store: Store
) -> None:
    introduction = caller("alice", email("a@x"), visitor="v", merge=True, remembered=(device("d"),))
    record = await known(subjects, introduction)
    statements: list[str] = []

    def heard(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(store.engine.sync_engine, "before_cursor_execute", heard)
    async with store.engine.begin() as writer:
        await writer.execute(text("UPDATE subject_counters SET value = value"))
        statements.clear()
        async with asyncio.timeout(4):
            assert await known(subjects, introduction) == record
    assert [each.split()[0] for each in statements if not each.startswith("BEGIN")] == [
        "SELECT", "SELECT",
    ]  # fmt: skip


async def test_whom_a_merge_took_in_is_found_by_the_old_id(subjects: SubjectStore) -> None:
    one = await known(subjects, caller("alice", email("a@x")))
    other = await known(subjects, caller(sub("s", SOCIAL)))
    merged = await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    assert merged.customer == other.customer
    assert merged.version > max(one.version, other.version)
    for id_ in (one.customer, other.customer):
        found = await subjects.record(id_, "admin", "a test")
        assert found == merged
        assert await subjects.survivor(id_) == merged.customer
    assert await known(subjects, caller("alice")) == merged
    assert await subjects.record("cus_nobody", "admin", "a test") is None


async def test_merged_history_is_one(subjects: SubjectStore, clock: Clock) -> None:
    visitor = await known(subjects, guest("v"))
    assert visitor.anonymous
    await subjects.set_attributes(visitor.customer, {"d/lang": Offered("fr", "page")})
    await subjects.set_attributes(visitor.customer, {"d/tier": Offered("old", "page")})
    await subjects.set_segments(visitor.customer, ["curious"])
    await subjects.raise_risk(visitor.customer, 40, 3600, "failed")
    clock.now += 10
    alice = await known(subjects, caller("alice"))
    await subjects.set_attributes(alice.customer, {"d/tier": Offered("gold", "crm")})
    await subjects.set_segments(alice.customer, ["vip"])
    merged = await known(subjects, caller("alice", visitor="v", merge=True))
    assert merged.customer == alice.customer
    assert {each.name: each.value for each in merged.attributes} == {
        "d/lang": "fr", "d/tier": "gold",
    }  # fmt: skip
    assert merged.segments == {"curious", "vip"}
    assert 39 < merged.risk.points_at(clock.now) < 40
    assert not merged.anonymous


async def test_a_conflict_is_written_down_once(subjects: SubjectStore) -> None:
    alice = await known(subjects, caller("alice", email("a@x")))
    for _ in range(3):
        bob = await known(subjects, caller("bob", email("a@x")))
    assert bob.customer != alice.customer
    assert [(each.kind, each.other) for each in await subjects.links(bob.customer)] == [
        ("created", None), ("conflict", alice.customer),
    ]  # fmt: skip
    assert await subjects.find("shop", email("a@x")) == alice.customer


async def test_an_anonymous_record_learns_that_somebody_logged_in(subjects: SubjectStore) -> None:
    visitor = await known(subjects, guest("v"))
    alice = await known(subjects, caller("alice", visitor="v", merge=True))
    assert (alice.customer, alice.anonymous) == (visitor.customer, False)


async def test_claims_fill_what_is_missing_and_never_what_somebody_said(
    subjects: SubjectStore, clock: Clock
) -> None:
    claims = {"d/name": Offered("Al", "token"), "d/city": Offered("Ulm", "token", clock.now + 100)}
    first = await known(subjects, caller("alice", attributes=claims))
    assert [(each.name, each.value) for each in first.attributes] == [
        ("d/city", "Ulm"), ("d/name", "Al"),
    ]  # fmt: skip
    assert (await known(subjects, caller("alice", attributes=claims))).version == first.version
    await subjects.set_attributes(first.customer, {"d/name": Offered("Alice", "customer")})
    later = {"d/name": Offered("Al", "token"), "d/city": Offered("Bonn", "token", clock.now + 100)}
    second = await known(subjects, caller("alice", attributes=later))
    assert [each.value for each in second.attributes] == ["Bonn", "Alice"]
    # The same value renews its time, but not at each request.
    renewed = {"d/city": Offered("Bonn", "token", clock.now + 140)}
    assert (await known(subjects, caller("alice", attributes=renewed))).version == second.version
    renewed = {"d/city": Offered("Bonn", "token", clock.now + 300)}
    third = await known(subjects, caller("alice", attributes=renewed))
    assert third.attributes[0].expires == clock.now + 300


async def test_a_new_device_of_a_known_customer_is_reported_once_and_joins_nobody(
    subjects: SubjectStore,
) -> None:
    first = await known(subjects, caller("alice", remembered=(device("d1"),)))
    assert first.novel == frozenset()  # all is new of somebody new
    second = await known(subjects, caller("alice", remembered=(device("d2"),)))
    assert second.novel == {"device"}
    again = await known(subjects, caller("alice", remembered=(device("d2"), device("d1"))))
    assert again.novel == frozenset()
    bob = await known(subjects, caller("bob", remembered=(device("d1"),)))
    assert bob.customer != first.customer


async def test_only_so_many_devices_are_remembered(subjects: SubjectStore, clock: Clock) -> None:
    for number in range(MOST_DEVICES + 5):
        clock.now += 1
        record = await known(subjects, caller("alice", remembered=(device(str(number)),)))
    assert len(record.remembered) == MOST_DEVICES
    assert record.remembered[-1] == device(str(MOST_DEVICES + 4))


@pytest.mark.parametrize(
    "wrong",
    [
        Introduction("", sub("a")),
        Introduction("shop", email("a@x")),
        Introduction("shop", sub("a", "")),
        Introduction("shop", sub("")),
        Introduction("shop", sub("a\0")),
        Introduction("shop", sub("\ud800")),
        Introduction("shop", sub("a" * 2049)),
        Introduction("shop", sub("a"), tuple(email(str(n)) for n in range(MOST_OTHERS + 1))),
        Introduction("shop", sub("a"), (Identifier("visitor", "", "v"),)),
        Introduction("shop", sub("a"), attributes={"d/x": Offered(float("nan"), "token")}),
        Introduction("shop", sub("a"), attributes={"d/x": Offered("x" * 20_000, "token")}),
    ],
)
async def test_what_no_sidecar_should_say_is_refused(
    subjects: SubjectStore, wrong: Introduction
) -> None:
    with pytest.raises(NotStored):
        await subjects.resolve(wrong, "edge")
    assert await subjects.changes_since(0) == (frozenset(), 0)


async def test_any_words_come_back_as_they_went_in(subjects: SubjectStore) -> None:
    odd = sub("'; DROP TABLE subjects; --\n\t\\ \u202e Ω 🙂", "https://ü.example/%_?")
    made = await known(subjects, caller(odd))
    assert made.identifiers == (odd,)
    assert await subjects.find("shop", odd) == made.customer


async def test_a_failure_names_no_values(subjects: SubjectStore, store: Store) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(text("DROP TABLE subject_identifiers"))
    with pytest.raises(StoreFailed) as failed:
        await known(subjects, caller("alice-is-secret"))
    assert "alice" not in str(failed.value)


async def test_many_at_once_make_one_customer_of_one(subjects: SubjectStore) -> None:
    records = await asyncio.gather(
        *(known(subjects, caller("alice", email("a@x"), account(str(n % 3)))) for n in range(24))
    )
    assert len({record.customer for record in records}) == 1
    final = await known(subjects, caller("alice"))
    assert len(final.identifiers) == 5


async def test_two_replicas_link_as_one(subjects: SubjectStore, url: str, clock: Clock) -> None:
    if url.startswith("sqlite"):
        pytest.skip("an SQLite file has one control plane")
    second = await Store.open(url, clock=clock)
    replicas = (subjects, SubjectStore(second.engine, clock))
    logins = [
        caller(sub("s", f"https://{n % 6}.example"), email(str(n % 2)), account("7"))
        for n in range(36)
    ]
    await asyncio.gather(*(known(replicas[n % 2], each) for n, each in enumerate(logins)))
    found = {await subjects.find("shop", each) for one in logins for each in one.joining}
    assert len(found) == 1
    await second.close()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=st.lists(callers, min_size=2, max_size=10), number=st.uuids())
async def test_whatever_comes_at_once_nobody_is_two_and_no_two_are_one(
    subjects: SubjectStore, sequence: list[Introduction], number: Any
) -> None:
    pool = str(number)
    mine = [
        Introduction(pool, each.primary, each.others, (), each.visitor, each.merge_visitor)
        for each in sequence
    ]
    await asyncio.gather(*(known(subjects, each) for each in mine))
    records = [await known(subjects, each) for each in mine]
    by_primary: dict[Identifier, str] = {}
    for introduction, record in zip(mine, records, strict=True):
        current = await known(subjects, introduction)
        assert by_primary.setdefault(introduction.primary, current.customer) == current.customer
        for issuer in (CORP, SOCIAL):
            own = [e for e in current.identifiers if e.type == "subject" and e.issuer == issuer]
            assert len(own) <= 1
        assert introduction.primary in record.identifiers


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edges=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.lists(st.sampled_from([email(str(n)) for n in range(3)]), max_size=2),
        ),
        max_size=8,
    ),
    number=st.uuids(),
)
async def test_without_conflicts_whoever_is_connected_is_one(
    subjects: SubjectStore, edges: list[tuple[int, list[Identifier]]], number: Any
) -> None:
    mine = [caller(sub("s", f"https://{n}.example"), *others, pool=str(number))
            for n, others in edges]  # fmt: skip
    await asyncio.gather(*(known(subjects, each) for each in mine))
    groups = {frozenset((await known(subjects, each)).identifiers) for each in mine}
    assert groups == components(mine)
