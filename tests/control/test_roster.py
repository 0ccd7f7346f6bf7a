"""What replicas on one PostgreSQL know of each other's sidecars."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import func, select

from sidecar.control import roster as module
from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet
from sidecar.control.releases import Release
from sidecar.control.revocations import RevocationLog
from sidecar.control.rollouts.health import NOTHING, Tally
from sidecar.control.rollouts.tallies import to_plain
from sidecar.control.roster import Member, Roster
from sidecar.control.schema import replicas, roster
from sidecar.control.session import Session
from sidecar.control.store import Store
from sidecar.errors import StoreFailed
from sidecar.facts.releases import Manifest
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Ack, Hello, Nack, Subscription
from tests.postgresql import new_database
from tests.publishing import policy
from tests.publishing import release as signed


class Time:
    """Of `time.monotonic`, as the roster sees it."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Replica:
    store: Store
    fleet: Fleet
    roster: Roster
    time: Time

    def join(self, sidecar_id: str, since: float = 5.0, namespace: str = "default") -> Session:
        hello = Hello(
            sidecar_id=sidecar_id, namespace=namespace, labels={"app": "web"}, build="1.2",
            started=3, subscriptions=[Subscription(type=convert.RELEASE)],
        )  # fmt: skip
        session = Session(hello, address="10.0.0.1:1", since=since)
        self.fleet.join(session)
        return session

    async def refresh(self) -> None:
        """Not what was read a moment ago."""
        self.time.now += module.FRESH
        await self.roster.refresh()

    async def others(self) -> dict[str, Member]:
        await self.refresh()
        return {each.sidecar_id: each for each in self.roster.others()}


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(module, "time", found)
    monkeypatch.setattr(module, "FRESH", 0.25)  # seconds that add up without a rest
    return found


@pytest.fixture
def url() -> str:
    return new_database()


@pytest.fixture
async def two(time: Time, url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    found = []
    for _ in range(2):
        store, fleet = await Store.open(url), Fleet(100)
        found.append(Replica(store, fleet, Roster(store, fleet), time))
    yield found[0], found[1]
    for each in found:
        await each.store.close()


def catalogue(version: int) -> Catalogue:
    made = Catalogue()
    for namespace, number in (("default", version), ("platform", 0)):
        text = signed([policy()] if number else [], namespace=namespace, version=number)
        documents = (policy(),) if number else ()
        made.take([Release(Manifest.from_bytes(text.manifest), text, documents)])
    return made


def answered(session: Session, version: int, error: str = "") -> None:
    """It is sent a release, and confirms or refuses it."""
    message = session.next(catalogue(version), RevocationLog())
    assert message is not None
    nonce = message.push.nonce
    if error:
        nack = Nack(type=convert.RELEASE, nonce=nonce, error=error)
        assert session.nack(nack, RevocationLog())
    else:
        enforced = convert.enforced_to_wire({"default": version, "platform": 0})
        assert session.ack(Ack(type=convert.RELEASE, nonce=nonce, enforced=enforced))


async def test_each_hears_of_the_others_sidecars_and_not_of_its_own(
    two: tuple[Replica, Replica],
) -> None:
    here, there = two
    good, bad = here.join("good"), here.join("bad")
    answered(good, 1)
    answered(bad, 1, "not with me")
    there.join("own")
    for each in two:
        await each.roster.write()
    found = await there.others()
    assert found.keys() == {"good", "bad"}
    assert (await here.others()).keys() == {"own"}
    assert found["good"] == Member(
        "good", "default", here.roster.replica, {"app": "web"}, "1.2", "10.0.0.1:1", 5.0, 3,
        enforced={"default": 1, "platform": 0}, confirmed={"default": 1, "platform": 0},
    )  # fmt: skip
    assert found["bad"].refused == {"default": 1, "platform": 0}
    assert found["bad"].last_error == "not with me"
    assert found["bad"].behind is not None
    here.fleet.leave(good)
    await here.roster.write()
    assert (await there.others()).keys() == {"bad"}


async def test_one_that_moves_is_where_it_is_now(two: tuple[Replica, Replica], url: str) -> None:
    here, there = two
    here.join("mover", since=5.0)
    await here.roster.write()
    assert (await there.others()).keys() == {"mover"}
    there.join("mover", since=6.0)
    assert (await there.others()) == {}, "it is here"
    await there.roster.write()
    third_store = await Store.open(url)
    third = Replica(third_store, Fleet(10), Roster(third_store, Fleet(10)), here.time)
    try:
        assert (await third.others())["mover"].since == 6.0, "the stream that began last"
    finally:
        await third_store.close()


async def test_a_replica_that_stands_still_is_left_out_and_forgotten(
    two: tuple[Replica, Replica], time: Time
) -> None:
    here, there = two
    here.join("lost")
    await here.roster.write()
    assert (await there.others()).keys() == {"lost"}
    time.now += module.STILL - module.FRESH
    assert (await there.others()).keys() == {"lost"}
    assert await there.others() == {}
    # It was only slow: the next beat brings it back.
    await here.roster.write()
    assert (await there.others()).keys() == {"lost"}
    time.now += 61.0
    await there.others()
    assert await there.others() == {}
    async with there.store.reading() as connection:
        counts = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (roster, replicas)
        ]
    assert counts == [0, 0]


async def test_it_beats_while_nothing_changes_and_no_oftener(
    two: tuple[Replica, Replica], time: Time
) -> None:
    here, there = two
    here.join("one")

    async def beat() -> int:
        async with there.store.reading() as connection:
            return int((await connection.execute(select(replicas.c.beat))).scalar_one())

    await here.roster.write()
    assert await beat() == 1
    await here.roster.write()
    assert await beat() == 1
    time.now += module.BEAT
    await here.roster.write()
    assert await beat() == 2
    here.join("two")
    await here.roster.write()
    assert await beat() == 3


async def test_who_leaves_is_gone_at_once(two: tuple[Replica, Replica]) -> None:
    here, there = two
    here.join("one")
    await here.roster.write()
    assert (await there.others()).keys() == {"one"}
    await here.roster.leave()
    assert await there.others() == {}


async def test_what_sidecars_reported_is_heard_of_elsewhere(two: tuple[Replica, Replica]) -> None:
    here, there = two
    tallies = (Tally(10, 1, 0, 0, (5, 5)), Tally(20), NOTHING)
    here.roster.tallies = {"default@2/0": to_plain(tallies)}
    await here.roster.write()
    await there.refresh()
    assert there.roster.reported("default@2/0") == [tallies]
    assert there.roster.reported("default@2/1") == []
    here.roster.tallies = {}
    await here.roster.write()
    await there.refresh()
    assert there.roster.reported("default@2/0") == []


async def test_many_who_ask_at_a_time_read_once(
    two: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there = two
    reads = 0
    read = there.roster._refresh

    async def counted() -> None:
        nonlocal reads
        reads += 1
        await read()

    monkeypatch.setattr(there.roster, "_refresh", counted)
    await asyncio.gather(*(there.roster.refresh() for _ in range(20)))
    assert reads == 1
    await there.roster.refresh()
    assert reads == 1, "that was a moment ago"
    await there.refresh()
    assert reads == 2


async def test_a_thousand_of_them(two: tuple[Replica, Replica]) -> None:
    here, there = two
    here.fleet = here.roster._fleet = Fleet(2_000)
    sessions = [here.join(f"s{number}") for number in range(1_001)]
    await here.roster.write()
    assert len(await there.others()) == 1_001
    for each in sessions[:501]:
        here.fleet.leave(each)
    await here.roster.write()
    assert len(await there.others()) == 500


async def test_while_the_database_is_away_nobody_is_taken_for_gone(
    two: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose beat could not be heard is not who has no beat."""
    here, there = two
    there.join("far")
    await there.roster.write()
    assert set(await here.others()) == {"far"}

    @asynccontextmanager
    async def away() -> AsyncIterator[None]:
        raise StoreFailed("away")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(here.store, "transaction", away)
        with pytest.raises(StoreFailed):
            await here.refresh()
        here.time.now += module.STILL + 3
    assert set(await here.others()) == {"far"}
    here.time.now += module.STILL + 1
    assert set(await here.others()) == set()
