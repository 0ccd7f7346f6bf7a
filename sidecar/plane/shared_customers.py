"""Customers for several workers: the supervisor has the stream, each worker its own records.

A key is followed for as long as one worker holds it. What came last is kept for the next worker
that meets the same customer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import SpendConsent
from sidecar.decide.subjects import Subject
from sidecar.facts.customers import Customers, Event, Link, NoLink, Spending
from sidecar.plane import messages

MOST_USES: Final = 10_000  # under way
MOST_EVENTS: Final = 50_000  # that wait to be taken, those of workers that are gone among them

Say = Callable[[messages.FromWorker], None]
Tell = Callable[[int, messages.ToWorker], None]
"""(worker, message): sent soon, in order."""


class WorkerLink:
    """In a worker: what asks the supervisor."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def introduce(self, key: str, introduction: Introduction) -> None:
        self._say(messages.Introduce(key, introduction))

    def release(self, keys: list[str]) -> None:
        self._say(messages.Release(keys))

    def spend(self, use: str, effect: SpendConsent) -> None:
        self._say(messages.Spend(use, effect.customer, effect.purpose, effect.binding))

    def report(self, events: list[Event]) -> None:
        self._say(messages.Report([(e.id, e.customer, e.type, e.time, e.data) for e in events]))


def hear(customers: Customers, message: messages.AboutCustomers) -> None:
    """In a worker: what the supervisor says."""
    match message:
        case messages.Record(key, subject):
            customers.take(key, subject)
        case messages.NoRecord(key, reason):
            customers.unknown(key, reason)
        case messages.Spent(use, outcome):
            customers.spent(use, Spending(outcome))
        case messages.Taken(ids):
            customers.taken(ids)
        case messages.CustomerKeys(visitor, ticket):
            customers.keys(visitor, ticket)
        case messages.CustomersLost(since, away):
            if since is None:
                customers.connected()
            else:
                customers.disconnected(since)
            if away:
                customers.away()


class SharedCustomers:
    """In the supervisor: hears the stream for all workers. `tell` reaches one of them."""

    def __init__(self, workers: int, tell: Tell) -> None:
        self.link: Link = NoLink()
        self._workers = range(workers)
        self._tell = tell
        self._held: dict[str, set[int]] = {}  # key -> workers
        self._records: dict[str, Subject] = {}
        self._introductions: dict[str, Introduction] = {}  # not answered yet
        self._uses: dict[str, int] = {}  # of which worker
        self._events: dict[str, tuple[int, Event]] = {}
        self._keys = messages.CustomerKeys(b"", b"")
        self._lost: float | None = 0.0
        self._away = False

    # What workers say.

    def receive(self, worker: int, message: messages.AskingCustomers) -> None:
        match message:
            case messages.Introduce(key, introduction):
                self._introduce(worker, key, introduction)
            case messages.Release(keys):
                for key in keys:
                    self._drop(worker, key)
            case messages.Spend(use, customer, purpose, binding):
                while len(self._uses) >= MOST_USES:  # of which nobody heard again
                    del self._uses[next(iter(self._uses))]
                self._uses[use] = worker
                self.link.spend(use, SpendConsent(customer, purpose, binding))
            case messages.Report(events):
                found = [Event(*each) for each in events]
                self._events |= {each.id: (worker, each) for each in found}
                while len(self._events) > MOST_EVENTS:
                    del self._events[next(iter(self._events))]
                self.link.report(found)

    def welcome(self, worker: int) -> None:
        """One more has begun: all that is known, before anything is decided there."""
        self._tell(worker, self._keys)
        self._tell(worker, messages.CustomersLost(self._lost, self._away))

    def gone(self, worker: int) -> None:
        """One has ended, and holds nothing any more."""
        for key in [key for key, workers in self._held.items() if worker in workers]:
            self._drop(worker, key)
        self._uses = {use: whose for use, whose in self._uses.items() if whose != worker}

    def _introduce(self, worker: int, key: str, introduction: Introduction) -> None:
        held = self._held.setdefault(key, set())
        known = self._records.get(key) if worker not in held else None  # it wants a newer one
        held.add(worker)
        if known is not None and known.introduced(introduction.visitor):
            self._tell(worker, messages.Record(key, known))
            return
        self._introductions[key] = introduction
        self.link.introduce(key, introduction)

    def _drop(self, worker: int, key: str) -> None:
        workers = self._held.get(key)
        if workers is None:
            return
        workers.discard(worker)
        if not workers:
            del self._held[key]
            self._records.pop(key, None)
            self._introductions.pop(key, None)
            self.link.release([key])

    # What the stream says.

    def take(self, key: str, subject: Subject | None) -> None:
        """To every worker that holds it."""
        workers = self._held.get(key)
        if workers is None:
            self.link.release([key])
            return
        self._introductions.pop(key, None)
        if subject is None:
            self._records.pop(key, None)
        else:
            self._records[key] = subject
        for worker in list(workers):
            self._tell(worker, messages.Record(key, subject))

    def unknown(self, key: str, reason: str) -> None:
        self._introductions.pop(key, None)
        self._records.pop(key, None)
        for worker in self._held.get(key, ()):
            self._tell(worker, messages.NoRecord(key, reason))

    def spent(self, use: str, outcome: Spending) -> None:
        worker = self._uses.pop(use, None)
        if worker is not None:
            self._tell(worker, messages.Spent(use, outcome.value))

    def taken(self, ids: Iterable[str]) -> None:
        by_worker: dict[int, list[str]] = {}
        for each in ids:
            found = self._events.pop(each, None)
            if found is not None:
                by_worker.setdefault(found[0], []).append(each)
        for worker, theirs in by_worker.items():
            self._tell(worker, messages.Taken(theirs))

    def keys(self, visitor: bytes, ticket: bytes) -> None:
        self._keys = messages.CustomerKeys(visitor, ticket)
        for worker in self._workers:
            self._tell(worker, self._keys)

    def connected(self) -> None:
        self._away = False
        self._now(None)

    def disconnected(self, since: float) -> None:
        self._now(since)

    def away(self) -> None:
        if not self._away:
            self._away = True
            for worker in self._workers:
                self._tell(worker, messages.CustomersLost(self._lost, True))

    def again(self) -> None:
        for key, introduction in self._introductions.items():
            self.link.introduce(key, introduction)
        if self._events:
            self.link.report([event for _, event in self._events.values()])

    def _now(self, lost: float | None) -> None:
        if (self._lost is None) is not (lost is None):
            self._lost = lost
            for worker in self._workers:
                self._tell(worker, messages.CustomersLost(lost))
