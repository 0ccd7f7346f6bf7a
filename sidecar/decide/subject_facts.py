"""What is known of the caller as a subject, and how it is come by: records, consents, visitors.

Part of `bindings`, which has the rest: what expressions see of a request. Whatever is missing is
wanted, and what cannot be had is said, there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final, Protocol

from sidecar.decide.enrichment import CompiledEnricher, Enriched
from sidecar.decide.expressions import FAILED, Program
from sidecar.decide.journey import (
    NO_JOURNEY,
    VISITOR,
    Attribute,
    Bound,
    CompiledIdentity,
    Granted,
    bound,
    grant_of,
    granted,
    introduce,
)
from sidecar.decide.outcomes import Identity, NeedSubject, Unavailable, Want
from sidecar.decide.readers import Unreadable, subset
from sidecar.decide.request import Request
from sidecar.decide.routes import ANY, Pattern
from sidecar.decide.segments import Membership
from sidecar.decide.snapshot import Snapshot, Transaction
from sidecar.decide.subjects import NOT_KNOWN, Grant, Subject, Subjects, written
from sidecar.decide.tokens import Verified

STALE: Final = Unavailable("subject_stale")


class NotYet(Exception):
    """A fact that has to be fetched first, or cannot be had: the expression's value is unknown."""


class _Unknown:
    """Neither true, false nor failed: a fact is missing."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        raise TypeError("an unknown expression is neither true nor false")


UNKNOWN: Final = _Unknown()


class Known(Protocol):
    """What was fetched beyond the request: `caller.Evidence`."""

    @property
    def subjects(self) -> Subjects: ...
    @property
    def enriched(self) -> ExpiringAnswers: ...
    @property
    def lost(self) -> Callable[[], float | None]: ...
    @property
    def visitor(self) -> Callable[[Request, CompiledIdentity], str]: ...


class ExpiringAnswers(Protocol):
    """What enrichers answered, or that they did not: `cache.ExpiringCache`."""

    def get(self, key: bytes, now: float) -> Enriched | Unavailable | None: ...


class SubjectFacts:
    """Of one request and caller. `Bindings` makes it, and reads the rest."""

    __slots__ = (
        "_granted", "_known", "_request", "_snapshot", "_stale", "_visitor", "fresh", "now",
        "reviewed", "unavailable", "unsettled", "verified", "wants",
    )  # fmt: skip

    _granted: Granted | None
    _known: Known | None
    _request: Request
    _snapshot: Snapshot | None
    _stale: float
    _visitor: str | None
    fresh: float
    now: float
    reviewed: bool
    unavailable: str
    unsettled: bool
    verified: Verified | None
    wants: dict[Want, None]

    def value(self, program: Program, pattern: Pattern) -> Any:
        """The value of an expression: `Bindings`."""
        raise NotImplementedError

    def membership(self) -> Membership:
        """The segments that the caller is in by what documents say: `Bindings`."""
        raise NotImplementedError

    def _answer(self, enricher: CompiledEnricher, pattern: Pattern) -> Mapping[str, Any]:
        raise NotImplementedError

    def _of_subject(self, name: str, keys: frozenset[str] | None) -> Any:
        subject = self.subject()
        if name == "subject.consents":
            return sorted(self.consents())
        if name == "subject.grants":  # for records: no expression reads it
            return sorted([written(each) for each in subject.grants if each.binding])
        if name == "subject.profile":
            return self._profile(subject, keys)
        if name == "subject.segments":
            found = self.membership()
            if found.failed_subject:
                raise Unreadable
            return sorted(subject.segments | found.subject)
        if name == "subject.risk":
            return subject.risk_at(self.now)
        raise Unreadable

    def _profile(self, subject: Subject, keys: frozenset[str] | None) -> Mapping[str, Any]:
        """The attributes that are known, and of those not known what an Enricher knows."""
        known = subject.profile if keys is None else subset(subject.profile, keys)
        attributes = self._snapshot.journey.attributes if self._snapshot is not None else {}
        more = {}
        for name in attributes if keys is None else keys:
            if known.get(name) is not None:
                continue
            if name in subject.present:
                more[name] = True  # what it is nobody here reads
            elif name in attributes and attributes[name].enricher[0]:
                value = self._enrichment(attributes[name])
                if value is not None:
                    more[name] = value
        return {**known, **more} if more else known

    def knows(self, name: str) -> bool:
        """Whether an attribute of the subject is known, to whomever. Raises NotYet."""
        subject = self.subject()
        if subject.profile.get(name) is not None or name in subject.present:
            return True
        attributes = self._snapshot.journey.attributes if self._snapshot is not None else {}
        attribute = attributes.get(name)
        if attribute is None or not attribute.enricher[0] or self.verified is None:
            return False
        return self._enrichment(attribute) is not None

    def _enrichment(self, attribute: Attribute) -> Any:
        """What its Enricher says of it. Raises NotYet; what it cannot be asked it does not know."""
        name, member = attribute.enricher
        enricher = self._snapshot.enrichers.get(name) if self._snapshot is not None else None
        if enricher is None:
            return None
        self.unsettled = True  # no key of a remembered permit holds what it is asked with
        try:
            return self._answer(enricher, ANY).get(member)
        except Unreadable:
            return None

    def subject(self) -> Subject:
        """What is known of the caller. Raises NotYet."""
        found = self._record()
        if found is None:
            self.want_subject()
        elif isinstance(found, Unavailable):
            self.unavailable = self.unavailable or found.reason
        if not isinstance(found, Subject):
            raise NotYet
        return found

    def subject_if_known(self) -> Subject | None:
        """The same; None where it was not fetched, or cannot be had."""
        found = self._record()
        return found if isinstance(found, Subject) else None

    def customer(self) -> tuple[str, Any] | None:
        """The id of the customer behind the caller, and the record; None: it has to be fetched.
        Empty where nobody can be asked: nothing is decided by it."""
        found = self._record()
        if found is None:
            self.want_subject()
            return None
        if isinstance(found, Subject):
            return found.customer, found
        self.unavailable = self.unavailable or found.reason
        return "", None

    def held_until(self) -> float:
        """Until when the consents that were looked at hold."""
        return inf if self._granted is None else self._granted.until

    def want_subject(self) -> None:
        """Have the record fetched."""
        identity = self.identity()
        if identity is not None and self._snapshot is not None:
            journey = self._snapshot.journey
            introduced = introduce(journey, self.verified, self.visitor())
            self.wants[NeedSubject(identity, introduced)] = None

    def identity(self) -> Identity | None:
        """By whom the record is known: the token's subject, or a visitor by the cookie."""
        if self.verified is not None:
            return self.verified.identity
        visitor = self.visitor()
        return Identity(VISITOR, visitor) if visitor else None

    def visitor(self) -> str:
        """The visitor that the request's cookie names; empty: none."""
        found = self._visitor
        if found is None:
            found = ""
            snapshot, known = self._snapshot, self._known
            if snapshot is not None and known is not None and snapshot.journey.identity is not None:
                found = known.visitor(self._request, snapshot.journey.identity)
            self._visitor = found
        return found

    def _record(self) -> Subject | Unavailable | None:
        if self._known is None:
            return NOT_KNOWN
        identity = self.identity()
        if identity is None:
            return NOT_KNOWN
        found = self._known.subjects(identity, self.now)
        if type(found) is Subject and found is not NOT_KNOWN:
            lost = self._known.lost()
            if lost is not None:
                if self.now >= lost + self._stale:
                    return STALE
                self.fresh = min(self.fresh, lost + self._stale)
            if self.verified is not None and not found.introduced(self.visitor()):
                return None  # the visitor has logged in: whoever keeps customers has to hear of it
        return found

    def consents(self) -> frozenset[str]:
        """The purposes that the caller's consent holds for now. Raises NotYet."""
        found = self._granted
        if found is None:
            journey = self._snapshot.journey if self._snapshot is not None else NO_JOURNEY
            found = self._granted = granted(
                journey, self.subject(), self.now, reviewed=self.reviewed
            )
            self.fresh = min(self.fresh, found.until)
        return found.names

    def grant(self, purpose: str, binding: str) -> Grant | None:
        """The consent that admits one use of a purpose, if there is one. Raises NotYet."""
        journey = self._snapshot.journey if self._snapshot is not None else NO_JOURNEY
        return grant_of(journey, self.subject(), purpose, binding, self.now, reviewed=self.reviewed)

    def transaction(self, asked: Transaction, pattern: Pattern) -> Bound | None:
        """What this request asks consent to; None where an expression fails. Raises NotYet."""
        values = []
        for name, program in asked.parts:
            value = self.value(program, pattern)
            if value is UNKNOWN:
                raise NotYet
            if value is FAILED:
                return None
            values.append((name, value))
        try:
            return bound(asked.purpose, values)
        except (TypeError, ValueError):
            return None
