"""What stands before and around every page: headers, bodies within bounds, and that a form is sent
by the page that showed it, in the browser that it was shown to.

A form needs both: Fetch Metadata or Origin that say it comes from here, and a token that is sealed
for this browser's cookie and for what it answers. So nobody can let another person's browser answer
a ticket of his own, nor withdraw what another one granted.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from sidecar.errors import SealBroken, SidecarError
from sidecar.facts.sealed import seal, unseal

FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"
BODY: Final = 64 * 1024  # bytes
BODY_SECONDS: Final = 10.0
FIELDS: Final = 256
SESSION: Final = 900.0  # seconds that somebody may look at their privacy page
FORM_SECONDS: Final = 3600.0  # that a form may lie open; its ticket most likely ends before

_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_IPV6: Final = re.compile(r"[0-9a-f:.]*:[0-9a-f:.]*")
_ADDRESS: Final = re.compile(r"[!-~]+")  # printable ASCII
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
# Chromium applies `form-action` to whatever address a form's answer redirects to, however far, and
# stays in silence where one is not named: so no answer to a form redirects to elsewhere.
# `same-origin`, not `no-referrer`: the latter makes browsers send `Origin: null` with our own forms
# (Fetch, "append a request Origin header"); to others both tell nothing.
PROTECTIVE: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "same-origin",
    "vary": "accept, accept-language, cookie",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex",
}
"""The headers of every answer."""


class Refused(SidecarError):
    """An answer that is no page: `code` is the catalogues' `refused.CODE.title` and `.text`."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.headers = headers or {}


def leads_back(address: str) -> bool:
    """Whether a browser may be sent there: http(s), a host, and nothing that one reads so and
    another one otherwise."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    return bool(
        parts.scheme in _PORTS
        and _ADDRESS.fullmatch(address)
        and "@" not in parts.netloc
        and (_HOST.fullmatch(host) or _IPV6.fullmatch(host))
    )


def require_same_origin(request: web.Request, *, by_browser: bool = True) -> None:
    """Browsers say where a request comes from, and pages cannot change it. What says nothing is no
    browser: good enough where the ticket is the proof. Raises Refused."""
    site = request.headers.getall("sec-fetch-site", [])
    origin = request.headers.getall("origin", [])
    if site:  # also where a proxy before us rewrites Host
        good = site == ["same-origin"]
    elif origin:
        good = len(origin) == 1 and _authority(origin[0]) == _host(request, origin[0])
    else:
        good = not by_browser
    if not good:
        raise Refused(403, "forged")


def _authority(origin: str) -> tuple[str, int] | None:
    """Host and port of an Origin; None for `null`."""
    try:
        parts = urlsplit(origin)
        if parts.scheme not in _PORTS or not parts.hostname:
            return None
        return parts.hostname, parts.port or _PORTS[parts.scheme]
    except ValueError:
        return None


def _host(request: web.Request, origin: str) -> tuple[str, int] | str:
    """Host and port asked for; TLS may end before us, so the scheme is the Origin's."""
    scheme = origin.partition(":")[0]
    return _authority(f"{scheme}://{request.headers.get('host', '')}") or "none"


def media_type(request: web.Request) -> str:
    """Of the body, exactly one and nothing encoded. Raises Refused."""
    found = request.headers.getall("content-type", [])
    if len(found) != 1 or "content-encoding" in request.headers:
        raise Refused(415, "media")
    kind, _, parameters = found[0].lower().partition(";")
    if parameters.strip() not in ("", "charset=utf-8"):
        raise Refused(415, "media")
    return kind.strip()


async def body(request: web.Request) -> bytes:
    """At most 64 KiB within 10 s. Raises Refused."""
    whole = bytearray()
    if (request.content_length or 0) > BODY:
        raise Refused(413, "too_large")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                whole += chunk
                if len(whole) > BODY:
                    raise Refused(413, "too_large")
    except TimeoutError:
        raise Refused(408, "slow") from None
    return bytes(whole)


async def form(request: web.Request) -> dict[str, str]:
    """The fields of a form of this origin, each once. Raises Refused."""
    require_same_origin(request)
    if media_type(request) != FORM:
        raise Refused(415, "media")
    whole = await body(request)
    try:
        pairs = parse_qsl(
            whole.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS
        )
    except ValueError:  # UnicodeDecodeError is one
        raise Refused(400, "malformed") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refused(400, "malformed")
    return fields


def single(request: web.Request, name: str) -> str:
    """A parameter of the address, empty where it is not there. Raises Refused for several."""
    found = request.query.getall(name, [])
    if len(found) > 1:
        raise Refused(400, "malformed")
    return found[0] if found else ""


@dataclass(frozen=True, slots=True)
class Seals:
    """Cookies and forms' tokens. `insecure` is for plain HTTP on loopback: cookies without `Secure`
    and the prefix that demands it."""

    secret: bytes
    clock: Callable[[], float]
    insecure: bool = False

    def browser(self, request: web.Request) -> str:
        """What tells this browser from others, or a new one of it."""
        found = request.cookies.get(self._name("form"), "")
        return found if _COOKIE.fullmatch(found) else secrets.token_urlsafe(32)

    def remember(self, response: web.StreamResponse, browser: str) -> None:
        self._set(response, "form", browser, None)

    def token(self, browser: str, subject: str, shown: str = "") -> str:
        """For a form in this browser about `subject`, a ticket or a session; `shown` is what it
        showed."""
        members = {"b": _digest(browser), "s": _digest(subject), "w": _digest(shown)}
        return seal(self.secret, "form", members, now=self.clock(), seconds=FORM_SECONDS)

    def check(self, request: web.Request, token: str, subject: str, shown: str = "") -> bool:
        """Whether a form showed what `shown` says. Raises Refused where it is not ours at all."""
        browser = request.cookies.get(self._name("form"), "")
        try:
            members = unseal(self.secret, "form", token, now=self.clock())
        except SealBroken:
            raise Refused(403, "forged") from None
        if not (
            _COOKIE.fullmatch(browser)
            and compare_digest(str(members.get("b")), _digest(browser))
            and compare_digest(str(members.get("s")), _digest(subject))
        ):
            raise Refused(403, "forged")
        return compare_digest(str(members.get("w")), _digest(shown))

    def begin(self, response: web.StreamResponse, customer: str) -> None:
        """Lets the browser see the privacy page for a quarter of an hour. `Lax`, for the redirect
        that brought it here began elsewhere, and `Strict` would keep the cookie from where it ends.
        """
        now = self.clock()
        text = seal(self.secret, "privacy session", {"c": customer}, now=now, seconds=SESSION)
        self._set(response, "privacy", text, int(SESSION))

    def customer(self, request: web.Request) -> str:
        """Whose session it is. Raises Refused."""
        text = request.cookies.get(self._name("privacy"), "")
        try:
            customer = unseal(self.secret, "privacy session", text, now=self.clock()).get("c")
        except SealBroken:
            raise Refused(403, "session") from None
        if not isinstance(customer, str) or not customer:
            raise Refused(403, "session")
        return customer

    def end(self, response: web.StreamResponse) -> None:
        self._set(response, "privacy", "", 0)

    def _name(self, use: str) -> str:
        return f"sidecar-{use}" if self.insecure else f"__Host-sidecar-{use}"

    def _set(self, response: web.StreamResponse, use: str, value: str, age: int | None) -> None:
        response.set_cookie(
            self._name(use), value, max_age=age, path="/", httponly=True,
            secure=not self.insecure, samesite="Lax",
        )  # fmt: skip


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
