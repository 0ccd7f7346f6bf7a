"""What a decision can be: Permit, Refuse or Need. Nothing is forwarded without a Permit.

Structs rather than dataclasses: a frozen dataclass takes a microsecond to make, and each request
makes one of these. Final, and told apart by `type(...) is`: to `isinstance` they are abstract
classes, of which each "no" takes another microsecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, final

import msgspec

from sidecar.decide.step_up import StepUp

if TYPE_CHECKING:
    from sidecar.decide.redact import Redaction


class Code(StrEnum):
    """The public code of a refusal (`code` in problem+json); DESIGN section 7."""

    AUTHENTICATION_REQUIRED = "authentication_required"
    # A code of RFC 6750, no secret.
    INVALID_TOKEN = "invalid_token"  # noqa: S105
    INVALID_PROOF = "invalid_dpop_proof"
    NONCE = "use_dpop_nonce"
    STEP_UP = "insufficient_user_authentication"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    CONSENT_REQUIRED = "consent_required"
    PROFILE_REQUIRED = "profile_required"
    PRIVACY = "privacy"
    DENIED = "denied"
    BAD_REQUEST = "bad_request"
    TOO_LARGE = "content_too_large"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNAVAILABLE = "unavailable"


class Identity(msgspec.Struct, frozen=True):
    """Who calls: always the pair (issuer, subject), with the scopes the credential carries."""

    issuer: str
    subject: str
    scopes: frozenset[str] = frozenset()


class Obligations(msgspec.Struct, frozen=True):
    """What rules make of a permitted request and its response. Names are lower case.

    `redact` is what must be cut out of the response; a door that cannot do that must refuse.
    `unshared`: others would be sent less than this caller, so no cache may keep it for them.
    """

    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: frozenset[str] = frozenset()
    set_response_headers: tuple[tuple[str, str], ...] = ()
    remove_response_headers: frozenset[str] = frozenset()
    redact: tuple[Redaction, ...] = ()
    unshared: bool = False


NO_OBLIGATIONS = Obligations()


class Effect(msgspec.Struct, frozen=True):
    """What must be committed atomically before forwarding: limits, replay, consent uses."""


@final
class RememberProof(Effect, frozen=True):
    """A DPoP proof that may be used once: the thumbprint of its key, its `jti`, its `iat`, and how
    many seconds after that it would still be accepted."""

    key: str
    jti: str
    created: float
    max_age: float


@final
class TakeToken(Effect, frozen=True):
    """One more from a token bucket: that of `rule` for one `value` of its `per`. It holds `burst`
    and fills by one every `interval` seconds."""

    rule: str
    value: bytes
    interval: float
    burst: int


@final
class SpendConsent(Effect, frozen=True):
    """One use of a consent that admits so many: `purpose` is `namespace/name`, `binding` the digest
    of the transaction that it is for, or empty. Whoever keeps customers counts it."""

    customer: str
    purpose: str
    binding: str


@final
class Shadow(msgspec.Struct, frozen=True):
    """What would be decided were shadow policies enforced too: `permit`, `refuse` with a code and
    a reason, or `unknown`, where a fact that they need was not to be had."""

    outcome: str
    code: str = ""
    reason: str = ""
    rule: str = ""


@final
class Permit(msgspec.Struct, frozen=True):
    """The request may go upstream, as this identity, until `expires` (seconds since the epoch).

    `rule` is `namespace/policy/rule` of the first satisfied allow rule. `observed` carries the
    refusal that mode `observe` did not enforce. `nonce` is to be told to the caller, if any is.
    `verified` is the credential of the identity (`tokens.Verified`), `beside` another one that it
    hangs on: the workload with a token, or the other way round. Both are for whoever must end what
    was begun with them when one is withdrawn. `customer` is the id of the customer behind it, where
    one is known; `subject` the record that it was decided on, where one was. `visitor`: who has no
    visitor's cookie gets one.
    """

    rule: str
    identity: Identity | None = None
    obligations: Obligations = NO_OBLIGATIONS
    expires: float = float("inf")
    effects: tuple[Effect, ...] = ()
    observed: Refuse | None = None
    nonce: str = ""
    verified: Any = None
    beside: Any = None
    shadow: Shadow | None = None
    customer: str = ""
    subject: Any = None
    visitor: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What the caller could do to be admitted, at least friction. Empty parts are not asked for.

    `proof` are the kinds of proof of which one is asked for, `step_up` is the login that is.
    `transactions` (`journey.Bound`) are what those of `consent` are about that are for once.
    """

    kind: str
    scopes: tuple[str, ...] = ()
    missing_scopes: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()
    missing_proof: bool = False
    step_up: StepUp | None = None
    consent: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    transactions: tuple[Any, ...] = ()

    def needs(self) -> dict[str, Any]:
        """The `needs` member of the problem's challenge."""
        found: dict[str, Any] = {}
        if self.missing_scopes:
            found["scopes"] = list(self.missing_scopes)
        if self.missing_proof:
            found["proof"] = list(self.proof)
        step_up = self.step_up
        if step_up is not None:
            if step_up.acr:
                found["acr_values"] = list(step_up.acr)
            if step_up.amr:
                found["amr_values"] = list(step_up.amr)
            if step_up.max_age is not None:
                found["max_age"] = int(step_up.max_age)
        if self.consent:
            found["consent"] = list(self.consent)
        if self.transactions:
            found["transaction"] = {each.purpose: each.shown() for each in self.transactions}
        if self.profile:
            found["profile"] = list(self.profile)
        return found


class DpopScheme(msgspec.Struct, frozen=True):
    """What a challenge says of DPoP: the algorithms (RFC 9449 section 7.1), whether the credential
    was or should have been presented with this scheme, and whether it is offered to everybody."""

    algs: str
    used: bool
    offered: bool


@final
class Refuse(msgspec.Struct, frozen=True):
    """The request ends here. `reason` is for the log and metrics, `code` for the caller.

    `presented`: a credential came with the request (RFC 6750 section 3.1: only then `error=`).
    `detail` is safe to show to the caller. `rule` names what refused, for the log only. `dpop` is
    what there is to say of that scheme, `nonce` what the caller's next proof must carry,
    `interaction` where a person completes what the plan asks for, and `ticket` what they bring
    there. `suspect` is whose credential it was that somebody else may have.
    """

    code: Code
    reason: str
    detail: str = ""
    plan: Plan | None = None
    presented: bool = False
    rule: str = ""
    realm: str = "sidecar"
    identity: Identity | None = None
    retry_after: int | None = None
    dpop: DpopScheme | None = None
    nonce: str = ""
    interaction: str = ""
    shadow: Shadow | None = None
    ticket: str = ""
    suspect: Identity | None = None


@final
class NeedKeys(msgspec.Struct, frozen=True):
    """The key set of one issuer: absent, or without the key id that a token names."""

    issuer: str
    reason: str = "absent"


@final
class NeedIntrospection(msgspec.Struct, frozen=True):
    """What an issuer says of an opaque token: `answers` will hold it under `key`.

    Whoever shows one of these shows no token.
    """

    key: bytes
    issuer: str
    token: bytes
    address: str
    reviewed: bool = False

    def __repr__(self) -> str:
        return f"NeedIntrospection({self.issuer!r})"


@final
class NeedSubject(msgspec.Struct, frozen=True):
    """What is known of a subject beyond its token. `introduction` (`journey.Introduction`) is what
    whoever keeps customers is told of it."""

    identity: Identity
    introduction: Any = None


@final
class NeedEnrichment(msgspec.Struct, frozen=True):
    """The answer of an Enricher (`enrichment.CompiledEnricher`) to these parameters."""

    key: bytes
    enricher: Any
    values: tuple[tuple[str, Any], ...]


@final
class NeedBody(msgspec.Struct, frozen=True):
    """The request's body, `limit` bytes at most. `optional`: nothing that is enforced reads it."""

    limit: int
    optional: bool = False


Want = NeedKeys | NeedIntrospection | NeedSubject | NeedEnrichment | NeedBody


@final
class Need(msgspec.Struct, frozen=True):
    """Facts that can still change the outcome; fetch them all, then decide again."""

    wants: tuple[Want, ...]


Outcome = Permit | Refuse | Need


class Unavailable(msgspec.Struct, frozen=True):
    """Evidence that a fetch failed; an outcome that depends on it is 503, never an allow."""

    reason: str


NO_CLAIMS: Mapping[str, Any] = {}
