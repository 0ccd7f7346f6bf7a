"""Customers for several workers: the supervisor's part, and a worker's, with the pipe between."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import Identity, SpendConsent, Unavailable
from sidecar.decide.subjects import Subject
from sidecar.facts.customers import Customers, Event, Spending, key_of
from sidecar.plane import messages, shared_customers
from sidecar.plane.shared_customers import SharedCustomers, WorkerLink, hear

ALICE = Identity("https://idp.example", "alice")
KEY = key_of(ALICE)
RECORD = Subject(customer="cus_1")
NOW = 1_000.0


class Stream:
    """What the supervisor says, in order."""

    def __init__(self) -> None:
        self.introduced: list[Introduction] = []
        self.released: list[str] = []
        self.uses: list[str] = []
        self.events: list[str] = []

    def introduce(self, key: str, introduction: Introduction) -> None:
        self.introduced.append(introduction)

    def release(self, keys: list[str]) -> None:
        self.released += keys

    def spend(self, use: str, effect: SpendConsent) -> None:
        self.uses.append(use)

    def report(self, events: list[Event]) -> None:
        self.events += [each.id for each in events]


class Plane:
    """A supervisor and its workers; what is told arrives at once."""

    def __init__(self, workers: int = 2) -> None:
        self.told: list[tuple[int, messages.ToWorker]] = []
        self.shared = SharedCustomers(workers, self._tell)
        self.stream = self.shared.link = Stream()
        self.workers = [self._worker(number) for number in range(workers)]
        for number in range(workers):
            self.shared.welcome(number)
        self.shared.connected()

    def _worker(self, number: int) -> Customers:
        made = Customers(answer=60.0, clock=lambda: NOW)

        def say(message: messages.FromWorker) -> None:
            assert isinstance(message, messages.AskingCustomers)
            self.shared.receive(number, message)

        made.link = WorkerLink(say)
        return made

    def _tell(self, worker: int, message: messages.ToWorker) -> None:
        self.told.append((worker, message))
        assert isinstance(message, messages.AboutCustomers)
        if hasattr(self, "workers"):
            hear(self.workers[worker], message)

    def records(self) -> list[int]:
        return [worker for worker, each in self.told if isinstance(each, messages.Record)]

    async def asks(self, worker: int, visitor: str = "") -> asyncio.Task[None]:
        introduction = Introduction("default/", ALICE, visitor=visitor)
        task = asyncio.create_task(self.workers[worker].fetch(ALICE, introduction))
        await asyncio.sleep(0)
        return task

    def seen(self, worker: int) -> Subject | Unavailable | None:
        return self.workers[worker].get(ALICE, NOW)


async def test_workers_that_meet_the_same_customer_are_told_of_every_change() -> None:
    plane = Plane()
    waiting = [await plane.asks(0), await plane.asks(1)]
    plane.shared.take(KEY, RECORD)
    await asyncio.gather(*waiting)
    assert plane.seen(0) is plane.seen(1) is RECORD
    newer = Subject(customer="cus_1")
    plane.shared.take(KEY, newer)
    assert plane.seen(0) is plane.seen(1) is newer
    assert plane.stream.released == []


async def test_the_next_worker_gets_what_came_last_and_nobody_is_asked() -> None:
    plane = Plane()
    waiting = await plane.asks(0)
    plane.shared.take(KEY, RECORD)
    await waiting
    await (await plane.asks(1))
    assert plane.seen(1) is RECORD
    assert len(plane.stream.introduced) == 1


async def test_a_visitor_that_was_not_heard_of_is_said() -> None:
    plane = Plane()
    waiting = await plane.asks(0)
    plane.shared.take(KEY, RECORD)
    await waiting
    waiting = await plane.asks(1, "v1")
    assert plane.stream.introduced[-1].visitor == "v1"
    record = Subject(customer="cus_1", visitors=frozenset(["v1"]))
    plane.shared.take(KEY, record)
    await waiting
    assert plane.seen(0) is plane.seen(1) is record


async def test_a_worker_that_asks_again_wants_a_newer_one() -> None:
    plane = Plane()
    waiting = await plane.asks(0)
    plane.shared.take(KEY, RECORD)
    await waiting
    refreshing = asyncio.create_task(plane.workers[0].refresh(ALICE))
    await asyncio.sleep(0)
    assert len(plane.stream.introduced) == 2
    newer = Subject(customer="cus_1")
    plane.shared.take(KEY, newer)
    await refreshing
    assert plane.seen(0) is newer


async def test_it_is_let_go_of_once_no_worker_holds_it() -> None:
    plane = Plane()
    waiting = [await plane.asks(0), await plane.asks(1)]
    plane.shared.take(KEY, RECORD)
    await asyncio.gather(*waiting)
    plane.shared.receive(0, messages.Release([KEY]))
    assert plane.stream.released == []
    plane.shared.receive(0, messages.Release([KEY, "another"]))
    assert plane.stream.released == []
    plane.shared.gone(1)
    assert plane.stream.released == [KEY]
    plane.told.clear()
    plane.shared.take(KEY, RECORD)  # on its way when it was let go of
    assert plane.records() == []
    assert plane.stream.released == [KEY, KEY]


async def test_what_is_there_no_more_is_dropped_by_all_and_let_go_of() -> None:
    plane = Plane()
    waiting = [await plane.asks(0), await plane.asks(1)]
    plane.shared.take(KEY, RECORD)
    await asyncio.gather(*waiting)
    plane.shared.take(KEY, None)
    assert plane.seen(0) is plane.seen(1) is None
    assert plane.stream.released == [KEY]
    assert len(plane.workers[0]) == 0


async def test_that_nobody_can_say_is_said_to_whoever_asked() -> None:
    plane = Plane()
    waiting = await plane.asks(1)
    plane.told.clear()
    plane.shared.unknown(KEY, "subject_refused")
    await waiting
    assert plane.seen(1) == Unavailable("subject_refused")
    assert plane.told == [(1, messages.NoRecord(KEY, "subject_refused"))]
    plane.shared.again()
    assert len(plane.stream.introduced) == 1  # it was answered


async def test_what_was_not_answered_is_said_again() -> None:
    plane = Plane()
    waiting = await plane.asks(0)
    plane.workers[1].report("cus_1", "refused", {})
    plane.shared.again()
    assert len(plane.stream.introduced) == 2
    assert len(plane.stream.events) == 2
    plane.shared.take(KEY, RECORD)
    await waiting


async def test_uses_and_events_are_answered_to_the_worker_whose_they_are() -> None:
    plane = Plane()
    spending = [
        asyncio.create_task(worker.spend(SpendConsent("cus_1", "default/pay", "")))
        for worker in plane.workers
    ]
    await asyncio.sleep(0)
    first, second = plane.stream.uses
    plane.shared.spent(second, Spending.EXHAUSTED)
    plane.shared.spent(first, Spending.SPENT)
    plane.shared.spent(first, Spending.EXHAUSTED)  # said twice
    assert await asyncio.gather(*spending) == [Spending.SPENT, Spending.EXHAUSTED]
    for worker in plane.workers:
        worker.report("cus_1", "refused", {})
    plane.told.clear()
    plane.shared.taken([*plane.stream.events, "another"])
    one, other = plane.stream.events
    assert plane.told == [(0, messages.Taken([one])), (1, messages.Taken([other]))]
    plane.stream.events.clear()
    plane.shared.again()
    for worker in plane.workers:
        worker.again()
    assert plane.stream.events == []


async def test_what_a_worker_that_is_gone_waited_for_is_nobodys() -> None:
    plane = Plane()
    spending = asyncio.create_task(plane.workers[0].spend(SpendConsent("c", "default/pay", "")))
    await asyncio.sleep(0)
    plane.workers[0].report("cus_1", "refused", {})
    plane.shared.gone(0)
    plane.told.clear()
    plane.shared.spent(plane.stream.uses[0], Spending.SPENT)
    assert plane.told == []
    plane.shared.again()
    assert len(plane.stream.events) == 2  # what it said is true still
    spending.cancel()


async def test_there_is_a_bound_to_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_customers, "MOST_USES", 2)
    monkeypatch.setattr(shared_customers, "MOST_EVENTS", 2)
    plane = Plane()
    for number in range(4):
        plane.shared.receive(0, messages.Spend(f"u{number}", "c", "p", ""))
        plane.shared.receive(0, messages.Report([(f"e{number}", "c", "refused", 1.0, b"{}")]))
    plane.told.clear()
    for number in range(4):
        plane.shared.spent(f"u{number}", Spending.SPENT)
    assert [each for _, each in plane.told] == [
        messages.Spent("u2", "spent"), messages.Spent("u3", "spent"),
    ]  # fmt: skip
    plane.stream.events.clear()
    plane.shared.again()
    assert plane.stream.events == ["e2", "e3"]


def test_a_worker_begins_with_all_that_is_known() -> None:
    told: list[messages.ToWorker] = []
    shared = SharedCustomers(1, lambda worker, message: told.append(message))
    shared.welcome(0)
    # Before the first word of anybody nothing counts as current.
    assert told == [messages.CustomerKeys(b"", b""), messages.CustomersLost(0.0, False)]
    shared.keys(b"v", b"t")
    shared.connected()
    shared.disconnected(5.0)
    shared.disconnected(6.0)
    shared.away()
    shared.away()
    assert told[2:] == [
        messages.CustomerKeys(b"v", b"t"), messages.CustomersLost(None),
        messages.CustomersLost(5.0), messages.CustomersLost(5.0, True),
    ]  # fmt: skip
    told.clear()
    shared.welcome(0)
    assert told == [messages.CustomerKeys(b"v", b"t"), messages.CustomersLost(5.0, True)]
    worker = Customers(clock=lambda: NOW)
    for message in told:
        assert isinstance(message, messages.AboutCustomers)
        hear(worker, message)
    assert (worker.visitor_secret, worker.ticket_secret) == (b"v", b"t")
    assert worker.lost() == NOW  # its own beginning: it has never been current


async def test_a_worker_in_the_dark_answers_at_once() -> None:
    plane = Plane(1)
    plane.shared.disconnected(NOW)
    plane.shared.away()
    await plane.workers[0].fetch(ALICE, Introduction("default/", ALICE))
    assert plane.seen(0) == Unavailable("subject_unavailable")
    assert plane.stream.introduced == []
    plane.shared.connected()
    waiting = await plane.asks(0)
    plane.shared.take(KEY, RECORD)
    await waiting
    assert plane.seen(0) is RECORD
