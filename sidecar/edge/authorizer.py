"""The loop around the decision: authorize, fetch the Needs, log once.

Doors call `decide`; it answers at once where everything needed is known, which is nearly always.
Where something must be fetched it returns None, and the door awaits `resolve`, a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import msgspec

from sidecar.decide import privacy
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache, Key
from sidecar.decide.caller import Evidence
from sidecar.decide.challenge import Answer, refusal
from sidecar.decide.cors import preflight, response_headers
from sidecar.decide.credentials import Location
from sidecar.decide.outcomes import (
    NO_OBLIGATIONS,
    Code,
    Need,
    NeedBody,
    NeedEnrichment,
    NeedIntrospection,
    NeedKeys,
    NeedSubject,
    Permit,
    Refuse,
    SpendConsent,
    Want,
)
from sidecar.decide.rates import Rate
from sidecar.decide.request import NO_HEADERS, TOO_LARGE, Headers, Request, Unread
from sidecar.decide.revocations import Revocation
from sidecar.decide.snapshot import NO_SERVICE, Snapshot
from sidecar.decide.tokens import Verified
from sidecar.edge import assertions
from sidecar.edge.assertions import Asserter
from sidecar.edge.decision import Decision, edits, take_ids, traceparent
from sidecar.edge.effects import Effects
from sidecar.edge.evidence import (
    Enrichments,
    Introspections,
    Keys,
    Nobody,
    ReadBody,
    Subjects,
)
from sidecar.edge.journeys import Customers, Journeys
from sidecar.edge.ledger import Ledger, stands_for_nobody
from sidecar.edge.rates import ALL, FAILED, RateTable
from sidecar.edge.replays import ReplayTable
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics

ROUNDS: Final = 4  # of fetching, for one request (DESIGN section 3, Need)
TOKENS: Final = 50_000  # verified tokens remembered; about 2 KiB each
NO_LOCATIONS: Final[tuple[Location, ...]] = ()
DECISIONS: Final = 16_384  # permits remembered; about 1 KiB each

_log: Final = logging.getLogger("sidecar.authorizer")


async def no_body(want: NeedBody) -> bytes | Unread:
    """Where nothing can be read: what depends on the body is refused."""
    return TOO_LARGE


class Authorizer:
    """Decides with the snapshot of the moment. One per process; every door shares it."""

    def __init__(
        self,
        keys: Keys,
        metrics: Metrics,
        log: DecisionLog,
        door: str = "proxy",
        clock: Callable[[], float] = time.time,
        rates: RateTable | None = None,
        replays: ReplayTable | None = None,
        nonce_key: bytes = b"",
        asserter: Asserter | None = None,
        introspections: Introspections | None = None,
        subjects: Subjects | None = None,
        enrichments: Enrichments | None = None,
        customers: Customers | None = None,
    ) -> None:
        """`nonce_key` makes the nonces of DPoP proofs; left out, one that nobody else has. Without
        `introspections` nobody is asked about opaque tokens, without `enrichments` no enricher,
        which decides as 503. Without `subjects` or `customers` nothing is known of anybody."""
        self.snapshot: Snapshot | None = None
        self.adopted = 0.0
        self._rates = rates if rates is not None else RateTable()
        self._asserter = asserter if asserter is not None else Asserter()
        tokens: ExpiringCache[bytes, Verified] = ExpiringCache(TOKENS)
        decisions: ExpiringCache[Key, Permit] = ExpiringCache(DECISIONS)
        self.replays = replays if replays is not None else ReplayTable()
        self._effects = Effects(self._rates, self.replays, clock)
        self._introspections = introspections
        self._subjects = subjects
        self._enrichments = enrichments
        self._journeys = Journeys(customers, metrics, clock) if customers is not None else None
        asked = introspections if introspections is not None else Nobody()
        self.evidence = Evidence(
            keys.states, tokens, decisions, self._failing, self.replays.used,
            nonce_key or os.urandom(32), answers=asked.answers, asking=asked.asks_too_much,
            enriched=ExpiringCache(1) if enrichments is None else enrichments.answers,
        )  # fmt: skip
        if subjects is not None:
            self.evidence = replace(self.evidence, subjects=subjects.get)
        elif customers is not None and self._journeys is not None:
            self.evidence = replace(
                self.evidence,
                subjects=customers.get,
                lost=customers.lost,
                visitor=self._journeys.visitor,
            )
        self._keys = keys
        self._metrics = metrics
        self._ledger = Ledger(metrics, log, door, clock, self.evidence)
        self._clock = clock
        self._watchers: list[Callable[[], None]] = []
        self._withdrawn: list[Callable[[], None]] = []

    def watch_withdrawals(self, changed: Callable[[], None]) -> None:
        """Call `changed()` whenever credentials were withdrawn: `withdrawn` tells whose."""
        self._withdrawn.append(changed)

    def withdraw(self, revocations: Iterable[Revocation]) -> None:
        """Refuse these from the next request on, and forget what has expired."""
        held = self.evidence.revocations
        held.forget(self._clock())
        held.add(revocations)
        for changed in self._withdrawn:
            changed()

    def doubtful(self, permit: Permit) -> bool:
        """Whether what was permitted has to be decided again: its customer's record is another."""
        return self._journeys is not None and not self._journeys.current(permit)

    def subjects_changed(self) -> None:
        """Records of customers have changed: whoever watches withdrawals looks who is doubtful."""
        for changed in self._withdrawn:
            changed()

    def withdrawn(self, permit: Permit) -> bool:
        """Whether what was permitted must end: a credential that it hangs on was withdrawn."""
        now = self._clock()
        for credential in (permit.verified, permit.beside):
            if credential is not None and self.evidence.revocations.revokes(credential, now):
                return self.snapshot is None or not self.snapshot.service.observe
        return False

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` whenever another snapshot decides from then on."""
        self._watchers.append(changed)

    def adopt(self, snapshot: Snapshot) -> None:
        """Decide with this snapshot from the next request on: one reference is swapped."""
        self._keys.use(snapshot.issuers.values())
        if self._introspections is not None:
            self._introspections.use(snapshot.introspectors)
        if self._enrichments is not None:
            self._enrichments.use(snapshot.enrichers.values())
        self.snapshot = snapshot
        self.evidence.decisions.clear()  # nobody can ask for them again
        self.adopted = self._clock()
        for changed in self._watchers:
            changed()

    def forget(self) -> None:
        """Remember no decision: something that they depend on, and nothing shows, has changed."""
        if self.snapshot is not None:
            self.snapshot = replace(self.snapshot, mark=object())
            self.evidence.decisions.clear()
            for changed in self._watchers:
                changed()

    def rule_headers(self) -> frozenset[str]:
        """Lower-case names of the headers that some rule sets, which callers can never send."""
        return self.snapshot.rule_headers if self.snapshot is not None else frozenset()

    def headers_read(self) -> frozenset[str] | None:
        """Lower-case names of the headers that a decision may depend on; None: any."""
        return self.snapshot.headers_read if self.snapshot is not None else None

    def credentials(self) -> tuple[Location, ...]:
        """Where the credential is that a permitted request goes upstream without."""
        service = self.snapshot.service if self.snapshot is not None else NO_SERVICE
        return service.credentials if service.remove_credential else NO_LOCATIONS

    def assertion(self, permit: Permit) -> bytes:
        """The signed statement of who calls, as a header line with its end; empty: none."""
        terms = self.snapshot.service.assertion if self.snapshot is not None else None
        if terms is None:
            return b""
        return self._asserter.line(permit, terms, self._clock())

    def published(self, request: Request) -> Answer | None:
        """The answer to a request that is for the sidecar itself; None for all others."""
        if request.path != assertions.PATH or request.method not in ("GET", "HEAD"):
            return None
        if self.snapshot is None or self.snapshot.service.assertion is None:
            return None
        return self._crowded(request) or self._asserter.jwks(self._clock())

    def _crowded(self, request: Request) -> Answer | None:
        """The answer to an address that comes too often."""
        crowding = self._crowding(request)
        return refusal(crowding, request, "") if type(crowding) is Refuse else None

    def preflight(self, request: Request) -> Answer | None:
        """The answer to a CORS preflight, which is no request yet; None where it is to be decided.

        Only an OPTIONS request can be one.
        """
        snapshot = self.snapshot
        if snapshot is None or snapshot.service.cors is None:
            return None
        answer = preflight(request, snapshot.service.cors)
        if answer is None:
            return None
        answer = self._crowded(request) or answer
        self._metrics.preflights.add("answered" if answer.status == 204 else "refused")
        return answer

    def decide(self, request: Request) -> Decision | None:
        """The decision, or None where facts must be fetched first: await `resolve`."""
        started = time.perf_counter()
        outcome = self._crowding(request) or self._authorize(request)
        if type(outcome) is Need or (type(outcome) is Permit and _spends(outcome)):
            return None
        return self._decided(request, outcome, started)

    async def resolve(self, request: Request, body: ReadBody = no_body) -> Decision:
        """Fetch what is missing and decide, in at most `ROUNDS` rounds; then 503.

        `body` reads the request's body, where a decision needs it.
        """
        started = time.perf_counter()
        outcome, read = await self._settle(request, body)
        limits = NO_HEADERS
        if type(outcome) is Permit and _spends(outcome):
            outcome, limits = await self._spend(outcome)
            if type(outcome) is Refuse and outcome.code is Code.CONSENT_REQUIRED:
                outcome, read = await self._asked_again(outcome, read, body)
        decision = self._decided(read, outcome, started, limits)
        # What it was decided on may be gone by the time that it is logged.
        decision.logged = self._ledger.logged(read, decision, self.snapshot)
        return decision

    async def _spend(self, permit: Permit) -> tuple[Permit | Refuse, Headers]:
        """The permit once the uses of consents that it hangs on are counted, after all else that
        could refuse it; and what the answer says of limits."""
        outcome, limits = self._committed(permit)
        if type(outcome) is not Permit or outcome.observed is not None:
            return outcome, limits
        unspent = _NOBODY_COUNTS
        if self._journeys is not None:
            unspent = await self._journeys.spend(permit)
        if unspent is None:
            return msgspec.structs.replace(permit, effects=()), limits
        return self._told(unspent, permit), limits

    async def _asked_again(
        self, refuse: Refuse, request: Request, body: ReadBody
    ) -> tuple[Permit | Refuse, Request]:
        """What it was decided on was old: the refusal by what is known now, which says what to do
        about it. Never a permit, of which nothing was counted."""
        if self._journeys is None or refuse.identity is None:
            return refuse, request
        await self._journeys.customers.refresh(refuse.identity)
        outcome, read = await self._settle(request, body)
        return (outcome, read) if type(outcome) is Refuse else (refuse, read)

    def review(self, request: Request) -> Permit | Refuse | None:
        """What would be decided now of a request that was permitted before; counted nowhere.

        None where facts must be fetched first: await `reconsider`.
        """
        outcome = self._authorize(request, reviewed=True)
        return None if type(outcome) is Need else outcome

    async def reconsider(self, request: Request) -> Permit | Refuse:
        """The same, after fetching what is missing."""
        outcome, _ = await self._settle(request, no_body, reviewed=True)
        return outcome

    async def _settle(
        self, request: Request, body: ReadBody, reviewed: bool = False
    ) -> tuple[Permit | Refuse, Request]:
        """The outcome, after fetching what is missing, and the request as it was decided."""
        for _ in range(ROUNDS):
            outcome = self._authorize(request, reviewed)
            if type(outcome) is not Need:
                return outcome, request
            for want in outcome.wants:
                if type(want) is NeedBody:
                    request = request.with_body(await body(want))
            await asyncio.gather(*(self._fetch(want) for want in outcome.wants))
        outcome = self._authorize(request, reviewed, shadows=False)
        if type(outcome) is Need:
            outcome = self._enforced(Refuse(Code.UNAVAILABLE, "facts_incomplete"))
        return outcome, request

    def _crowding(self, request: Request) -> Permit | Refuse | None:
        """The refusal of an address that comes too often; None, and counted, if it may come."""
        snapshot = self.snapshot
        rate = snapshot.service.per_address if snapshot is not None else None
        if rate is None:
            return None
        wait = self._rates.take(ALL, request.address, rate, self._clock())
        if wait <= 0:
            return None
        return self._enforced(
            Refuse(
                Code.TOO_MANY_REQUESTS,
                "address_limit",
                "Too many requests from this address.",
                retry_after=math.ceil(wait),
            )
        )

    def _failing(self, address: str, rate: Rate, now: float) -> float:
        return self._rates.wait(FAILED, address, rate, now)

    async def _fetch(self, want: Want) -> None:
        if type(want) is NeedKeys:
            await self._keys.fetch(want.issuer)
        elif type(want) is NeedIntrospection and self._introspections is not None:
            await self._introspections.fetch(want)
        elif type(want) is NeedSubject and self._subjects is not None:
            await self._subjects.fetch(want.identity)
        elif type(want) is NeedSubject and self._journeys is not None:
            await self._journeys.customers.fetch(want.identity, want.introduction)
        elif type(want) is NeedEnrichment and self._enrichments is not None:
            await self._enrichments.fetch(want)

    def _authorize(
        self, request: Request, reviewed: bool = False, shadows: bool = True
    ) -> Permit | Refuse | Need:
        snapshot = self.snapshot
        if snapshot is None:
            return Refuse(Code.UNAVAILABLE, "no_snapshot", "No policy has been received yet.")
        try:
            if privacy.is_asked_for(request, snapshot):
                return privacy.way_to(request, snapshot, self.evidence, self._clock())
            outcome = authorize(request, snapshot, self.evidence, self._clock(), reviewed, shadows)
        except Exception:  # noqa: BLE001  (a defect of ours must refuse, never forward)
            _log.exception("deciding failed")
            return self._enforced(Refuse(Code.UNAVAILABLE, "internal_error"))
        return self._enforced(outcome) if type(outcome) is Refuse else outcome

    def _enforced(self, refuse: Refuse) -> Permit | Refuse:
        """In mode `observe` a refusal is only logged; but no team can so lift a guard of another's
        (DESIGN section 5)."""
        service = self.snapshot.service if self.snapshot is not None else NO_SERVICE
        if service.only_observes(refuse.rule):
            return Permit("", refuse.identity, observed=refuse, shadow=refuse.shadow)
        return refuse

    def _committed(self, permit: Permit) -> tuple[Permit | Refuse, Headers]:
        """The permit once its effects are; the refusal where one of them cannot be. And what the
        answer says of limits."""
        committed = self._effects.commit(permit)
        refuse, snapshot = committed.refuse, self.snapshot
        if refuse is None:
            return permit, committed.said
        if snapshot is None:
            return refuse, committed.said
        return self._told(refuse, permit), committed.said

    def _told(self, refuse: Refuse, permit: Permit) -> Permit | Refuse:
        """Why what was permitted is not, after all."""
        service = self.snapshot.service if self.snapshot is not None else NO_SERVICE
        told = msgspec.structs.replace(
            refuse,
            rule=permit.rule,
            realm=service.name,
            identity=None if refuse.presented else permit.identity,
            dpop=service.dpop.scheme(used=True) if refuse.presented else None,
        )
        return self._enforced(told)

    def _decided(
        self,
        request: Request,
        outcome: Permit | Refuse,
        started: float,
        limits: Headers = NO_HEADERS,
    ) -> Decision:
        """`limits` is what there is to say of those that were taken already."""
        nonce = outcome.nonce if type(outcome) is Permit else ""
        if type(outcome) is Permit and outcome.effects:
            outcome, limits = self._committed(outcome)
        id_, span = take_ids()
        if type(outcome) is Refuse and self._journeys is not None:
            outcome = self._journeys.challenged(request, outcome, self.snapshot, id_)
        trace = request.trace
        if trace is None:
            request.trace = trace = traceparent(request)
        snapshot = self.snapshot
        decision = Decision(
            outcome,
            id_,
            trace or f"00-{id_}-{span}-00".encode("ascii"),
            started,
            snapshot.version if snapshot is not None else "",
        )
        cors = NO_HEADERS
        if snapshot is not None and snapshot.service.cors is not None:
            cors = response_headers(request, snapshot.service.cors)
        obligations = outcome.obligations if type(outcome) is Permit else NO_OBLIGATIONS
        if cors or limits:
            decision.said = [*cors, *limits]
        if (
            nonce
            or cors
            or limits
            or obligations.set_response_headers
            or obligations.remove_response_headers
            or obligations.unshared
        ):
            decision.edits = edits(obligations, cors, nonce, limits)
        if type(outcome) is Permit and outcome.visitor and self._journeys is not None:
            cookie = self._journeys.cookie(request, outcome, snapshot)
            if cookie:
                decision.edits = decision.edits.setting(cookie)
        self._ledger.decided(decision)
        refuse = outcome.observed if type(outcome) is Permit else outcome
        if refuse is not None and stands_for_nobody(refuse) and self.snapshot is not None:
            rate = self.snapshot.service.failed_credentials
            self._rates.take(FAILED, request.address, rate, self._clock())
        return decision

    def finished(
        self, request: Request, decision: Decision, status: int, upstream_seconds: float = 0.0
    ) -> None:
        """Count and log, once, when the response ended. `status` 0: the client went away first."""
        self._ledger.finished(request, decision, self.snapshot, status, upstream_seconds)


def _spends(permit: Permit) -> bool:
    """Whether uses of consents have to be counted, elsewhere, before it holds."""
    return any(type(effect) is SpendConsent for effect in permit.effects)


_NOBODY_COUNTS: Final[Refuse | None] = Refuse(Code.UNAVAILABLE, "consent_not_counted")
