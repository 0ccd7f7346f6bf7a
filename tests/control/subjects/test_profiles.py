"""What is known of a customer, on each database."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.control.subjects import profiles
from sidecar.control.subjects.records import NotStored, Offered
from sidecar.control.subjects.store import SubjectStore
from sidecar.control.subjects.transactions import NoCustomer
from tests.control.subjects.callers import caller, known
from tests.control.subjects.conftest import Clock


@pytest.fixture
async def alice(subjects: SubjectStore) -> str:
    return (await known(subjects, caller("alice"))).customer


async def test_attributes_have_a_source_and_a_time(
    subjects: SubjectStore, alice: str, clock: Clock
) -> None:
    values = {"d/name": Offered({"first": "Ä"}, "page"), "d/age": Offered(7, "crm", clock.now + 5)}
    await subjects.set_attributes(alice, values)
    record = await known(subjects, caller("alice"))
    assert [tuple(each) for each in record.attributes] == [
        ("d/age", 7, "crm", 1_000_000.0, 1_000_005.0),
        ("d/name", {"first": "Ä"}, "page", 1_000_000.0, None),
    ]
    clock.now += 5  # nobody has expired it yet, and still it is not shown
    assert [each.name for each in (await known(subjects, caller("alice"))).attributes] == ["d/name"]


async def test_declined_until_answered(subjects: SubjectStore, alice: str, clock: Clock) -> None:
    await subjects.asked(alice, ["d/name", "d/age"])
    clock.now += 1
    await subjects.decline(alice, ["d/name"])
    record = await known(subjects, caller("alice"))
    assert record.declined == {"d/name": 1_000_001.0}
    assert record.asked == {"d/name": 1_000_000.0, "d/age": 1_000_000.0}
    await subjects.set_attributes(alice, {"d/name": Offered("A", "page")})
    record = await known(subjects, caller("alice"))
    assert (record.declined, record.attributes[0].value) == ({}, "A")
    assert record.asked["d/name"] == 1_000_000.0


async def test_segments_are_these_and_no_others(subjects: SubjectStore, alice: str) -> None:
    await subjects.set_segments(alice, {"a", "b"})
    await subjects.set_segments(alice, {"b", "c"})
    record = await known(subjects, caller("alice"))
    assert record.segments == {"b", "c"}
    await subjects.set_segments(alice, {"c", "b"})
    assert (await known(subjects, caller("alice"))).version == record.version


async def test_risk_rises_decays_and_has_an_end(
    subjects: SubjectStore, alice: str, clock: Clock
) -> None:
    assert (await subjects.raise_risk(alice, 40, 100, "login.failed")).points == 40
    clock.now += 100
    assert (await subjects.raise_risk(alice, 5, 100, "new.device")).points == 25
    assert (await known(subjects, caller("alice"))).risk.points_at(clock.now + 100) == 12.5
    assert (await subjects.raise_risk(alice, 90, 100, "stolen")).points == 100
    clock.now -= 1000  # a clock that went back
    assert (await known(subjects, caller("alice"))).risk.points_at(clock.now) == 100
    for points, half_life in (
        (-1, 100),
        (101, 100),
        (1, 0),
        (float("nan"), 100),
        (1, float("nan")),
    ):
        with pytest.raises(NotStored):
            await subjects.raise_risk(alice, points, half_life, "x")


async def test_no_signal_is_lost_of_many_at_once(subjects: SubjectStore, alice: str) -> None:
    await asyncio.gather(*(subjects.raise_risk(alice, 1, 100, "s") for _ in range(20)))
    assert (await known(subjects, caller("alice"))).risk.points == 20


async def test_a_profile_has_bounds_and_an_owner(
    subjects: SubjectStore, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "MOST_KEPT", 2)
    await subjects.asked(alice, ["a", "b"])
    with pytest.raises(NotStored, match="at most 2"):
        await subjects.set_attributes(alice, {"c": Offered(1, "page")})
    await subjects.set_attributes(alice, {"b": Offered(1, "page")})
    for call in (
        subjects.set_attributes("cus_nobody", {"a": Offered(1, "page")}),
        subjects.decline("cus_nobody", ["a"]),
        subjects.set_segments("cus_nobody", ["a"]),
        subjects.raise_risk("cus_nobody", 1, 60, "s"),
    ):
        with pytest.raises(NoCustomer):
            await call
    with pytest.raises(NotStored):
        await subjects.set_attributes(alice, {"a": Offered(object(), "page")})
    with pytest.raises(NotStored):
        await subjects.set_segments(alice, ["a\0"])
