"""What expressions see of a request: only the footprint is converted, in the form CEL wants."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from typing import Any, Final

from sidecar.decide import body
from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.enrichment import CompiledEnricher, key_of
from sidecar.decide.expressions import FAILED, Footprint, Program, Truth, _Failed
from sidecar.decide.journey import (
    Granted,
)
from sidecar.decide.outcomes import (
    NO_CLAIMS,
    NeedBody,
    NeedEnrichment,
    Unavailable,
    Want,
)
from sidecar.decide.readers import READERS, Unreadable, subset, whole_content_type
from sidecar.decide.request import Request, Unread
from sidecar.decide.revocations import Revocations
from sidecar.decide.routes import ANY, Pattern
from sidecar.decide.segments import Membership, membership
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subject_facts import (
    UNKNOWN,
    ExpiringAnswers,
    Known,
    NotYet,
    SubjectFacts,
    _Unknown,
)
from sidecar.decide.tokens import WEIGHT, Verified
from sidecar.decide.workloads import Certificate, Workload

NO_MEMBERSHIP: Final = Membership(frozenset(), frozenset(), frozenset(), frozenset())
_NOT_READ: Final = object()


class Bindings(SubjectFacts):
    """One request and caller, at one moment. Cheap to make; converts when asked.

    What was missing, and why something could not be had, gathers in `wants`, `unavailable` and
    `unfit` (a body that cannot be: its status, why, and what to say); `fresh` is how long the facts
    hold that were read.
    """

    __slots__ = ("_answers", "_body", "_membership", "_revocations", "unfit")

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

    def in_the_dark(self) -> bool:
        """Whether what is missing cannot be had, so that there is nothing to wait for."""
        return bool(self.unavailable) and not self.wants and self.unfit is None

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

__all__ = ["UNKNOWN", "Bindings", "ExpiringAnswers", "Footprint", "NotYet", "_Unknown", "standing"]
