"""What crosses from one side to the other: upstream request heads, client response heads. Pure.

Towards the upstream a head is built anew from what was decided: canonical path, canonical
authority, the caller's end-to-end headers, and what only we may say (DESIGN section 7). A header
that an upstream might take for one of ours is removed in every spelling (`names`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from sidecar.decide.challenge import Answer
from sidecar.decide.outcomes import Identity, Permit
from sidecar.decide.request import Headers, Request
from sidecar.edge.decision import CORS, NO_EDITS, Edits
from sidecar.edge.http1 import (
    CHUNKED,
    CLOSE,
    LENGTH,
    Framing,
    RequestBlock,
    RequestHead,
)
from sidecar.edge.names import (
    RequestNames,
    ResponseNames,
    late_response_lines,
    named_away,
    without_cookies,
)
from sidecar.edge.response_head import ResponseHead
from sidecar.edge.websocket import Handshake
from sidecar.errors import BadResponse

_RESPONSE_NAMES: Final = ResponseNames()
LONGEST_KEPT: Final = 512  # characters of an authority and a chain, or of a subject
SCOPES_KEPT: Final = 64
_NONE: Final[frozenset[bytes]] = frozenset()


# --- towards the upstream ------------------------------------------------------------------------

_UNSAFE: Final = re.compile(r"[^!-$&-~]")
_SAFE: Final = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def encoded(text: str) -> bytes:
    """A header value: UTF-8, percent-encoded outside visible ASCII, and `%` itself."""
    if not _UNSAFE.search(text):
        return text.encode("ascii")
    return quote(text, safe=_SAFE, errors="surrogatepass").encode("ascii")


def _identity_lines(identity: Identity) -> bytes:
    """The identity's header lines, each with its end."""
    lines = [
        b"x-sidecar-subject: " + encoded(identity.subject),
        b"x-sidecar-issuer: " + encoded(identity.issuer),
    ]
    if identity.scopes:
        scopes = b" ".join(encoded(scope) for scope in sorted(identity.scopes))
        lines.append(b"x-sidecar-scopes: " + scopes)
    return b"\r\n".join(lines) + b"\r\n"


_known_identity: Final = lru_cache(maxsize=8192)(_identity_lines)


def identity_lines(identity: Identity) -> bytes:
    """The same, remembered up to a length: the memory is bounded in bytes as well."""
    if len(identity.subject) > LONGEST_KEPT or len(identity.scopes) > SCOPES_KEPT:
        return _identity_lines(identity)
    return _known_identity(identity)


def _origin_lines(authority: str, chain: str, scheme: str) -> bytes:
    """Who asked for what, of whom: the lines that replace what the caller said of it."""
    lines = f"x-forwarded-for: {chain}\r\nx-forwarded-proto: {scheme}\r\n"
    if authority:
        lines += f"x-forwarded-host: {authority}\r\n"
    return lines.encode("ascii")


_known_origin: Final = lru_cache(maxsize=4096)(_origin_lines)


def origin_lines(authority: str, chain: str, scheme: str) -> bytes:
    """The same, remembered up to a length: callers choose the authority."""
    if len(authority) + len(chain) > LONGEST_KEPT:
        return _origin_lines(authority, chain, scheme)
    return _known_origin(authority, chain, scheme)


def remembered() -> dict[str, int]:
    """Entries by table of what came before; every one of them is bounded."""
    return {
        "identities": _known_identity.cache_info().currsize,
        "origins": _known_origin.cache_info().currsize,
    }


def _kept_lines(block: RequestBlock, names: RequestNames) -> bytes:
    """The caller's lines that go upstream, framing said anew; remembered with a shared block."""
    if block.kept_for is not names:
        lines = [
            prefix + value + b"\r\n"
            for name, value in _left(block.headers, names)
            if (prefix := names[name])
        ]
        if block.framing is LENGTH:
            lines.append(b"content-length: %d\r\n" % block.length)
        elif block.framing is CHUNKED:
            lines.append(b"transfer-encoding: chunked\r\n")
        kept = b"".join(lines)
        if not block.shared:
            return kept
        block.kept = kept
        block.kept_for = names
    return block.kept


def _left(headers: Headers, names: RequestNames) -> Headers:
    """The caller's headers, less the cookies that stay here."""
    cookies = names.cookies
    if not cookies:
        return headers
    cut = [
        (name, without_cookies(value, cookies) if name == b"cookie" else value)
        for name, value in headers
    ]
    return [field for field in cut if field[1] or field[0] != b"cookie"]


def request_head(
    head: RequestHead,
    request: Request,
    permit: Permit,
    names: RequestNames,
    *,
    decision_id: str,
    traceparent: bytes,
    default_host: str,
    assertion: bytes = b"",
) -> bytes:
    """The head that goes upstream, blank line included.

    `request` is what was decided about `head`. `assertion` is a whole line, or nothing.
    `default_host` is said where an HTTP/1.0 caller named none, since HTTP/1.1 has to say one.
    """
    known: _Sent | None = head.wire
    if (
        known is not None
        and known.permit is permit
        and known.request is request
        and known.names is names
    ):
        lines = known.lines
    else:
        lines = _settled_lines(head, request, permit, names, default_host)
        head.wire = _Sent(request, permit, names, lines)
    return b"%b%bx-sidecar-decision: %b\r\ntraceparent: %b\r\n\r\n" % (
        lines,
        assertion,
        decision_id.encode("ascii"),
        traceparent,
    )


_MAX_FORWARDS: Final = re.compile(rb"(?m)^max-forwards: [0-9]{1,9}\r\n")
_UPGRADE_LINES: Final = b"connection: upgrade\r\nupgrade: websocket\r\n"


class _Sent:
    """All that is the same each time one request is permitted in the same way."""

    __slots__ = ("lines", "names", "permit", "request")

    def __init__(self, request: Request, permit: Permit, names: RequestNames, lines: bytes) -> None:
        self.request = request
        self.permit = permit
        self.names = names
        self.lines = lines


def _one_hop_less(lines: bytes, hops: int) -> bytes:
    return _MAX_FORWARDS.sub(b"max-forwards: %d\r\n" % (hops - 1), lines)


def _settled_lines(
    head: RequestHead, request: Request, permit: Permit, names: RequestNames, default_host: str
) -> bytes:
    query = request.query
    target = request.path if query is None else f"{request.path}?{query.decode('ascii')}"
    host = request.authority or default_host
    identity, obligations = permit.identity, permit.obligations
    kept = _kept_lines(head.block, names)
    if request.method == "OPTIONS" and (hops := head.block.hops()):
        kept = _one_hop_less(kept, hops)
    set_lines = b""
    if obligations.set_headers:
        set_lines = b"".join(
            name.lower().encode("ascii") + b": " + encoded(value) + b"\r\n"
            for name, value in obligations.set_headers
        )
    if obligations.redact:
        set_lines += b"accept-encoding: identity\r\n"
    return b"".join(
        (
            f"{request.method} {target} HTTP/1.1\r\nhost: {host}\r\n".encode("ascii"),
            kept,
            _UPGRADE_LINES if head.handshake is not None else b"",
            origin_lines(request.authority, request.chain or request.address, request.scheme),
            identity_lines(identity) if identity is not None else b"",
            b"x-sidecar-customer-id: %b\r\n" % encoded(permit.customer) if permit.customer else b"",
            set_lines,
        )
    )


# --- towards the client --------------------------------------------------------------------------


def client_framing(head: ResponseHead, version: int) -> Framing:
    """How the body goes to a client of this minor version, which need not be how it came.

    An end of the stream proves nothing to a client, a last chunk does; 1.0 knows no chunks.
    """
    if head.framing is CHUNKED or head.framing is CLOSE:
        return CHUNKED if version == 1 else CLOSE
    return head.framing


def response_head(
    head: ResponseHead,
    *,
    version: int,
    keep_alive: bool,
    edits: Edits = NO_EDITS,
    date: bytes = b"",
) -> bytes:
    """The head that goes to a client of this minor version, blank line included.

    `edits` is what we say beside, or in place of, what the upstream says. `date` is a whole line
    for a response that came without one (RFC 9110 section 6.6.1).
    """
    if edits is not NO_EDITS or not head.dated:
        lines = _response_lines(head, version, edits.left_out)
        if not head.dated:
            lines += date
        return lines + edits.lines + _persistence(version, keep_alive)
    if version != 1 or not keep_alive:
        return _response_lines(head, version) + _persistence(version, keep_alive)
    if not head.wire:
        head.wire = _response_lines(head, 1) + _persistence(1, True)
    return head.wire


def _response_lines(head: ResponseHead, version: int, left_out: frozenset[bytes] = _NONE) -> bytes:
    names = _RESPONSE_NAMES
    away = named_away(head.options) | left_out
    lines = [b"HTTP/1.1 " + head.line]
    lines += [
        prefix + value
        for name, value in head.headers
        if (prefix := names[name]) and name not in away
    ]
    if head.length >= 0:
        lines.append(b"content-length: %d" % head.length)
    elif client_framing(head, version) is CHUNKED:
        lines.append(b"transfer-encoding: chunked")
    lines.append(b"")
    return b"\r\n".join(lines)


# The last lines of a head: RFC 9112 section 9.3 makes 1.1 persist unless it says close, and 1.0
# end unless it says keep-alive.
def _persistence(version: int, keep_alive: bool) -> bytes:
    if not keep_alive:
        return b"connection: close\r\n\r\n"
    return b"\r\n" if version == 1 else b"connection: keep-alive\r\n\r\n"


def response_trailers(trailers: Headers, left_out: frozenset[bytes] = _NONE) -> bytes:
    """The lines that may follow a response's body, without the blank one."""
    return late_response_lines(trailers, _RESPONSE_NAMES, left_out)


def interim_head(head: ResponseHead, left_out: frozenset[bytes] = _NONE) -> bytes:
    """A 1xx response on its way to an HTTP/1.1 client."""
    names = _RESPONSE_NAMES
    away = named_away(head.options) | CORS | left_out
    lines = [b"HTTP/1.1 " + head.line]
    lines += [
        prefix + value
        for name, value in head.headers
        if (prefix := names[name]) and name not in away
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def switching_head(head: ResponseHead, handshake: Handshake, edits: Edits = NO_EDITS) -> bytes:
    """A 101 on its way to the client that asked for it. Raises BadResponse for an incorrect one."""
    away = named_away(head.options) - {b"upgrade"}
    headers = [field for field in head.headers if field[0] not in away]
    if head.version != 1:
        raise BadResponse("101 in HTTP/1.0")
    handshake.check(headers, head.options)
    names = _RESPONSE_NAMES
    lines = [
        prefix + value + b"\r\n"
        for name, value in headers
        if (prefix := names[name])
        and (name not in edits.left_out or name.startswith(b"sec-websocket-"))
    ]
    lines.append(edits.lines)
    return b"".join((b"HTTP/1.1 ", head.line, b"\r\n", *lines, _UPGRADE_LINES, b"\r\n"))


def answer(
    answer: Answer, *, version: int, keep_alive: bool, body: bool = True, date: bytes = b""
) -> bytes:
    """An answer of our own as bytes. `body` False: to HEAD, which gets the head alone. `date` is a
    whole line."""
    lines = [_status_line(answer.status)]
    lines += [name + b": " + value for name, value in answer.headers if value]
    if answer.status != 204:  # RFC 9110 section 8.6
        lines.append(b"content-length: %d" % len(answer.body))
    lines.append(date + _persistence(version, keep_alive))
    return b"\r\n".join(lines) + (answer.body if body else b"")


def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode("ascii")


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
