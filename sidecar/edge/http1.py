"""HTTP/1.1 heads as bytes: strict, no sockets. Bodies are in `bodies`.

The rule of this file: bytes that two parsers could read differently are no message (DESIGN
section 8, rule 2). A head is refused, never mended, with one exception that RFC 9112 section 2.2
asks for: a single empty line before a request line is skipped (`skip_empty_line`).

A head may come in any pieces: `request_head_end` says where it ends, or that more is needed, and
refuses at once what no further byte could put right. What it says depends only on the bytes.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Final

from sidecar.decide.request import (
    MAX_TARGET,
    Headers,
    Request,
    canonical_authority,
    canonical_target,
)
from sidecar.errors import BadMessage, BadRequest, BadResponse

MAX_HEAD: Final = 64 * 1024  # bytes, the blank line included
MAX_HEADERS: Final = 100
MAX_METHOD: Final = 32
MAX_LENGTH_DIGITS: Final = 18  # keeps content-length below 2**63
MAX_REQUEST_LINE: Final = MAX_TARGET + MAX_METHOD + len(" HTTP/1.1 ")

_NAMES_KEPT: Final = 2048  # names that callers made up; well-known ones come on top
_LONGEST_NAME_KEPT: Final = 64

# Everything a head may hold but for CR and LF, which only ever come as the pairs that end lines.
_TEXT: Final = bytes(c for c in range(256) if c == 9 or (c >= 32 and c != 127))
_TCHAR: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Framing(Enum):
    """How the end of a body is found."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


NONE: Final = Framing.NONE
LENGTH: Final = Framing.LENGTH
CHUNKED: Final = Framing.CHUNKED
CLOSE: Final = Framing.CLOSE

NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


class RequestHead:
    """One request's head. `version` is the minor version, 0 or 1.

    `length` counts for Framing.LENGTH only. `options` are the lower-case members of Connection.
    """

    __slots__ = (
        "authority", "expect_continue", "framing", "headers", "host", "keep_alive", "length",
        "method", "options", "path", "query", "segments", "version",
    )  # fmt: skip

    method: str
    path: str
    segments: list[str]
    query: bytes | None
    authority: str
    host: str
    version: int
    headers: Headers
    framing: Framing
    length: int
    keep_alive: bool
    expect_continue: bool
    options: frozenset[bytes]

    def request(self, scheme: str, address: str) -> Request:
        """The same as the decision sees it."""
        return Request(
            self.method, self.path, self.segments, self.query, self.authority, self.host,
            scheme, self.headers, address,
        )  # fmt: skip


class ResponseHead:
    """One response's head. `length` is the content-length, or -1 without one.

    With Framing.NONE (HEAD, 204, 304) it only describes. `line` is status and reason as they came.
    """

    __slots__ = (
        "framing", "headers", "keep_alive", "length", "line", "options", "status", "version",
    )  # fmt: skip

    status: int
    line: bytes
    version: int
    headers: Headers
    framing: Framing
    length: int
    keep_alive: bool
    options: frozenset[bytes]


# --- where a head ends -------------------------------------------------------------------------


def skip_empty_line(data: bytes) -> bytes | None:
    """`data` without one leading CRLF; None while that cannot be told yet."""
    if data[:1] != b"\r":
        return data
    if len(data) == 1:
        return None
    return data[2:] if data[1:2] == b"\n" else data


def request_head_end(data: bytes, scanned: int = 0, limit: int = MAX_HEAD) -> int:
    """The index just past the blank line, or -1 while it has not come.

    `scanned` bytes were looked at before. Raises BadRequest as soon as the head is beyond repair.
    """
    end = data.find(b"\r\n\r\n", scanned - 3 if scanned > 3 else 0, limit)
    if end >= 0:
        return end + 4
    if not _sound(data, scanned, limit):
        raise BadRequest("bare CR, bare LF or control byte")
    if len(data) >= limit:
        if data.find(b"\r\n", 0, MAX_REQUEST_LINE + 2) < 0:
            raise BadRequest("request line too long", 414)
        raise BadRequest("head too large", 431)
    return -1


def response_head_end(data: bytes, scanned: int = 0, limit: int = MAX_HEAD) -> int:
    """As `request_head_end`; raises BadResponse."""
    end = data.find(b"\r\n\r\n", scanned - 3 if scanned > 3 else 0, limit)
    if end >= 0:
        return end + 4
    if not _sound(data, scanned, limit):
        raise BadResponse("bare CR, bare LF or control byte")
    if len(data) >= limit:
        raise BadResponse("head too large")
    return -1


def _sound(data: bytes, scanned: int, limit: int) -> bool:
    """Whether the new part of an unfinished head holds only text and whole line ends."""
    start = scanned - 1 if scanned and data[scanned - 1] == 13 else scanned
    part = data[start:limit]
    strange = len(part.translate(None, _TEXT))
    pending = 1 if part.endswith(b"\r") else 0
    return strange == 2 * part.count(b"\r\n") + pending


# --- requests ----------------------------------------------------------------------------------


def parse_request_head(head: bytes, max_headers: int = MAX_HEADERS) -> RequestHead:
    """Read `head`: the bytes up to the blank line, with or without it. Raises BadRequest."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    _whole_lines(head, len(lines), BadRequest)
    if len(lines) > max_headers + 1:
        raise BadRequest("too many headers", 431)
    try:
        fields, special = _fields(lines)
    except BadMessage as error:
        raise BadRequest(error.reason) from None
    start = lines[0].split(b" ")
    if len(start) != 3:
        raise BadRequest("request line is not method, target, version")
    known = RequestHead()
    known.version = _version(start[2])
    known.method = method = _METHODS.get(start[0]) or _method(start[0])
    known.headers = fields
    if special:
        host = _request_special(known, special)
    else:
        host = None
        _set_framing(known, None, None)
        known.options = NO_OPTIONS
        known.keep_alive = known.version == 1
        known.expect_continue = False
    if host is not None:
        known.authority, known.host = _authority(host)
    elif known.version == 1:
        raise BadRequest("no Host")
    else:
        known.authority = known.host = ""
    target = start[1]
    if target[:1] != b"/":
        if target == b"*":
            if method != "OPTIONS":
                raise BadRequest("* as the target of another method than OPTIONS")
            known.path, known.segments, known.query = "*", [], None
            return known
        target = _absolute_form(target, known.authority)
    known.path, known.segments, known.query = canonical_target(target)
    return known


def _request_special(known: RequestHead, special: list[tuple[int, bytes]]) -> bytes | None:
    """Settle framing, connection and expectation; return the Host value."""
    host: bytes | None = None
    length: bytes | None = None
    coding: bytes | None = None
    expect: bytes | None = None
    options = NO_OPTIONS
    for kind, value in special:
        if kind == _HOST:
            if host is not None:
                raise BadRequest("more than one Host")
            host = value
        elif kind == _CONNECTION:
            options = options | connection_options(value) if options else connection_options(value)
        elif kind == _LENGTH:
            if length is not None:
                raise BadRequest("more than one content-length")
            length = value
        elif kind == _CODING:
            if coding is not None:
                raise BadRequest("more than one transfer-encoding")
            coding = value
        elif kind == _EXPECT:
            if expect is not None:
                raise BadRequest("more than one expect")
            expect = value
    _set_framing(known, length, coding)
    known.options = options
    if known.version == 1:
        known.keep_alive = b"close" not in options
    else:
        known.keep_alive = b"keep-alive" in options and b"close" not in options
    known.expect_continue = False
    if expect is not None and known.version == 1:  # RFC 9110 section 10.1.1: 1.0 cannot mean it
        if expect.lower() != b"100-continue":
            raise BadRequest("unknown expectation", 417)
        known.expect_continue = known.framing is not NONE
    return host


def _set_framing(known: RequestHead, length: bytes | None, coding: bytes | None) -> None:
    """RFC 9112 section 6.3, with everything it lets a server refuse refused."""
    known.length = 0
    if coding is not None:
        if length is not None:
            raise BadRequest("content-length with transfer-encoding")
        if known.version == 0:
            raise BadRequest("transfer-encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise BadRequest("transfer-encoding other than a single chunked")
        known.framing = CHUNKED
    elif length is not None:
        known.length = content_length(length)
        if known.length < 0:
            raise BadRequest("bad content-length")
        known.framing = LENGTH
    else:
        known.framing = NONE


def content_length(value: bytes) -> int:
    """The number of bytes, or -1 when `value` is not 1 to 18 digits (RFC 9110 section 8.6)."""
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        return -1
    return int(value)


_ANY_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")


def _version(raw: bytes) -> int:
    if raw == b"HTTP/1.1":
        return 1
    if raw == b"HTTP/1.0":
        return 0
    if _ANY_VERSION.fullmatch(raw):
        raise BadRequest("HTTP version other than 1.0 and 1.1", 505)
    raise BadRequest("bad HTTP version")


# The methods registered with IANA, less CONNECT, TRACE and PRI.
_METHODS: Final[dict[bytes, str]] = {
    name.encode(): name
    for name in (
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY", "ACL",
        "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE",
        "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH",
        "PROPFIND", "PROPPATCH", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK",
        "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
    )
}  # fmt: skip
_NEVER: Final = frozenset((b"CONNECT", b"TRACE", b"TRACK", b"PRI"))


def _method(raw: bytes) -> str:
    """A method that is not among the well-known ones."""
    if not raw or raw.translate(None, _TCHAR):
        raise BadRequest("method is not a token")
    if len(raw) > MAX_METHOD:
        raise BadRequest("method too long", 501)
    upper = raw.upper()
    if upper in _NEVER:
        raise BadRequest("method that a gateway never forwards", 501)
    if upper in _METHODS:
        # `delete` is not DELETE to a rule, but it is to an upstream that folds case.
        raise BadRequest("well-known method in another spelling")
    return raw.decode("ascii")


def _absolute_form(target: bytes, authority: str) -> bytes:
    """The origin form of an absolute target that names the same authority as Host."""
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        raise BadRequest("target is neither a path nor an http URI")
    cut = len(rest)
    for stop in b"/?#":
        at = rest.find(stop, 0, cut)
        if at >= 0:
            cut = at
    if _authority(rest[:cut])[0] != authority:
        raise BadRequest("absolute form names another authority than Host")
    tail = rest[cut:]
    return tail if tail[:1] == b"/" else b"/" + tail


@lru_cache(maxsize=1024)
def _cached_authority(raw: bytes) -> tuple[str, str]:
    return canonical_authority(raw)


def _authority(raw: bytes) -> tuple[str, str]:
    # Bounded in entries and in bytes; DNS names end at 253.
    return _cached_authority(raw) if len(raw) <= 262 else canonical_authority(raw)


# --- responses ---------------------------------------------------------------------------------


def parse_response_head(
    head: bytes, method: str, max_headers: int = 2 * MAX_HEADERS
) -> ResponseHead:
    """Read the head that answers `method`: up to the blank line, with or without it.

    Raises BadResponse for what the client could read differently than we do.
    """
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    _whole_lines(head, len(lines), BadResponse)
    if len(lines) > max_headers + 1:
        raise BadResponse("too many headers")
    try:
        fields, special = _fields(lines)
    except BadMessage as error:
        raise BadResponse(error.reason) from None
    line = lines[0]
    known = ResponseHead()
    start = line[:9]
    if start == b"HTTP/1.1 ":
        known.version = 1
    elif start == b"HTTP/1.0 ":
        known.version = 0
    else:
        raise BadResponse("bad status line")
    code = line[9:12]
    # RFC 9112 section 4: a space must follow; many leave it out with the reason, unmistakably.
    if len(code) != 3 or not code.isdigit() or code < b"100" or line[12:13] not in (b" ", b""):
        raise BadResponse("bad status line")
    known.status = int(code)
    known.line = line[9:] if len(line) > 12 else code + b" "
    known.headers = fields
    _response_special(known, special, method)
    return known


def _response_special(known: ResponseHead, special: list[tuple[int, bytes]], method: str) -> None:
    length: bytes | None = None
    coding: bytes | None = None
    options = NO_OPTIONS
    for kind, value in special:
        if kind == _CONNECTION:
            options = options | connection_options(value) if options else connection_options(value)
        elif kind == _LENGTH:
            if length is not None:
                raise BadResponse("more than one content-length")
            length = value
        elif kind == _CODING:
            if coding is not None:
                raise BadResponse("more than one transfer-encoding")
            coding = value
    known.options = options
    if known.version == 1:
        known.keep_alive = b"close" not in options
    else:
        known.keep_alive = b"keep-alive" in options and b"close" not in options
    known.length = -1
    if length is not None:
        if coding is not None:
            raise BadResponse("content-length with transfer-encoding")
        known.length = content_length(length)
        if known.length < 0:
            raise BadResponse("bad content-length")
    elif coding is not None:
        if known.version == 0:
            raise BadResponse("transfer-encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise BadResponse("transfer-encoding other than a single chunked")
    known.framing = _response_framing(known, coding is not None, method)


def _response_framing(known: ResponseHead, chunked: bool, method: str) -> Framing:
    """RFC 9112 section 6.3."""
    status = known.status
    if status < 200 or status == 204:
        # Neither may say how long a body it has: some parsers would go by the words.
        if chunked or known.length > 0:
            raise BadResponse("1xx or 204 that announces a body")
        known.length = -1
        return NONE
    if status == 304 or method == "HEAD":
        return NONE
    if chunked:
        return CHUNKED
    if known.length >= 0:
        return LENGTH
    known.keep_alive = False
    return CLOSE


# --- fields ------------------------------------------------------------------------------------

_PLAIN: Final = 0
_HOST: Final = 1
_LENGTH: Final = 2
_CODING: Final = 3
_CONNECTION: Final = 4
_EXPECT: Final = 5
_SPECIAL: Final = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"expect": _EXPECT,
}
_USUAL: Final = (
    "Host Connection Content-Length Transfer-Encoding Expect Accept Accept-Encoding "
    "Accept-Language Authorization Cache-Control Content-Type Content-Encoding Cookie Date ETag "
    "If-Match If-Modified-Since If-None-Match Last-Modified Location Origin Pragma Range Referer "
    "Server Set-Cookie Traceparent Tracestate User-Agent Vary X-Forwarded-For X-Forwarded-Host "
    "X-Forwarded-Proto X-Request-Id Accept-Ranges Keep-Alive"
)


class _Names(dict[bytes, tuple[bytes, int]]):
    """A field name as it came -> (lower case, what it means to framing). Checked once, bounded."""

    def __missing__(self, raw: bytes) -> tuple[bytes, int]:
        known = self._learn(raw)
        if len(raw) <= _LONGEST_NAME_KEPT:
            if len(self) >= _NAMES_KEPT:
                self.clear()
                self.start()
            self[raw] = known
        return known

    @staticmethod
    def _learn(raw: bytes) -> tuple[bytes, int]:
        if raw[:1] in (b" ", b"\t"):
            raise BadMessage("folded header line")
        if not raw or raw.translate(None, _TCHAR):
            raise BadMessage("header name is not a token")
        lower = raw.lower()
        return lower, _SPECIAL.get(lower, _PLAIN)

    def start(self) -> None:
        """Know the usual names in their usual spellings."""
        for name in _USUAL.encode().split():
            self[name] = self[name.lower()] = self._learn(name)


_NAMES: Final = _Names()
_NAMES.start()


def _fields(lines: list[bytes]) -> tuple[Headers, list[tuple[int, bytes]]]:
    """The header lines after the first one, and those among them that framing depends on."""
    fields: Headers = []
    special: list[tuple[int, bytes]] = []
    names = _NAMES
    for line in lines[1:]:
        raw, colon, value = line.partition(b":")
        name, kind = names[raw]
        if not colon:
            raise BadMessage("header line without colon")
        value = value.strip(b" \t")
        fields.append((name, value))
        if kind:
            special.append((kind, value))
    return fields, special


def parse_trailer(line: bytes) -> tuple[bytes, bytes]:
    """One trailer line as a field; raises BadMessage."""
    if line.translate(None, _TEXT):
        raise BadMessage("bare CR, bare LF or control byte")
    return _fields([b"", line])[0][0]


def _whole_lines(head: bytes, lines: int, error: type[BadMessage]) -> None:
    """One pass finds control bytes, bare CR and bare LF together.

    What is left without text is CRs, LFs and control bytes; the lines' own ends explain two bytes
    each, and whatever goes beyond is none of them.
    """
    ends = 2 * (lines - 1) + (4 if head.endswith(b"\r\n\r\n") else 0)
    if len(head.translate(None, _TEXT)) != ends:
        raise error("bare CR, bare LF or control byte")


_OPTIONS: Final = {
    b"keep-alive": frozenset((b"keep-alive",)),
    b"Keep-Alive": frozenset((b"keep-alive",)),
    b"close": frozenset((b"close",)),
}


def connection_options(value: bytes) -> frozenset[bytes]:
    """The members of a Connection value, lower case (RFC 9110 section 7.6.1)."""
    known = _OPTIONS.get(value)
    if known is not None:
        return known
    parts = (part.strip(b" \t").lower() for part in value.split(b","))
    return frozenset(part for part in parts if part)
