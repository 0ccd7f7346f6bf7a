"""Request heads as bytes: strict, no sockets. Field lines are in `fields`, bodies in `bodies`,
responses in `response_head`.

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
from typing import Any, Final

from sidecar.decide.request import (
    MAX_TARGET,
    Headers,
    Request,
    canonical_authority,
    canonical_target,
    known_path,
)
from sidecar.decide.workloads import Certificate
from sidecar.edge.fields import (
    BAD_BYTE,
    NAMES,
    TCHAR,
    TEXT,
    Framed,
    Memo,
    TooMany,
    parse_lines,
    sound,
)
from sidecar.edge.names import decided_on
from sidecar.edge.websocket import Handshake, handshake
from sidecar.errors import BadMessage, BadRequest

MAX_HEAD: Final = 64 * 1024  # bytes, the blank line included
MAX_HEADERS: Final = 100
MAX_METHOD: Final = 32
MAX_REQUEST_LINE: Final = MAX_TARGET + MAX_METHOD + len(" HTTP/1.1 ")


_HOPS: Final = re.compile(rb"[0-9]{1,9}")


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


class RequestBlock:
    """What a request's field lines say under its version. Shared: nobody changes it.

    `length` counts for Framing.LENGTH only. `options` are the lower-case members of Connection.
    `forwarded` is what its `x-forwarded-…` lines claim, `certificates` what those about a client
    certificate do; both hidden from everybody else.
    `handshake` is there when, said with GET, they ask for a WebSocket. Such a request is the last
    of its connection: what comes behind it are frames, which must never be read as a request.
    `kept` belongs to `forward`, which remembers there what of it goes upstream under `kept_for`,
    if it is `shared`: remembered for heads to come.
    """

    __slots__ = (
        "authority", "certificates", "expect_continue", "forwarded", "framing", "handshake",
        "headers", "host", "keep_alive", "kept", "kept_for", "length", "options", "shared",
    )  # fmt: skip

    def __init__(self, headers: Headers, framed: Framed, version: int) -> None:
        """Raises BadRequest."""
        self.headers = decided_on(headers, framed.options)
        self.options = framed.options
        self.forwarded = framed.forwarded
        self.certificates = framed.certificates
        self.keep_alive = framed.persists(version)
        self.kept = b""
        self.kept_for: object = None
        self.shared = False
        self.length = 0
        if framed.coding is not None:
            if version == 0:
                raise BadRequest("transfer-encoding in HTTP/1.0")
            self.framing = CHUNKED
        elif framed.length >= 0:
            self.framing = LENGTH
            self.length = framed.length
        else:
            self.framing = NONE
        self.expect_continue = False
        if (
            framed.expect is not None and version == 1
        ):  # RFC 9110 section 10.1.1: 1.0 cannot mean it
            if framed.expect.lower() != b"100-continue":
                raise BadRequest("unknown expectation", 417)
            self.expect_continue = self.framing is not NONE
        self.handshake: Handshake | None = None
        if framed.upgrades and version == 1 and self.framing is NONE:
            self.handshake = handshake(self.headers, framed.options)
            self.keep_alive = self.keep_alive and self.handshake is None
        if framed.host is not None:
            self.authority, self.host = _authority(framed.host)
        elif version == 1:
            raise BadRequest("no Host")
        else:
            self.authority = self.host = ""

    def hops(self) -> int | None:
        """How many proxies may still forward an OPTIONS request (RFC 9110 section 7.6.2)."""
        said = [value for name, value in self.headers if name == b"max-forwards"]
        return int(said[0]) if len(said) == 1 and _HOPS.fullmatch(said[0]) else None

    def wants_trailers(self) -> bool:
        """Whether the client says that it keeps trailers apart (RFC 9110 section 10.1.4)."""
        return any(
            b"trailers" in [member.strip(b" \t") for member in value.lower().split(b",")]
            for name, value in self.headers
            if name == b"te"
        )


class RequestHead:
    """One request's head. `version` is the minor version, 0 or 1; `block` is all but its line.

    `wire` belongs to `forward`, which remembers there what the upstream was sent of it.
    """

    __slots__ = (
        "_request", "block", "handshake", "method", "path", "query", "segments", "version", "wire",
    )  # fmt: skip

    def __init__(self, method: str, version: int, block: RequestBlock, target: bytes) -> None:
        """Raises BadRequest."""
        self._request: Request | None = None
        self.wire: Any = None
        self.method = method
        self.version = version
        self.block = block
        self.handshake = block.handshake if method == "GET" else None
        if target[:1] != b"/":
            if target == b"*":
                if method != "OPTIONS":
                    raise BadRequest("* as the target of another method than OPTIONS")
            else:
                target = _absolute_form(target, block.authority)
                if not target and method == "OPTIONS":
                    target = b"*"  # RFC 9112 section 3.2.4
                elif target[:1] != b"/":
                    target = b"/" + target
            if target == b"*":
                self.path: str = "*"
                self.segments: list[str] = []
                self.query: bytes | None = None
                return
        self.path, self.segments, self.query = canonical_target(target)

    def request(
        self,
        scheme: str,
        address: str,
        chain: str = "",
        certificate: Certificate | None = None,
    ) -> Request:
        """The same as the decision sees it; the same object for the same client.

        `chain` is the x-forwarded-for to send where it is more than the client's address. Callers
        with different certificates are different clients, whatever else they have in common.
        """
        known = self._request
        if (
            known is None
            or known.address != address
            or known.scheme != scheme
            or known.chain != chain
            or known.certificate is not certificate
        ):
            block = self.block
            self._request = known = Request(
                self.method, self.path, self.segments, self.query, block.authority, block.host,
                scheme, block.headers, address, chain, certificate,
            )  # fmt: skip
        return known


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
    # Bounds as arguments cost `find` more than the search: most heads come whole, and short.
    end = data.find(b"\r\n\r\n") if scanned < 4 else data.find(b"\r\n\r\n", scanned - 3)
    if 0 <= end <= limit - 4:
        return end + 4
    if not sound(data, scanned, limit):
        raise BadRequest(BAD_BYTE)
    if len(data) >= limit:
        if data.find(b"\r\n", 0, MAX_REQUEST_LINE + 2) < 0:
            raise BadRequest("request line too long", 414)
        raise BadRequest("head too large", 431)
    return -1


# --- reading it ---------------------------------------------------------------------------------

# Small where entries soon go stale or are of little use: a table that fills for hours looks like a
# leak to whoever watches the memory.
_request_heads: Final[Memo[RequestHead]] = Memo(4096, 4 * 1024 * 1024)
_request_blocks: Final[Memo[RequestBlock]] = Memo(512)  # of HTTP/1.1


def parse_request_head(head: bytes, max_headers: int = MAX_HEADERS) -> RequestHead:
    """Read a head up to and with its blank line. Raises BadRequest.

    Who asks for the same again is given the same object: nobody changes what it says.
    """
    known = _request_heads.get(head)
    if known is None or len(known.block.headers) > max_headers:
        # Kept as a whole from now on, its block need not be kept once more.
        known = _request_head(head, max_headers, keep_block=not _request_heads.awaits(head))
        _request_heads.offer(head, known)
    return known


def _request_head(head: bytes, max_headers: int, *, keep_block: bool) -> RequestHead:
    cut = head.find(b"\r\n")
    line = head[:cut]
    raw = head[cut + 2 : -2]
    if line.translate(None, TEXT):
        raise BadRequest(BAD_BYTE)
    start = line.split(b" ")
    if len(start) == 3 and start[2] == b"HTTP/1.1":
        block = _request_blocks.get(raw)
        if block is None or len(block.headers) > max_headers:
            block = _request_block(raw, 1, max_headers)
            if keep_block:
                block.shared = _request_blocks.offer(raw, block)
        method = _METHODS.get(start[0]) or _method(start[0])
        return RequestHead(method, 1, block, start[1])
    if not sound(head, 0, len(head)):  # first, as where the head comes in pieces
        raise BadRequest(BAD_BYTE)
    if len(start) != 3:
        raise BadRequest("request line is not method, target, version")
    _require_1_0(start[2])
    block = _request_block(raw, 0, max_headers)
    return RequestHead(_METHODS.get(start[0]) or _method(start[0]), 0, block, start[1])


def _request_block(raw: bytes, version: int, most: int) -> RequestBlock:
    try:
        headers, special = parse_lines(raw, most)
        return RequestBlock(headers, Framed(special), version)
    except BadRequest:
        raise
    except TooMany as too_many:
        raise BadRequest(too_many.reason, 431) from None
    except BadMessage as error:
        raise BadRequest(error.reason) from None


_ANY_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")


def _require_1_0(raw: bytes) -> None:
    if raw == b"HTTP/1.0":
        return
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
    if not raw or raw.translate(None, TCHAR):
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
    """Path and query of an absolute target that names the same authority as Host."""
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        raise BadRequest("target is neither a path nor an http URI")
    cut = len(rest)
    for stop in b"/?#":
        at = rest.find(stop, 0, cut)
        if at >= 0:
            cut = at
    default = ":80" if len(scheme) == 4 else ":443"  # RFC 9110 section 4.2.3: as good as none
    if _authority(rest[:cut])[0].removesuffix(default) != authority.removesuffix(default):
        raise BadRequest("absolute form names another authority than Host")
    return rest[cut:]


@lru_cache(maxsize=1024)
def _cached_authority(raw: bytes) -> tuple[str, str]:
    return canonical_authority(raw)


def _authority(raw: bytes) -> tuple[str, str]:
    # Bounded in entries and in bytes; DNS names end at 253.
    return _cached_authority(raw) if len(raw) <= 262 else canonical_authority(raw)


def remembered() -> dict[str, int]:
    """Entries by table of what came before; every one of them is bounded."""
    return {
        "request_heads": len(_request_heads),
        "request_blocks": len(_request_blocks),
        "header_names": len(NAMES),
        "authorities": _cached_authority.cache_info().currsize,
        "paths": known_path.cache_info().currsize,
    }
