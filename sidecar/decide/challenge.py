"""Refusal -> status, headers, body. The one builder: no door writes a refusal by hand.

Sources: RFC 6750 section 3 (Bearer challenges), RFC 9449 sections 7.1, 7.2 and 9 (those of DPoP),
RFC 9470 (step-up), RFC 9457 (problem details), DESIGN section 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from sidecar.decide.outcomes import Code, Plan, Refuse
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
    Code.PRIVACY: 303,
    Code.DENIED: 403,
    Code.BAD_REQUEST: 400,
    Code.TOO_LARGE: 413,
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
    Code.PRIVACY: "What is known of you is shown elsewhere.",
    Code.DENIED: "This request is not permitted.",
    Code.BAD_REQUEST: "This request is not well-formed.",
    Code.TOO_LARGE: "The body of this request is too large.",
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
    challenge: dict[str, Any] | None = None
    complete_at = ""
    if refuse.plan is not None:
        challenge = {"kind": refuse.plan.kind, "needs": refuse.plan.needs()}
        if refuse.interaction and refuse.plan.kind in _COMPLETED_BY_PEOPLE:
            complete_at = _complete_at(refuse, refuse.plan, decision_id)
            if is_browser(request) or refuse.plan.kind == "privacy":
                return _redirect(refuse, complete_at, request, decision_id)
            challenge["completeAt"] = complete_at
            if refuse.ticket:
                challenge["expiresIn"] = EXPIRES_IN
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


_COMPLETED_BY_PEOPLE: Final = frozenset(
    ("authentication", "step_up", "scope", "consent", "profile", "privacy")
)
EXPIRES_IN: Final = 600
"""Seconds that a ticket opens."""


def _complete_at(refuse: Refuse, plan: Plan, decision_id: str) -> str:
    """Where a person completes what is asked for, which stands in the query; or a ticket does."""
    url = refuse.interaction
    if plan.kind == "privacy":
        url = f"{url.rpartition('/')[0]}/privacy"
    if refuse.ticket:
        return f"{url}?{urlencode({'ticket': refuse.ticket})}"
    asked = {"kind": plan.kind, "decision_id": decision_id}
    for name, value in plan.needs().items():
        if isinstance(value, dict):
            asked[name] = orjson.dumps(value).decode()
        else:
            asked[name] = " ".join(value) if isinstance(value, list) else str(value)
    return f"{url}?{urlencode(asked)}"


def place_of(request: Request) -> str:
    """The address that a browser shows."""
    query = "" if request.query is None else "?" + request.query.decode("ascii")
    return f"{request.scheme}://{request.authority}{request.path}{query}"


def _redirect(refuse: Refuse, complete_at: str, request: Request, decision_id: str) -> Answer:
    """A person is taken there, and told where to come back to (`return_to`), unless that stands in
    the ticket."""
    location = complete_at
    if not refuse.ticket:
        location += f"&{urlencode({'return_to': place_of(request)})}"
    headers = [
        (b"location", location.encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"vary", b"accept, sec-fetch-mode, x-requested-with"),
        (b"x-sidecar-decision", decision_id.encode("ascii")),
    ]
    if refuse.ticket:
        headers.append((b"referrer-policy", b"no-referrer"))
    return Answer(303 if refuse.code is Code.PRIVACY else 302, headers, b"")


def is_browser(request: Request) -> bool:
    """Whether a page is being opened: GET, `text/html` preferred, and no script that asks."""
    if request.method not in ("GET", "HEAD") or not request.authority:
        return False
    if request.values(b"x-requested-with"):
        return False
    mode = request.values(b"sec-fetch-mode")
    if mode and mode != [b"navigate"]:
        return False
    accept = request.values(b"accept")
    return len(accept) == 1 and _prefers_html(accept[0])


def _prefers_html(accept: bytes) -> bool:
    """Whether `text/html` is named, and nothing else that is named is better (RFC 9110 section
    12.5.1); first of equals."""
    best, html = 0.0, -1.0
    for member in accept.decode("latin-1").lower().split(","):
        media, *parameters = [part.strip() for part in member.split(";")]
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = min(max(float(parameter[2:]), 0.0), 1.0)
                except ValueError:
                    quality = 0.0
        if media in ("text/html", "application/xhtml+xml"):
            html = max(html, quality if quality > best else -1.0)
        best = max(best, quality)
    return html > 0 and html >= best


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
    login = None if refuse.plan is None else refuse.plan.step_up
    if login is not None:  # RFC 9470 section 3; it has no name for amr
        if login.acr:
            parts.append(f"acr_values={_quoted(' '.join(login.acr))}")
        if login.amr:
            parts.append(f"amr_values={_quoted(' '.join(login.amr))}")
        if login.max_age is not None:
            parts.append(f'max_age="{int(login.max_age)}"')
    if scheme == "DPoP" and refuse.dpop is not None:
        parts.append(f'algs="{refuse.dpop.algs}"')
    return (f"{scheme} " + ", ".join(parts)).encode("ascii")


def _quoted(text: str) -> str:
    """A quoted-string (RFC 9110 section 5.6.4); what RFC 6750 does not admit becomes `'`.

    RFC 6750 section 3: %x20-21 / %x23-5B / %x5D-7E, that is, neither `"` nor backslash.
    """
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text) + '"'
