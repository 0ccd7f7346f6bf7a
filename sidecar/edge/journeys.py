"""What the authorizer does for customers: introduces them, spends their consents, sends them on
with a ticket, and says what became of their requests.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from sidecar.decide.challenge import is_browser, place_of
from sidecar.decide.journey import CompiledIdentity, Introduction, Journey
from sidecar.decide.outcomes import Code, Identity, Permit, Plan, Refuse, SpendConsent, Unavailable
from sidecar.decide.request import Request
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subject
from sidecar.edge.visitors import Visitors
from sidecar.facts import tickets
from sidecar.facts.customers import Spending
from sidecar.telemetry.metrics import Metrics

AGAIN: Final = 60.0  # seconds until the same is said of the same customer again
MOST_SAID: Final = 4_096
_TICKETED: Final = frozenset(("consent", "profile", "privacy"))


class Customers(Protocol):
    """Whoever is asked about customers: `facts.customers`."""

    ticket_secret: bytes
    visitor_secret: bytes

    def get(self, identity: Identity, now: float) -> Subject | Unavailable | None:
        """The record, why there is none, or None: it has to be fetched."""

    def lost(self) -> float | None:
        """Since when nobody can be asked."""

    async def fetch(self, identity: Identity, introduction: Introduction | None) -> None:
        """Have it fetched."""

    async def refresh(self, identity: Identity) -> None:
        """Have the record fetched anew."""

    async def spend(self, effect: SpendConsent) -> Spending:
        """Count one use of a consent."""

    def report(self, customer: str, kind: str, data: dict[str, Any]) -> None:
        """Say what became of a request."""


class Journeys:
    """One per authorizer."""

    def __init__(
        self, customers: Customers, metrics: Metrics, clock: Callable[[], float] = time.time
    ) -> None:
        self.customers = customers
        self._metrics = metrics
        self._clock = clock
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._visitors = Visitors(lambda: customers.visitor_secret, clock)

    def visitor(self, request: Request, policy: CompiledIdentity) -> str:
        """The anonymous visitor that the request's cookie names; empty: none."""
        return self._visitors.of(request, policy)

    def cookie(self, request: Request, permit: Permit, snapshot: Snapshot | None) -> bytes:
        """The line that makes an anonymous caller known again, where a rule asks for it."""
        policy = snapshot.journey.identity if snapshot is not None else None
        if not permit.visitor or policy is None:
            return b""
        return self._visitors.cookie(request, policy.visitor)

    def current(self, permit: Permit) -> bool:
        """Whether the record that it was decided on is still what is known."""
        record: Subject | None = permit.subject
        if record is None or permit.identity is None:
            return True
        return self.customers.get(permit.identity, self._clock()) is record

    async def spend(self, permit: Permit) -> Refuse | None:
        """Count the uses of consents that it hangs on; the refusal where one is left no more."""
        for effect in permit.effects:
            if type(effect) is SpendConsent:
                outcome = await self.customers.spend(effect)
                if outcome is not Spending.SPENT:
                    return _UNSPENT[outcome]
        return None

    def challenged(
        self, request: Request, refuse: Refuse, snapshot: Snapshot | None, decision_id: str
    ) -> Refuse:
        """The same, counted, with the ticket that brings a person to what they are asked for."""
        plan = refuse.plan
        customer = self._customer(refuse.identity)
        if refuse.suspect is not None:
            self._suspected(refuse.suspect, refuse.reason)
        if plan is None:
            if customer:
                self.customers.report(customer, "refused", _refused(refuse, decision_id))
            return refuse
        self._metrics.challenges.add(plan.kind, "issued")
        if snapshot is None:
            return refuse
        if _asks_for_nothing(plan, snapshot.journey):
            refuse = msgspec.structs.replace(refuse, interaction="")
        data: dict[str, Any] = {"kind": plan.kind, "decision_id": decision_id}
        if plan.kind in _TICKETED and refuse.interaction and customer:
            ticket = self._ticket(request, plan, snapshot, customer, decision_id)
            if ticket is not None:
                refuse = msgspec.structs.replace(refuse, ticket=ticket.text)
                data |= {"ticket": ticket.id, "expires": ticket.expires}
        if customer:
            needs = {name: each for name, each in plan.needs().items() if name != "transaction"}
            data |= {"needs": needs, "service": snapshot.service.name, "rule": refuse.rule}
            self.customers.report(customer, "challenge.issued", data)
        return refuse

    def _suspected(self, identity: Identity, reason: str) -> None:
        """Somebody may have another's credential: said once in a while for each customer."""
        customer = self._customer(identity)
        name = "revoked-credential" if reason == "revoked" else "failed-proof"
        now = self._clock()
        if not customer or now < self._said.get((customer, name), 0.0):
            return
        self._said[customer, name] = now + AGAIN
        while len(self._said) > MOST_SAID:
            self._said.popitem(last=False)
        self.customers.report(customer, "signal", {"name": name})

    def _ticket(
        self, request: Request, plan: Plan, snapshot: Snapshot, customer: str, decision_id: str
    ) -> tickets.Ticket | None:
        secret = self.customers.ticket_secret
        if not secret:
            return None
        journey = snapshot.journey
        shown = {each.purpose: each for each in plan.transactions}
        asked: list[tickets.Asked] = []
        for name in plan.consent:
            purpose = journey.purpose(name)
            about = shown.get(name)
            values: Mapping[str, Any] = about.shown() if about is not None else {}
            binding = about.digest if about is not None else ""
            asked.append(tickets.Asked(purpose.ref, purpose.version, binding, values))
        contents = tickets.Contents(
            id=os.urandom(16).hex(),
            kind=plan.kind,
            customer=customer,
            purposes=tuple(asked),
            # One thing at a time: who refuses to agree is asked to tell nothing.
            attributes=tuple([journey.attribute(name).ref for name in plan.profile])
            if plan.kind == "profile"
            else (),
            back=place_of(request) if is_browser(request) else "",
            decision=decision_id,
            service=snapshot.service.name,
        )
        try:
            return tickets.make(secret, journey.namespace, contents, self._clock())
        except ValueError:
            return None  # more is asked for than an address can bear: it is named in the problem

    def _customer(self, identity: Identity | None) -> str:
        if identity is None:
            return ""
        found = self.customers.get(identity, self._clock())
        return found.customer if isinstance(found, Subject) else ""


def _asks_for_nothing(plan: Plan, journey: Journey) -> bool:
    """Whether our pages could show no question: whoever went there would come back as they were,
    and be sent there again. Where there are no documents at all, others have pages of their own."""
    if plan.kind == "consent":
        return bool(journey.purposes) and journey.purposes.keys().isdisjoint(plan.consent)
    if plan.kind == "profile":
        return bool(journey.attributes) and journey.attributes.keys().isdisjoint(plan.profile)
    return False


def _refused(refuse: Refuse, decision_id: str) -> dict[str, Any]:
    """Names, and no values: an address may say more of a customer than they would like."""
    return {
        "code": refuse.code.value,
        "reason": refuse.reason,
        "rule": refuse.rule,
        "decision_id": decision_id,
    }


_UNSPENT: Final[Mapping[Spending, Refuse]] = {
    # Somebody else was faster: asked again, the decision says what is missing now.
    Spending.EXHAUSTED: Refuse(Code.CONSENT_REQUIRED, "consent_used_up"),
    Spending.MISSING: Refuse(Code.CONSENT_REQUIRED, "consent_missing"),
    Spending.FAILED: Refuse(Code.UNAVAILABLE, "consent_not_counted"),
}
