"""What expressions see of a request: only the footprint is converted, in the form CEL wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, Protocol

from sidecar.decide import body
from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.enrichment import CompiledEnricher, Enriched, key_of
from sidecar.decide.expressions import FAILED, Footprint, Program, Truth, _Failed
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
from sidecar.decide.outcomes import (
    NO_CLAIMS,
    Identity,
    NeedBody,
    NeedEnrichment,
    NeedSubject,
    Unavailable,
    Want,
)
from sidecar.decide.readers import READERS, Unreadable, subset, whole_content_type
from sidecar.decide.request import Request, Unread
from sidecar.decide.revocations import Revocations
from sidecar.decide.routes import ANY, Pattern
from sidecar.decide.segments import Membership, membership
from sidecar.decide.snapshot import Snapshot, Transaction
from sidecar.decide.subjects import NOT_KNOWN, Grant, Subject, Subjects, written
from sidecar.decide.tokens import WEIGHT, Verified
from sidecar.decide.workloads import Certificate, Workload

NO_MEMBERSHIP: Final = Membership(frozenset(), frozenset(), frozenset(), frozenset())
STALE: Final = Unavailable("subject_stale")
_NOT_READ: Final = object()


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


class Bindings:
    """One request and caller, at one moment. Cheap to make; converts when asked.

    What was missing, and why something could not be had, gathers in `wants`, `unavailable` and
    `unfit` (a body that cannot be: its status, why, and what to say); `fresh` is how long the facts
    hold that were read.
    """

    __slots__ = (
        "_answers",
        "_body",
        "_granted",
        "_known",
        "_membership",
        "_request",
        "_revocations",
        "_snapshot",
        "_stale",
        "_visitor",
        "fresh",
        "now",
        "reviewed",
        "reviewed",
        "unavailable",
        "unfit",
        "unsettled",
        "verified",
        "wants",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        verified: Verified | None,
        now: float,
        revocations: Revocations | None = None,
        snapshot: Snapshot | None = None,
        known: Known | None = None,
        stale: float = 0.0,
        reviewed: bool = False,
    ) -> None:
        """`stale` is for how many seconds what is known of the subject is believed while nobody can
        be asked. `reviewed`: the request was permitted before and goes on."""
        self._request = request
        self._revocations = revocations
        self._snapshot = snapshot
        self._known = known
        self._membership: Membership | None = None
        self._answers: dict[bytes, Mapping[str, Any]] = {}
        self._body: Any = _NOT_READ
        self._granted: Granted | None = None
        self._stale = stale
        self.reviewed = reviewed
        self._visitor: str | None = None
        self.verified = verified
        self.now = now
        self.fresh = inf
        self.wants: dict[Want, None] = {}
        self.unavailable = ""
        self.unfit: tuple[int, str, str] | None = None
        self.unsettled = False

    def truth(self, program: Program, pattern: Pattern) -> Truth | _Unknown:
        """The value of a boolean expression for a rule that matched by `pattern`."""
        bound = self._activation(program, pattern)
        if bound is None:
            return FAILED
        return UNKNOWN if bound is UNKNOWN else program.truth(bound)

    def text(self, program: Program, pattern: Pattern) -> str | _Failed | _Unknown:
        """The value of a text expression, likewise."""
        bound = self._activation(program, pattern)
        if bound is None:
            return FAILED
        return UNKNOWN if bound is UNKNOWN else program.text(bound)

    def value(self, program: Program, pattern: Pattern) -> Any:
        """The value of any expression, likewise."""
        bound = self._activation(program, pattern)
        if bound is None:
            return FAILED
        return UNKNOWN if bound is UNKNOWN else program.value(bound)

    def _activation(self, program: Program, pattern: Pattern) -> Any | None:
        try:
            return program.activation(
                {name: self.read(name, keys, pattern) for name, keys in program.footprint.items()}
            )
        except Unreadable:
            return None
        except NotYet:
            self._want(program, pattern)
            return UNKNOWN
        except Exception:  # noqa: BLE001  (the CEL library raises bare errors on odd values)
            return None

    def _want(self, program: Program, pattern: Pattern) -> None:
        """Let all that is missing be fetched together; the body is not, for what waits anyway."""
        for name, keys in program.footprint.items():
            if name != "request.body":
                with suppress(Unreadable, NotYet):
                    self.read(name, keys, pattern)

    def read(self, name: str, keys: frozenset[str] | None, pattern: Pattern) -> Any:
        """What `name` of a footprint is; of a map the `keys` that are there, None: all of them.

        Raises Unreadable and NotYet. The CEL library's own errors come from elsewhere.
        """
        if name == "token":
            return self._claims(keys)
        if name == "request.params":
            params = pattern.params(self._request.segments)
            return params if keys is None else subset(params, keys)
        if name in _OF_WORKLOAD:
            workload = self.workload()
            return "" if workload is None else getattr(workload, _OF_WORKLOAD[name])
        read = READERS.get(name)
        if read is not None:
            return read(self._request, keys)
        if name == "request.time":
            return datetime.fromtimestamp(self.now, UTC)
        if name == "request.body":
            body = self.body()
            return body if keys is None or type(body) is not dict else subset(body, keys)
        if name == "subject.id":
            return self.verified.identity.subject if self.verified else ""
        if name == "subject.anonymous":
            return self.verified is None
        if name == "source.segments":
            found = self.membership()
            if found.failed_source:
                raise Unreadable
            return sorted(found.source)
        if name == "enriched":
            return self._enriched(keys, pattern)
        return self._of_subject(name, keys)

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

    def in_the_dark(self) -> bool:
        """Whether what is missing cannot be had, so that there is nothing to wait for."""
        return bool(self.unavailable) and not self.wants and self.unfit is None

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

    def membership(self) -> Membership:
        """The segments that the caller is in by what documents say."""
        found = self._membership
        if found is None:
            snapshot = self._snapshot
            if snapshot is None or not snapshot.segments:
                found = NO_MEMBERSHIP
            else:
                found = membership(
                    snapshot.segments.values(),
                    snapshot.vouchers.get(_voucher(self.verified)) if self.verified else None,
                    self.workload(),
                    self._truth_of_caller,
                )
            self._membership = found
        return found

    def _truth_of_caller(self, program: Program) -> Truth:
        """The value of an expression over the caller alone: `compile` admits no other there."""
        found = self.truth(program, ANY)
        return FAILED if isinstance(found, _Unknown) else found

    def _enriched(self, keys: frozenset[str] | None, pattern: Pattern) -> Mapping[str, Any]:
        snapshot = self._snapshot
        if snapshot is None:
            return {}
        names = snapshot.enrichers.keys() if keys is None else keys
        found: dict[str, Any] = {}
        missing = False
        for name in sorted(names):
            enricher = snapshot.enrichers.get(name)
            if enricher is None:
                raise Unreadable
            try:
                found[name] = self._answer(enricher, pattern)
            except NotYet:  # the others may be fetched together with it
                missing = True
        if missing:
            raise NotYet
        return found

    def _answer(self, enricher: CompiledEnricher, pattern: Pattern) -> Mapping[str, Any]:
        values: list[tuple[str, Any]] = []
        for name, program in enricher.parameters:
            value = self.value(program, pattern)
            if value is UNKNOWN:
                raise NotYet
            if not isinstance(value, str | int | float):
                raise Unreadable
            values.append((name, value))
        asked = tuple(values)
        key = key_of(enricher, asked)
        known = self._answers.get(key)
        if known is not None:
            return known
        found = self._known.enriched.get(key, self.now) if self._known is not None else None
        if found is None:
            self.wants[NeedEnrichment(key, enricher, asked)] = None
            raise NotYet
        if isinstance(found, Unavailable):
            self.unavailable = self.unavailable or found.reason
            raise NotYet
        self.fresh = min(self.fresh, found.expires)
        self._answers[key] = found.values
        return found.values

    def body(self) -> Any:
        """The request's body as a value. Raises Unreadable and NotYet."""
        if self._body is not _NOT_READ:
            return self._body
        request = self._request
        content = request.body
        if content is None:
            if request.has_body():
                limit = self._snapshot.service.body if self._snapshot is not None else 0
                self.wants[NeedBody(limit)] = None
                raise NotYet
            content = b""
        elif isinstance(content, Unread):
            self.unfit = (content.status, content.reason, "")
            raise NotYet
        kind = whole_content_type(request)
        try:
            self._body = body.read(content, *kind)
        except body.NotInspected:
            raise Unreadable from None
        except body.BadBody as error:
            self.unfit = (400, "bad_body", f"In this request {error}.")
            raise NotYet from None
        return self._body

    def workload(self) -> Workload | None:
        """Whom the caller's certificate names, for as long as it holds and is not withdrawn."""
        certificate = self._request.certificate
        if certificate is None:
            return None
        workload = certificate.workload
        if workload is None or self.now >= workload.expires:
            return None
        if self._revocations is not None:
            known = standing(certificate, workload)
            if self._revocations.revokes(known, self.now):
                return None
        return workload

    def standing(self) -> Verified | None:
        """The same as a credential, which may be withdrawn: by subject, or thumbprint as a key."""
        workload, certificate = self.workload(), self._request.certificate
        if workload is None or certificate is None:
            return None
        return standing(certificate, workload)

    def _claims(self, keys: frozenset[str] | None) -> Mapping[str, Any]:
        if self.verified is None:
            return NO_CLAIMS
        claims, opaque = self.verified.claims, self.verified.opaque
        if keys is None:
            if opaque:
                raise Unreadable
            return claims
        if opaque and not opaque.isdisjoint(keys):
            raise Unreadable
        return subset(claims, keys)


def _voucher(verified: Verified) -> tuple[str, str]:
    """Which document vouches for a credential: that of an API key, or of an issuer."""
    issuer = verified.identity.issuer
    return (issuer, verified.key_id if issuer == API_KEYS else "")


def standing(certificate: Certificate, workload: Workload) -> Verified:
    """A workload as a credential; the same object each time."""
    known: Verified | None = certificate.standing
    if known is None:
        claims = {"iat": workload.since, "cnf": {"x5t#S256": certificate.thumbprint}}
        known = Verified(workload.identity, claims, frozenset(), workload.expires, None, WEIGHT)
        certificate.standing = known
    return known


_OF_WORKLOAD: Final[Mapping[str, str]] = {
    "source.spiffe": "spiffe",
    "source.namespace": "namespace",
    "source.serviceAccount": "service_account",
}

__all__ = ["UNKNOWN", "Bindings", "Footprint"]
