"""Refusal -> status, headers, body. The one builder: no door writes a refusal by hand.

Sources: RFC 6750 section 3 (Bearer challenges), RFC 9449 sections 7.1, 7.2 and 9 (those of DPoP),
RFC 9457 (problem details), DESIGN section 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson

from sidecar.decide.outcomes import Code, Refuse
from sidecar.decide.request import Headers, Request

_STATUS: Final[Mapping[Code, int]] = {
    Code.AUTHENTICATION_REQUIRED: 401,
    Code.INVALID_TOKEN: 401,
    Code.INVALID_PROOF: 401,
    Code.NONCE: 401,
    Code.STEP_UP: 401,
    Code.INSUFFICIENT_SCOPE: 403,
    Code.CONSENT_REQUIRED: 403,
    Code.PROFILE_REQUIRED: 403,
    Code.DENIED: 403,
    Code.TOO_MANY_REQUESTS: 429,
    Code.UNAVAILABLE: 503,
}

_DETAIL: Final[Mapping[Code, str]] = {
    Code.AUTHENTICATION_REQUIRED: "This request needs an access token.",
    Code.INVALID_TOKEN: "The access token is not valid here.",
    Code.INVALID_PROOF: "The proof that came with the access token is not valid here.",
    Code.NONCE: "The proof must carry the nonce that comes with this.",
    Code.STEP_UP: "This request needs a stronger or more recent login.",
    Code.INSUFFICIENT_SCOPE: "The access token lacks a scope that this request needs.",
    Code.CONSENT_REQUIRED: "This request needs a consent that is not given.",
    Code.PROFILE_REQUIRED: "This request needs profile data that is not known yet.",
    Code.DENIED: "This request is not permitted.",
    Code.TOO_MANY_REQUESTS: "Too many requests.",
    Code.UNAVAILABLE: "This request cannot be decided at the moment.",
}

# RFC 6750 section 3.1 knows three error codes; RFC 9470 section 3 adds one, RFC 9449 two.
_ERROR: Final[Mapping[Code, str]] = {
    Code.INVALID_TOKEN: "invalid_token",
    Code.INVALID_PROOF: "invalid_dpop_proof",
    Code.NONCE: "use_dpop_nonce",
    Code.INSUFFICIENT_SCOPE: "insufficient_scope",
    Code.STEP_UP: "insufficient_user_authentication",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response but for framing: the door adds content-length and connection."""

    status: int
    headers: Headers
    body: bytes


def problem(
    status: int,
    code: str,
    detail: str,
    decision_id: str,
    challenge: Mapping[str, Any] | None = None,
) -> Answer:
    """An `application/problem+json` answer. Never cached: it is about this caller and moment."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "decision_id": decision_id,
    }
    if challenge is not None:
        body["challenge"] = challenge
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"cache-control", b"no-store"),
        (b"x-sidecar-decision", decision_id.encode("ascii")),
    ]
    return Answer(status, headers, orjson.dumps(body))


def refusal(refuse: Refuse, request: Request, decision_id: str) -> Answer:
    """The answer to a refused request, in the form its client understands."""
    status = _STATUS[refuse.code]
    challenge = None
    if refuse.plan is not None:
        challenge = {"kind": refuse.plan.kind, "needs": refuse.plan.needs()}
    answer = problem(
        status, refuse.code.value, refuse.detail or _DETAIL[refuse.code], decision_id, challenge
    )
    if refuse.code in _ERROR or refuse.code is Code.AUTHENTICATION_REQUIRED:
        answer.headers.append((b"www-authenticate", _challenges(refuse)))
    if refuse.nonce:
        answer.headers.append((b"dpop-nonce", refuse.nonce.encode("ascii")))
    if status in (429, 503):
        answer.headers.append((b"retry-after", b"%d" % (refuse.retry_after or 1)))
    return answer


def _challenges(refuse: Refuse) -> bytes:
    """One for each scheme, all in one field as RFC 9449 section 7.2 shows them."""
    return b", ".join(
        [_challenge(refuse, scheme, place == 0) for place, scheme in enumerate(_schemes(refuse))]
    )


def _schemes(refuse: Refuse) -> tuple[str, ...]:
    """First the one that an error is about. A certificate-bound token is a bearer token in form."""
    dpop = refuse.dpop
    if dpop is None:
        return ("Bearer",)
    proof = () if refuse.plan is None else refuse.plan.proof
    if dpop.used or proof == ("dpop",):
        return ("DPoP",)
    return ("Bearer", "DPoP") if dpop.offered or "dpop" in proof else ("Bearer",)


def _challenge(refuse: Refuse, scheme: str, first: bool) -> bytes:
    """RFC 6750 section 3: `error` only when a credential was presented."""
    parts = [f"realm={_quoted(refuse.realm)}"]
    error = _ERROR.get(refuse.code)
    if error is not None and refuse.presented and first:
        detail = refuse.detail or _DETAIL[refuse.code]
        parts.append(f'error="{error}"')
        parts.append(f"error_description={_quoted(detail)}")
    if refuse.plan is not None and refuse.plan.scopes:
        parts.append(f"scope={_quoted(' '.join(refuse.plan.scopes))}")
    if scheme == "DPoP" and refuse.dpop is not None:
        parts.append(f'algs="{refuse.dpop.algs}"')
    return (f"{scheme} " + ", ".join(parts)).encode("ascii")


def _quoted(text: str) -> str:
    """A quoted-string (RFC 9110 section 5.6.4); what RFC 6750 does not admit becomes `'`.

    RFC 6750 section 3: %x20-21 / %x23-5B / %x5D-7E, that is, neither `"` nor backslash.
    """
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text) + '"'
