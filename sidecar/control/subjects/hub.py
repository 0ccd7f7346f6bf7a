"""Between sidecars and the store of customers: who is met is resolved, who changed is pushed.

What a sidecar may say and see follows from the documents that it is assigned (`View`); of customers
that it does not follow it is told nothing, and can spend nothing of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from sidecar.control.catalogue import Catalogue, Target
from sidecar.control.session import Session
from sidecar.control.subjects import messages
from sidecar.control.subjects.completing import Reported
from sidecar.control.subjects.consents import Spent
from sidecar.control.subjects.erasing import Erasure
from sidecar.control.subjects.following import Following
from sidecar.control.subjects.records import Introduction, NotStored, Record, Risk
from sidecar.control.subjects.reporting import Reports
from sidecar.decide.journey import VISITOR
from sidecar.decide.journey_view import View, view
from sidecar.errors import StoreFailed
from sidecar.facts import tickets
from sidecar.facts.beside import beside
from sidecar.facts.sealed import derived
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import FromControl, FromSidecar, Resource

AT_ONCE: Final = 256  # of one sidecar that are looked into at a time
BATCH: Final = 200  # customers read at a time
_log: Final = logging.getLogger(__name__)

_SPENT: Final = {
    "spent": pb.Spent.OUTCOME_SPENT,
    "exhausted": pb.Spent.OUTCOME_EXHAUSTED,
    "missing": pb.Spent.OUTCOME_MISSING,
}


class Customers(Protocol):
    """The store of customers, as it is seen from here (`subjects.store`)."""

    async def resolve(self, introduction: Introduction, reader: str) -> Record: ...
    async def records(self, customers: Iterable[str], reader: str) -> Mapping[str, Record]: ...
    async def spend(self, customer: str, purpose: str, binding: str, use: str) -> Spent: ...
    async def raise_risk(
        self, customer: str, points: float, half_life: float, signal: str
    ) -> Risk: ...
    async def report_all(self, reported: Sequence[Reported]) -> None: ...


class Hub:
    """One per control plane. `secret` is what its sidecars' secrets are derived from."""

    def __init__(
        self,
        store: Customers,
        catalogue: Catalogue,
        secret: bytes,
        clock: Callable[[], float],
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self.pushes = 0
        self._store = store
        self._catalogue = catalogue
        self._secret = secret
        self._clock = clock
        self._followers: dict[str, set[Session]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reports = Reports(store)
        self._resolving = 0
        self._turn = 0
        self._lately: dict[str, int] = {}  # customers that changed while somebody was resolved

    def ticket_secret(self, namespace: str) -> bytes:
        """What the sidecars of a namespace seal tickets with."""
        return derived(self._secret, f"{tickets.USE} {namespace}")

    def followed(self) -> int:
        """How many customers are followed by any sidecar."""
        return len(self._followers)

    # Streams.

    def leave(self, session: Session) -> None:
        """Its stream has ended."""
        following = session.following
        if following is not None:
            for customer in following.customers():
                self._unfollow(session, customer)

    def look(self, session: Session) -> None:
        """Whether its sidecar reads something else of customers than before."""
        following = session.following
        if following is None or following.looking:
            return
        target = self._catalogue.target(session.namespace, session.labels, session.sidecar_id)
        if target is not None and target is not following.target:
            following.looking = True
            self._spawn(self._see(session, following, target))

    def receive(self, session: Session, message: FromSidecar) -> None:
        """What a sidecar says of customers."""
        following = session.following
        if following is None:
            return
        if following.view is None and len(following.early) < AT_ONCE:
            following.early.append(message)
            return
        kind = message.WhichOneof("message")
        if kind == "introduction":
            self._ask(session, following, message.introduction)
        elif kind == "released":
            for key in message.released.keys:
                self._drop(session, following, key)
        elif kind == "spend":
            self._spawn(self._spend(session, following, message.spend))
        elif kind == "journey_events" and self._reports.add(
            session, following, message.journey_events
        ):
            self._spawn(self._reports.take(session, following))

    def changed(self, customers: Iterable[str]) -> None:
        """These have become otherwise, here or at another replica."""
        customers = list(customers)
        if self._resolving:
            self._turn += 1
            self._lately.update(dict.fromkeys(customers, self._turn))
        wanted = [each for each in customers if each in self._followers]
        for start in range(0, len(wanted), BATCH):
            self._spawn(self._push(wanted[start : start + BATCH]))

    async def erased_everywhere(
        self, erase: Callable[[], Coroutine[Any, Any, Erasure]], within: float
    ) -> tuple[Erasure, int, int]:
        """Erase, and wait until the sidecars that held a record of it have said that they do not
        any more: how many held one, and how many have said so within that many seconds."""
        before = {customer: set(sessions) for customer, sessions in self._followers.items()}
        erasure = await erase()
        holders = {each for customer in erasure.customers for each in before.get(customer, ())}
        waiting = set(holders)
        try:
            async with asyncio.timeout(within):
                while waiting:
                    waiting = {
                        each
                        for each in waiting
                        if not each.ended
                        and each.following is not None
                        and not each.following.rid_of(erasure.customers)
                    }
                    if waiting:
                        await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        return erasure, len(holders), len(holders) - len(waiting)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Within.

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("customers: %r", task.exception(), exc_info=task.exception())

    async def _see(self, session: Session, following: Following, target: Target) -> None:
        """What it reads from now on; all that it follows is sent anew where that is otherwise."""
        try:
            seen: View | None = target.memo.get("view")
            if seen is None:
                # In a thread that gives way: others are served meanwhile.
                seen = await beside.run(view, target.documents, session.namespace, hurry=True)
                target.memo["view"] = seen
        finally:
            following.looking = False
        if seen is None:
            return
        before, following.target, following.view = following.view, target, seen
        if before is not None and before.journey.pool != seen.journey.pool:
            for customer in following.customers():
                for key in following.keys_of(customer):
                    following.offer(key, None)
                self._unfollow(session, customer)
        following.say(FromControl(subject_keys=self._keys(session.namespace, seen)))
        for key, customer in following.brought():
            self._follow(session, following, key, customer)
        customers = following.customers()
        try:
            for start in range(0, len(customers), BATCH):
                some = customers[start : start + BATCH]
                await self._renew(session, following, some, again=before)
        except StoreFailed as error:
            _log.error("customers of a sidecar cannot be read: %s", error)
            session.end("customers cannot be read")  # it comes again, and is sent all anew
            return
        following.ready()
        early, following.early = following.early, []
        for said in early:
            self.receive(session, said)
        session.wake.set()

    def _keys(self, namespace: str, seen: View) -> pb.SubjectKeys:
        pool = seen.journey.identity
        return pb.SubjectKeys(
            visitor=derived(self._secret, f"visitor {pool.pool}") if pool is not None else b"",
            ticket=self.ticket_secret(namespace),
        )

    async def _renew(
        self, session: Session, following: Following, customers: list[str], *, again: Any
    ) -> None:
        seen = following.view
        if seen is None:
            return
        records = await self._store.records(customers, _reader(session))
        now = self._clock()
        for customer in customers:
            for key in following.keys_of(customer):
                record = _meant(following, key, records.get(customer), seen)
                if record is None:
                    following.offer(key, None)
                    continue
                if record.customer != customer:
                    self._follow(session, following, key, record.customer)
                shown = _shown(following, key, record, seen, now)
                following.offer(key, shown, again=again is not None)
                self.pushes += 1

    async def _push(self, customers: list[str]) -> None:
        sessions = {each for customer in customers for each in self._followers.get(customer, ())}
        try:
            records = await self._store.records(customers, "")
        except StoreFailed as error:
            _log.error("customers that changed cannot be read: %s", error)
            for session in sessions:
                session.end("customers cannot be read")  # it comes again, and is sent all anew
            return
        now = self._clock()
        for session in sessions:
            following = session.following
            seen = following.view if following is not None else None
            if following is None or seen is None:
                continue
            for customer in customers:
                for key in following.keys_of(customer):
                    record = _meant(following, key, records.get(customer), seen)
                    if record is None:
                        following.offer(key, None)
                        continue
                    if record.customer != customer:
                        self._follow(session, following, key, record.customer)
                    following.offer(key, _shown(following, key, record, seen, now))
                    self.pushes += 1
            session.wake.set()

    def _ask(self, session: Session, following: Following, said: pb.Introduction) -> None:
        if following.asking >= AT_ONCE or following.view is None:
            self._unknown(session, following, said.key, "subject_crowded")
            return
        following.asking += 1
        self._spawn(self._introduced(session, following, said))

    async def _introduced(
        self, session: Session, following: Following, said: pb.Introduction
    ) -> None:
        seen, since = following.view, self._turn
        self._resolving += 1
        try:
            if seen is None or not 0 < len(said.key) <= 64:
                raise NotStored("key: 1 to 64 characters are expected")
            introduction = messages.introduction(said, seen, self._clock())
            record = await self._store.resolve(introduction, _reader(session))
            await self._signalled(record, seen)
        except (NotStored, ValueError) as error:
            _log.warning("an introduction of %s was refused: %s", session.sidecar_id, error)
            self._unknown(session, following, said.key, "subject_refused")
        except StoreFailed as error:
            _log.error("%s", error)
            self._unknown(session, following, said.key, "subject_unavailable")
        else:
            self.outcomes["known"] += 1
            visitor = said.subject if said.issuer == VISITOR else ""
            if self._follow(session, following, said.key, record.customer, visitor):
                following.introduced(said.key, introduction.primary)
                if said.visitor:
                    following.came(said.key, said.visitor)
                shown = _shown(following, said.key, record, seen, self._clock())
                following.offer(said.key, shown, again=True)
                session.wake.set()
                if self._lately.get(record.customer, 0) > since:
                    self.changed([record.customer])  # it was read before it was followed
            else:
                self._unknown(session, following, said.key, "subject_crowded")
        finally:
            following.asking -= 1
            self._resolved()

    def _resolved(self) -> None:
        self._resolving -= 1
        if not self._resolving:
            self._lately.clear()

    async def _signalled(self, record: Record, seen: View) -> None:
        policy = seen.journey.identity
        if policy is None:
            return
        for signal, points in messages.signals(policy.signals, record).items():
            await self._store.raise_risk(record.customer, points, policy.half_life, signal)

    def _unknown(self, session: Session, following: Following, key: str, reason: str) -> None:
        self.outcomes[reason] += 1
        following.say(FromControl(unknown=pb.Unknown(key=key[:64], reason=reason)))
        session.wake.set()

    async def _spend(self, session: Session, following: Following, said: pb.Spend) -> None:
        outcome: Any = pb.Spent.OUTCOME_MISSING
        seen = following.view
        mine = following.knows(said.customer) and len(said.use) <= 64
        if mine and seen is not None and seen.shows_purpose(said.purpose):
            try:
                found = await self._store.spend(
                    said.customer, said.purpose, said.binding, f"{session.sidecar_id}/{said.use}"
                )
                outcome = _SPENT[found]
            except NotStored:
                outcome = pb.Spent.OUTCOME_MISSING
            except StoreFailed as error:
                _log.error("%s", error)
                outcome = pb.Spent.OUTCOME_FAILED
        following.say(FromControl(spent=pb.Spent(use=said.use[:64], outcome=outcome)))
        session.wake.set()

    def _follow(
        self,
        session: Session,
        following: Following,
        key: str,
        customer: str,
        visitor: str | None = None,
    ) -> bool:
        before = following.customer(key)
        if not following.follow(key, customer, visitor):
            return False
        if before and not following.keys_of(before):
            self._unfollow(session, before)
        self._followers.setdefault(customer, set()).add(session)
        return True

    def _drop(self, session: Session, following: Following, key: str) -> None:
        customer = following.drop(key)
        if customer and not following.keys_of(customer):
            self._unfollow(session, customer)

    def _unfollow(self, session: Session, customer: str) -> None:
        sessions = self._followers.get(customer)
        if sessions is not None:
            sessions.discard(session)
            if not sessions:
                del self._followers[customer]


def _shown(following: Following, key: str, record: Record, seen: View, now: float) -> Resource:
    visitor, came = following.visitor(key), following.visitors(key)
    return messages.resource(key, record, seen, now, visitor, came)


def _meant(following: Following, key: str, record: Record | None, seen: View) -> Record | None:
    """The record, if it is of whom the sidecar means."""
    if record is None or record.pool != seen.journey.pool or not following.means(key, record):
        return None
    return record


def _reader(session: Session) -> str:
    return f"sidecar {session.namespace}/{session.sidecar_id}"
