"""What a decision can be: Permit, Refuse or Need. Nothing is forwarded without a Permit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """The public code of a refusal (`code` in problem+json); DESIGN section 7."""

    AUTHENTICATION_REQUIRED = "authentication_required"
    INVALID_TOKEN = "invalid_token"  # noqa: S105
    STEP_UP = "insufficient_user_authentication"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    CONSENT_REQUIRED = "consent_required"
    PROFILE_REQUIRED = "profile_required"
    DENIED = "denied"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: always the pair (issuer, subject), with the scopes the credential carries."""

    issuer: str
    subject: str
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Obligations:
    """What the upstream's request must carry beyond identity: headers set and removed by rules."""

    set_headers: tuple[tuple[str, str], ...] = ()


NO_OBLIGATIONS = Obligations()


@dataclass(frozen=True, slots=True)
class Effect:
    """What must be committed atomically before forwarding: limits, replay, consent uses."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The request may go upstream, as this identity, until `expires` (seconds since the epoch).

    `rule` is `namespace/policy/rule` of the first satisfied allow rule. `observed` carries the
    refusal that mode `observe` did not enforce.
    """

    rule: str
    identity: Identity | None = None
    obligations: Obligations = NO_OBLIGATIONS
    expires: float = float("inf")
    effects: tuple[Effect, ...] = ()
    observed: Refuse | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the caller could do to be admitted, at least friction. Empty parts are not asked for."""

    kind: str
    scopes: tuple[str, ...] = ()
    missing_scopes: tuple[str, ...] = ()

    def needs(self) -> dict[str, Any]:
        """The `needs` member of the problem's challenge."""
        return {"scopes": list(self.missing_scopes)} if self.missing_scopes else {}


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request ends here. `reason` is for the log and metrics, `code` for the caller.

    `presented`: a credential came with the request (RFC 6750 section 3.1: only then `error=`).
    `detail` is safe to show to the caller. `rule` names what refused, for the log only.
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


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """The key set of one issuer: absent, or without the key id that a token names."""

    issuer: str
    reason: str = "absent"


@dataclass(frozen=True, slots=True)
class Need:
    """Facts that can still change the outcome; fetch them all, then decide again."""

    wants: tuple[NeedKeys, ...]


Outcome = Permit | Refuse | Need


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Evidence that a fetch failed; an outcome that depends on it is 503, never an allow."""

    reason: str


NO_CLAIMS: Mapping[str, Any] = {}
