"""The customers that this process meets: their records, bounded, kept current by whom it asks.

Whoever keeps customers is asked once about each and says by itself what changes; `Link` is the way
there: the control plane's stream (`subject_stream`), or from a worker the process that has it. The
records least recently looked at are let go of. While nobody can be asked, `lost` says since when,
and what may still be believed is for rules to say.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import orjson

from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import Identity, SpendConsent, Unavailable
from sidecar.decide.subjects import Subject

HELD: Final = 10_000  # records; some 2 KiB each
HEAVIEST: Final = 64 * 1024 * 1024  # bytes of them, roughly
ASKED: Final = 1_024  # introductions under way
ANSWER: Final = 2.0  # seconds for a record, or a use of a consent
UNKNOWN_FOR: Final = 1.0  # seconds until somebody who could not be had is asked about again
EVENTS: Final = 10_000  # that wait to be taken
LARGEST: Final = 16 * 1024  # bytes of one event

UNAVAILABLE: Final = Unavailable("subject_unavailable")
CROWDED: Final = Unavailable("subject_crowded")


class Spending(StrEnum):
    """What came of a use of a consent."""

    SPENT = "spent"
    EXHAUSTED = "exhausted"
    MISSING = "missing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a customer's request: `type` as in subject.proto, `data` JSON, `time` Unix
    time in seconds. The `id` tells it from every other."""

    id: str
    customer: str
    type: str
    time: float
    data: bytes


class Link(Protocol):
    """The way to whoever keeps customers. Nothing here blocks or raises; answers come by `take`,
    `unknown` and `spent` of the Customers."""

    def introduce(self, key: str, introduction: Introduction) -> None:
        """Ask for a record, and for all that it becomes."""

    def release(self, keys: list[str]) -> None:
        """Hear no more of these."""

    def spend(self, use: str, effect: SpendConsent) -> None:
        """Count one use."""

    def report(self, events: list[Event]) -> None:
        """Say what became of requests; `taken` answers."""


class NoLink:
    """Until there is one: nobody answers."""

    def introduce(self, key: str, introduction: Introduction) -> None:
        pass

    def release(self, keys: list[str]) -> None:
        pass

    def spend(self, use: str, effect: SpendConsent) -> None:
        pass

    def report(self, events: list[Event]) -> None:
        pass


@dataclass(slots=True)
class _Met:
    """Somebody who was introduced. `subject` is what the last answer said, if it was a record."""

    key: str
    introduction: Introduction
    subject: Subject | None = None
    unknown_until: float = 0.0
    why: Unavailable = UNAVAILABLE
    answered: asyncio.Event | None = None
    weight: int = 0


class Customers:
    """One per process that decides. Attributes are for reading by whoever scrapes."""

    def __init__(
        self,
        *,
        bound: int = HELD,
        answer: float = ANSWER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.link: Link = NoLink()
        self.changed: Callable[[], None] = _nothing
        """Called when a record that was known has become another one, or was withdrawn."""
        self.lost_or_found: Callable[[], None] = _nothing
        """Called when nobody can be asked any more, and when somebody can again."""
        self.visitor_secret = b""
        self.ticket_secret = b""
        self.outcomes: Counter[str] = Counter()
        self.spendings: Counter[str] = Counter()
        self.evictions = 0
        self.pushes = 0
        self.events_lost = 0
        self.weight = 0
        """Bytes that the records take, roughly."""
        self._bound = bound
        self._answer = answer
        self._clock = clock
        self._met: OrderedDict[tuple[str, str], _Met] = OrderedDict()
        self._by_key: dict[str, tuple[str, str]] = {}
        self._asking = 0
        self._spending: dict[str, asyncio.Future[Spending]] = {}
        self._lost: float | None = clock()  # nobody was there to be asked yet
        self._away = False
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._met)

    # For decisions.

    def get(self, identity: Identity, now: float) -> Subject | Unavailable | None:
        """The record; why there is none to be had; None: it has to be fetched."""
        name = (identity.issuer, identity.subject)
        met = self._met.get(name)
        if met is None:
            return None
        if met.subject is not None:
            self._met.move_to_end(name)
            return met.subject
        return met.why if now < met.unknown_until else None

    def lost(self) -> float | None:
        """Since when nobody can be asked (seconds since the epoch); None: somebody can."""
        return self._lost

    async def fetch(self, identity: Identity, introduction: Introduction | None) -> None:
        """Introduce somebody and wait for the answer, or join who waits for it; a failure is known
        by `get`, too."""
        if introduction is None:
            return
        name = (identity.issuer, identity.subject)
        met = self._met.get(name)
        answered = met.answered if met is not None else None
        if answered is None:
            if met is None:
                met = _Met(key_of(identity), introduction)
                self._put(name, met)
            if self._dark():
                self.outcomes["dark"] += 1
                met.unknown_until, met.why = self._soon(), UNAVAILABLE
                return
            if self._asking >= ASKED:
                self.outcomes["crowded"] += 1
                met.unknown_until, met.why = self._soon(), CROWDED
                return
            met.introduction = introduction
            answered = met.answered = asyncio.Event()
            self._asking += 1
            self.link.introduce(met.key, introduction)
            asyncio.get_running_loop().call_later(self._answer, self._silent, met, answered)
        await answered.wait()

    async def refresh(self, identity: Identity) -> None:
        """Have a record that is held fetched anew."""
        met = self._met.get((identity.issuer, identity.subject))
        if met is not None:
            await self.fetch(identity, met.introduction)

    async def spend(self, effect: SpendConsent) -> Spending:
        """Count one use of a consent, once, whatever happens on the way."""
        use = os.urandom(16).hex()
        waiting: asyncio.Future[Spending] = asyncio.get_running_loop().create_future()
        if self._lost is not None or len(self._spending) >= ASKED:
            self.spendings["failed"] += 1
            return Spending.FAILED
        self._spending[use] = waiting
        try:
            self.link.spend(use, effect)
            async with asyncio.timeout(self._answer):
                outcome = await waiting
        except TimeoutError:
            outcome = Spending.FAILED
        finally:
            del self._spending[use]
        self.spendings[outcome.value] += 1
        return outcome

    def report(self, customer: str, kind: str, data: dict[str, Any]) -> None:
        """Say what became of a customer's request. Where too many wait to be taken, or it is too
        large, it is lost; that is counted."""
        written = orjson.dumps(data)
        if len(written) > LARGEST or len(self._events) >= EVENTS:
            self.events_lost += 1
            return
        event = Event(os.urandom(16).hex(), customer, kind, self._clock(), written)
        self._events.append(event)
        self.link.report([event])

    # From the link.

    def take(self, key: str, subject: Subject | None) -> None:
        """A record came; None: there is none any more."""
        name = self._by_key.get(key)
        if name is None:
            self.link.release([key])  # let go of meanwhile
            return
        met = self._met[name]
        before, met.subject = met.subject, subject
        met.unknown_until = 0.0
        self._weigh(met)
        self.pushes += 1
        self._answered(met, "known")
        if subject is None:
            self._drop(name)
        if before is not None:
            self.changed()

    def unknown(self, key: str, reason: str) -> None:
        """Nobody can say."""
        name = self._by_key.get(key)
        if name is None:
            return
        met = self._met[name]
        met.unknown_until, met.why = self._soon(), Unavailable(reason or UNAVAILABLE.reason)
        before, met.subject = met.subject, None
        self._answered(met, "failed")
        if before is not None:
            self.changed()

    def spent(self, use: str, outcome: Spending) -> None:
        """What came of a use; one that nobody waits for any more is left alone."""
        waiting = self._spending.get(use)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    def taken(self, ids: Iterable[str]) -> None:
        """These events are in safe hands."""
        gone = set(ids)
        self._events = deque([each for each in self._events if each.id not in gone])

    def keys(self, visitor: bytes, ticket: bytes) -> None:
        """What visitors' cookies and tickets are sealed with from now on."""
        if (visitor, ticket) != (self.visitor_secret, self.ticket_secret):
            self.visitor_secret, self.ticket_secret = visitor, ticket
            self.lost_or_found()

    def connected(self) -> None:
        """Somebody can be asked, and what is held is current."""
        self._away = False
        if self._lost is not None:
            self._lost = None
            self.lost_or_found()

    def disconnected(self, since: float) -> None:
        """Nobody can be asked, and what is held was last known to be current at that moment."""
        if self._lost is None:
            self._lost = since
            self.lost_or_found()

    def away(self) -> None:
        """Nobody answered an attempt to connect: there is no use in waiting for the next one."""
        self._away = True

    def again(self) -> None:
        """The link stands anew: say once more what was not answered."""
        for met in self._met.values():
            if met.answered is not None:
                self.link.introduce(met.key, met.introduction)
        if self._events:
            self.link.report(list(self._events))

    # Within.

    def _put(self, name: tuple[str, str], met: _Met) -> None:
        while len(self._met) >= self._bound:
            oldest = next((each for each, m in self._met.items() if m.answered is None), None)
            if oldest is None:
                break  # all of them are waited for, and there are at most ASKED
            self._drop(oldest)
            self.evictions += 1
        self._met[name] = met
        self._by_key[met.key] = name

    def _weigh(self, met: _Met) -> None:
        """Those looked at least recently go, where all together are too heavy."""
        subject = met.subject
        weight = 0 if subject is None else weight_of(subject)
        self.weight += weight - met.weight
        met.weight = weight
        while self.weight > HEAVIEST and len(self._met) > 1:
            oldest = next(iter(self._met))
            if self._met[oldest] is met:
                break
            self._drop(oldest)
            self.evictions += 1

    def _drop(self, name: tuple[str, str]) -> None:
        met = self._met.pop(name)
        self.weight -= met.weight
        if met.answered is not None:  # whoever waits decides with what there is: nothing
            self._answered(met, "evicted")
        self._by_key.pop(met.key, None)
        self.link.release([met.key])

    def _answered(self, met: _Met, outcome: str) -> None:
        if met.answered is not None:
            self.outcomes[outcome] += 1
            self._asking -= 1
            met.answered.set()
            met.answered = None

    def _silent(self, met: _Met, waiting: asyncio.Event) -> None:
        if met.answered is waiting:
            met.unknown_until, met.why = self._soon(), UNAVAILABLE
            self._answered(met, "silent")

    def _dark(self) -> bool:
        """Whether nobody can be asked, nor will in a moment."""
        lost = self._lost
        return lost is not None and (self._away or self._clock() - lost > self._answer)

    def _soon(self) -> float:
        return self._clock() + UNKNOWN_FOR


def weight_of(subject: Subject) -> int:
    """Bytes of memory that a record takes, roughly."""
    texts = [*subject.segments, *subject.present, *subject.visitors, *subject.consents]
    return (
        1024
        + 4 * len(orjson.dumps(subject.profile, default=str))
        + 256 * len(subject.grants)
        + sum([64 + len(each) for each in texts])
    )


def key_of(identity: Identity) -> str:
    """What the sidecar calls somebody towards whoever keeps customers."""
    named = f"{len(identity.issuer)}:{identity.issuer} {identity.subject}"
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _nothing() -> None:
    pass
