"""Customers that a process meets, against a link that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import Identity, SpendConsent, Unavailable
from sidecar.decide.subjects import Subject
from sidecar.facts import customers as module
from sidecar.facts.customers import CROWDED, UNAVAILABLE, Customers, Event, Spending, key_of

ALICE, BOB, EVE = (Identity("https://idp.example", name) for name in ("alice", "bob", "eve"))
PAY = SpendConsent("cus_1", "default/pay", "")


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Link:
    """What was said, in order."""

    def __init__(self) -> None:
        self.introduced: list[str] = []
        self.released: list[str] = []
        self.uses: list[str] = []
        self.events: list[Event] = []

    def introduce(self, key: str, introduction: Introduction) -> None:
        self.introduced.append(key)

    def release(self, keys: list[str]) -> None:
        self.released += keys

    def spend(self, use: str, effect: SpendConsent) -> None:
        self.uses.append(use)

    def report(self, events: list[Event]) -> None:
        self.events += events


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link() -> Link:
    return Link()


def known(link: Link, clock: Clock, **settings: Any) -> Customers:
    """Connected, with answers that may take as long as a test does."""
    found = Customers(clock=clock, **{"answer": 60.0, **settings})
    found.link = link
    found.connected()
    return found


def introduction(identity: Identity) -> Introduction:
    return Introduction("default/", identity)


async def begun(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Work that has gone as far as it can by itself."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def test_somebody_is_asked_about_once_and_all_who_wait_get_the_record(
    link: Link, clock: Clock
) -> None:
    customers = known(link, clock)
    assert customers.get(ALICE, clock.now) is None
    waiting = [await begun(customers.fetch(ALICE, introduction(ALICE))) for _ in range(3)]
    assert link.introduced == [key_of(ALICE)]
    record = Subject(customer="cus_1")
    customers.take(key_of(ALICE), record)
    await asyncio.gather(*waiting)
    assert customers.get(ALICE, clock.now) is record
    assert customers.outcomes == {"known": 1}


async def test_identities_that_look_alike_have_keys_of_their_own() -> None:
    assert key_of(Identity("a b", "c")) != key_of(Identity("a", "b c"))
    assert len(key_of(Identity("\ud800", "x"))) == 32


async def test_of_nobody_nobody_is_asked(link: Link, clock: Clock) -> None:
    customers = known(link, clock)
    await customers.fetch(ALICE, None)
    assert link.introduced == []


async def test_silence_is_an_answer_for_a_second(link: Link, clock: Clock) -> None:
    customers = known(link, clock, answer=0.0)
    await customers.fetch(ALICE, introduction(ALICE))
    assert customers.get(ALICE, clock.now) == UNAVAILABLE
    assert customers.get(ALICE, clock.now + 0.99) == UNAVAILABLE
    assert customers.get(ALICE, clock.now + 1.0) is None
    assert customers.outcomes == {"silent": 1}
    customers.take(key_of(ALICE), Subject(customer="cus_1"))  # better late than never
    assert isinstance(customers.get(ALICE, clock.now), Subject)


async def test_silence_about_what_is_asked_anew_leaves_what_is_held(
    link: Link, clock: Clock
) -> None:
    customers = known(link, clock, answer=0.0)
    record = Subject(customer="cus_1")
    waiting = await begun(customers.fetch(ALICE, introduction(ALICE)))
    customers.take(key_of(ALICE), record)
    await waiting
    await customers.refresh(ALICE)
    assert customers.get(ALICE, clock.now) is record


async def test_whoever_cannot_be_had_is_unavailable_for_the_reason_that_was_given(
    link: Link, clock: Clock
) -> None:
    customers = known(link, clock)
    for reason, expected in (("subject_refused", "subject_refused"), ("", "subject_unavailable")):
        waiting = await begun(customers.fetch(ALICE, introduction(ALICE)))
        customers.unknown(key_of(ALICE), reason)
        await waiting
        assert customers.get(ALICE, clock.now) == Unavailable(expected)
        clock.now += 1.0
    customers.unknown("another", "x")  # of whom nothing is held
    assert customers.outcomes == {"failed": 2}


async def test_at_the_bound_the_one_not_looked_at_for_longest_is_let_go(
    link: Link, clock: Clock
) -> None:
    customers = known(link, clock, bound=2)
    for who in (ALICE, BOB):
        waiting = await begun(customers.fetch(who, introduction(who)))
        customers.take(key_of(who), Subject(customer=who.subject))
        await waiting
    assert customers.get(ALICE, clock.now) is not None
    waiting = await begun(customers.fetch(EVE, introduction(EVE)))
    assert link.released == [key_of(BOB)]
    assert (len(customers), customers.evictions) == (2, 1)
    assert customers.get(BOB, clock.now) is None
    customers.take(key_of(BOB), Subject())  # it crossed our word that we let go of it
    assert customers.get(BOB, clock.now) is None
    assert link.released == [key_of(BOB), key_of(BOB)]
    customers.take(key_of(EVE), Subject())
    await waiting


async def test_whoever_is_waited_for_is_not_let_go_of(link: Link, clock: Clock) -> None:
    customers = known(link, clock, bound=1)
    waiting = [await begun(customers.fetch(who, introduction(who))) for who in (ALICE, BOB)]
    assert link.released == []
    for who in (ALICE, BOB):
        customers.take(key_of(who), Subject(customer=who.subject))
    await asyncio.gather(*waiting)


async def test_too_many_at_once_are_turned_away_and_keep_what_is_held(
    link: Link, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASKED", 1)
    customers = known(link, clock)
    record = Subject(customer="cus_1")
    waiting = await begun(customers.fetch(ALICE, introduction(ALICE)))
    customers.take(key_of(ALICE), record)
    await waiting
    waiting = await begun(customers.fetch(BOB, introduction(BOB)))
    await customers.fetch(EVE, introduction(EVE))
    assert customers.get(EVE, clock.now) == CROWDED
    await customers.refresh(ALICE)
    assert customers.get(ALICE, clock.now) is record
    assert customers.outcomes == {"known": 1, "crowded": 2}
    customers.take(key_of(BOB), Subject())
    await waiting
    waiting = await begun(customers.fetch(EVE, introduction(EVE)))
    assert link.introduced[-1] == key_of(EVE)
    waiting.cancel()


@pytest.mark.parametrize("why", ["for long", "nobody answered"])
async def test_in_the_dark_the_answer_comes_at_once(link: Link, clock: Clock, why: str) -> None:
    customers = known(link, clock, answer=2.0)
    record = Subject(customer="cus_1")
    waiting = await begun(customers.fetch(ALICE, introduction(ALICE)))
    customers.take(key_of(ALICE), record)
    await waiting
    customers.disconnected(clock.now)
    if why == "for long":
        clock.now += 2.1
    else:
        customers.away()
    link.introduced.clear()
    await customers.fetch(BOB, introduction(BOB))
    assert customers.get(BOB, clock.now) == UNAVAILABLE
    await customers.refresh(ALICE)
    assert customers.get(ALICE, clock.now) is record  # how long it is good for, rules say
    assert link.introduced == []
    assert customers.lost() == 1_000.0
    customers.connected()
    assert customers.lost() is None
    waiting = await begun(customers.fetch(BOB, introduction(BOB)))
    assert link.introduced == [key_of(BOB)]
    waiting.cancel()


async def test_a_connection_that_just_broke_is_waited_for_and_all_is_said_again(
    link: Link, clock: Clock
) -> None:
    customers = known(link, clock)
    customers.disconnected(clock.now)
    waiting = await begun(customers.fetch(ALICE, introduction(ALICE)))
    customers.report("cus_1", "refused", {})
    link.introduced.clear()
    customers.again()
    assert link.introduced == [key_of(ALICE)]
    assert len(link.events) == 2
    assert link.events[0] == link.events[1]
    customers.take(key_of(ALICE), Subject())
    await waiting
    customers.again()
    assert link.introduced == [key_of(ALICE)]  # that was answered


async def test_until_somebody_was_there_nothing_counts_as_current(clock: Clock) -> None:
    assert Customers(clock=clock).lost() == clock.now
    assert await Customers(clock=clock).spend(PAY) is Spending.FAILED


async def test_only_a_record_that_was_known_and_is_another_now_is_news(
    link: Link, clock: Clock
) -> None:
    customers = known(link, clock)
    said: list[str] = []
    customers.changed = lambda: said.append("changed")
    waiting = await begun(customers.fetch(ALICE, introduction(ALICE)))
    customers.take(key_of(ALICE), Subject())
    await waiting
    assert said == []
    customers.take(key_of(ALICE), Subject())
    assert said == ["changed"]
    customers.unknown(key_of(ALICE), "subject_refused")
    assert said == ["changed"] * 2
    customers.take(key_of(ALICE), Subject())
    assert said == ["changed"] * 2
    customers.take(key_of(ALICE), None)
    assert said == ["changed"] * 3
    assert customers.get(ALICE, clock.now) is None
    assert link.released == [key_of(ALICE)]


async def test_a_use_is_counted_once_and_its_outcome_handed_on(link: Link, clock: Clock) -> None:
    customers = known(link, clock)
    for outcome in Spending:
        spending = await begun(customers.spend(PAY))
        customers.spent("another", Spending.SPENT)
        customers.spent(link.uses[-1], outcome)
        customers.spent(link.uses[-1], Spending.SPENT)  # said twice
        assert await spending is outcome
    assert len(set(link.uses)) == len(Spending)
    assert customers.spendings == {each.value: 1 for each in Spending}


async def test_a_use_that_nobody_answers_for_or_can_is_not_counted(
    link: Link, clock: Clock
) -> None:
    customers = known(link, clock, answer=0.0)
    assert await customers.spend(PAY) is Spending.FAILED
    customers.spent(link.uses[0], Spending.SPENT)  # too late
    customers.disconnected(clock.now)
    assert await customers.spend(PAY) is Spending.FAILED
    assert len(link.uses) == 1
    assert customers.spendings == {"failed": 2}


async def test_events_wait_until_they_are_taken_and_beyond_the_bound_are_lost(
    link: Link, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVENTS", 2)
    customers = known(link, clock)
    for _ in range(3):
        customers.report("cus_1", "refused", {"code": "denied"})
    customers.report("cus_1", "refused", {"large": "x" * module.LARGEST})
    assert customers.events_lost == 2
    first, second = link.events
    assert (first.customer, first.type, first.time) == ("cus_1", "refused", 1_000.0)
    assert first.id != second.id
    customers.taken([first.id, "another"])
    link.events.clear()
    customers.again()
    assert link.events == [second]


async def test_new_secrets_and_a_lost_link_are_said_once(link: Link, clock: Clock) -> None:
    customers = known(link, clock)
    said: list[int] = []
    customers.lost_or_found = lambda: said.append(1)
    customers.keys(b"v", b"t")
    customers.keys(b"v", b"t")
    assert (customers.visitor_secret, customers.ticket_secret, len(said)) == (b"v", b"t", 1)
    customers.disconnected(5.0)
    customers.disconnected(6.0)
    assert (customers.lost(), len(said)) == (5.0, 2)
    customers.connected()
    customers.connected()
    assert len(said) == 3
