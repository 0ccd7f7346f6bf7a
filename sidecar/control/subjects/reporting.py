"""What sidecars report of customers' requests: challenges, refusals, signals; taken in order.

Many at a time, each once it is durable. What makes no sense is taken and left out; where the store
fails it is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from sidecar.control.session import Session
from sidecar.control.subjects.completing import Reported
from sidecar.control.subjects.following import Following
from sidecar.control.subjects.records import NotStored, Record, Risk, id_of
from sidecar.errors import StoreFailed
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import FromControl

EVENTS: Final = 500  # taken at a time
MOST_REPORTS: Final = 20_000  # of one sidecar that wait
RETRY: Final = 1.0  # seconds
REMEMBERED: Final = 20_000  # ids of events that were taken
LARGEST_EVENT: Final = 16 * 1024  # bytes
_log: Final = logging.getLogger(__name__)

_REPORTED: Final = {
    "challenge.issued": "sidecar.challenge.issued",
    "refused": "sidecar.request.refused",
}


class Store(Protocol):
    """The store of customers, as it is seen from here."""

    async def records(self, customers: Iterable[str], reader: str) -> Mapping[str, Record]: ...
    async def raise_risk(
        self, customer: str, points: float, half_life: float, signal: str
    ) -> Risk: ...
    async def report_all(self, reported: Sequence[Reported]) -> None: ...


class Reports:
    """Of all streams."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._taken: OrderedDict[str, None] = OrderedDict()  # ids of events

    def add(self, session: Session, following: Following, said: pb.JourneyEvents) -> bool:
        """Whether `take` has to be begun for them."""
        following.reports += said.events
        if len(following.reports) > MOST_REPORTS:
            session.end("too many events wait")  # it comes again, and says them again
        begins = bool(following.reports) and not following.reporting
        following.reporting = following.reporting or begins
        return begins

    async def take(self, session: Session, following: Following) -> None:
        """All that wait, until none does or the stream has ended."""
        while following.reports and not session.ended:
            batch = following.reports[:EVENTS]
            try:
                await self._keep(session, following, batch)
            except StoreFailed as error:
                _log.error("%s", error)
                await asyncio.sleep(RETRY)
                continue
            del following.reports[: len(batch)]
            taken = pb.JourneyEventsTaken(number=batch[-1].number)
            following.say(FromControl(journey_events_taken=taken))
            session.wake.set()
        following.reporting = False

    async def _keep(
        self, session: Session, following: Following, events: list[pb.JourneyEvent]
    ) -> None:
        found: dict[str, Reported] = {}
        signals: dict[str, tuple[str, str]] = {}
        for event in events:
            if event.id in self._taken:
                continue  # it was sent again, since our word that it is taken did not arrive
            data = _data(event)
            if data is None or not await self._speaks_of(following, event.customer):
                continue
            if event.type == "signal":
                signals[event.id] = event.customer, str(data.get("name", ""))
                continue
            data |= {
                "sidecar": session.sidecar_id,
                "namespace": session.namespace,
                "at": event.time_ms / 1000,
            }
            # Of the sidecar as well: none makes the event of another one look said already.
            id_ = id_of("evt", session.namespace, session.sidecar_id, event.id)
            found[event.id] = Reported(id_, event.customer, _REPORTED[event.type], data)
        if found:
            await self._store.report_all(list(found.values()))
            self._remember(found)
        for id_, (customer, name) in signals.items():
            await self._signal(following, customer, name)
            self._remember([id_])

    async def _speaks_of(self, following: Following, customer: str) -> bool:
        """Whether it follows the customer, or might: it may have let go of it meanwhile, and know
        it by the id of one who was merged."""
        seen = following.view
        if seen is None or following.knows(customer):
            return seen is not None
        record = (await self._store.records([customer], "")).get(customer)
        return record is not None and record.pool == seen.journey.pool

    async def _signal(self, following: Following, customer: str, name: str) -> None:
        policy = following.view.journey.identity if following.view is not None else None
        points = policy.signals.get(name, 0.0) if policy is not None else 0.0
        if policy is None or not points:
            return
        try:
            await self._store.raise_risk(customer, points, policy.half_life, name)
        except NotStored as error:
            _log.warning("a signal was left out: %s", error)

    def _remember(self, events: Iterable[str]) -> None:
        self._taken.update(dict.fromkeys(events))
        while len(self._taken) > REMEMBERED:
            self._taken.popitem(last=False)


def _data(event: pb.JourneyEvent) -> dict[str, Any] | None:
    """What an event says; None for one that makes no sense."""
    known = event.type == "signal" or event.type in _REPORTED
    if not known or not event.id or len(event.data) > LARGEST_EVENT:
        return None
    try:
        data = orjson.loads(event.data)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None
