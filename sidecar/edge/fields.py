"""Header field lines: names, values, and the few that we ourselves go by. Strict, no sockets.

Services send the same header lines again and again, so what was once found sound is remembered:
field names one by one, and whole blocks of lines that came more than once (`Memo`). Equal bytes
have equal meanings, so remembering shows in nothing but time.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeVar

from sidecar.decide.request import Headers
from sidecar.edge.forwarded import Claims
from sidecar.errors import BadMessage

T = TypeVar("T")

NAMES_KEPT: Final = 2048  # names that callers made up; well-known ones come on top
LONGEST_NAME_KEPT: Final = 64
LONGEST_BLOCK_KEPT: Final = 2048
LINE: Final = 100

# Everything a head may hold but for CR and LF, which only ever come as the pairs that end lines.
TEXT: Final = bytes(c for c in range(256) if c == 9 or (c >= 32 and c != 127))
TCHAR: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
BAD_BYTE: Final = "bare CR, bare LF or control byte"

PLAIN: Final = 0
HOST: Final = 1
CONTENT_LENGTH: Final = 2
TRANSFER_ENCODING: Final = 3
CONNECTION: Final = 4
EXPECT: Final = 5
FORWARDED_FOR: Final = 6
FORWARDED_PROTO: Final = 7
UPGRADE: Final = 8
CLIENT_CERT: Final = 9
FORWARDED_CLIENT_CERT: Final = 10
_SPECIAL: Final = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"upgrade": UPGRADE,
    b"client-cert": CLIENT_CERT,
    b"x-forwarded-client-cert": FORWARDED_CLIENT_CERT,
}
CERTIFICATE_HEADERS: Final = {
    "client-cert": CLIENT_CERT,  # RFC 9440
    "x-forwarded-client-cert": FORWARDED_CLIENT_CERT,  # Envoy
}
_USUAL: Final = (
    b"Host Connection Content-Length Transfer-Encoding Expect Accept Accept-Encoding "
    b"Accept-Language Authorization Cache-Control Content-Type Content-Encoding Cookie Date ETag "
    b"If-Match If-Modified-Since If-None-Match Last-Modified Location Origin Pragma Range Referer "
    b"Server Set-Cookie Traceparent Tracestate User-Agent Vary X-Forwarded-For X-Forwarded-Host "
    b"X-Forwarded-Proto X-Request-Id Accept-Ranges Keep-Alive"
)


class Memo(dict[bytes, T]):
    """What byte strings mean that came at least twice of late; at the bound the oldest goes.

    Bounded in entries and in bytes. What comes once only (a block with a request id in it, say)
    costs a hash, not memory. One goes at a time, so that no request pays for freeing many.
    """

    def __init__(self, bound: int, heaviest: int = 1024 * 1024) -> None:
        """At most `bound` entries that weigh `heaviest` at most: the bytes of their keys, and LINE
        for each line, since what it means takes as much again. All takes four times that."""
        super().__init__()
        self.bound = bound
        self.heaviest = heaviest
        self.weight = 0
        self._order: deque[bytes] = deque()
        self._once: set[int] = set()

    def awaits(self, key: bytes) -> bool:
        """Whether `key` came once already, so that the next offer is kept."""
        return hash(key) in self._once

    def offer(self, key: bytes, value: T) -> bool:
        """Remember `value`, the second time round. Whether it is remembered now."""
        if len(key) > LONGEST_BLOCK_KEPT:
            return False
        mark = hash(key)
        if mark in self._once:
            if key not in self:
                self.weight += _weight(key)
                self._order.append(key)
                while len(self._order) > self.bound or self.weight > self.heaviest:
                    oldest = self._order.popleft()
                    self.weight -= _weight(oldest)
                    if oldest == key:
                        return False
                    del self[oldest]
            self[key] = value
            return True
        if len(self._once) >= self.bound:
            self._once.clear()
        self._once.add(mark)
        return False


def _weight(key: bytes) -> int:
    return len(key) + LINE * key.count(b"\n")


class _Names(dict[bytes, tuple[bytes, int]]):
    """A field name as it came -> (lower case, what it means to framing). Checked once, bounded."""

    def __missing__(self, raw: bytes) -> tuple[bytes, int]:
        known = self._learn(raw)
        if len(raw) <= LONGEST_NAME_KEPT:
            if len(self) >= NAMES_KEPT:
                self.clear()
                self.start()
            self[raw] = known
        return known

    @staticmethod
    def _learn(raw: bytes) -> tuple[bytes, int]:
        if raw[:1] in (b" ", b"\t"):
            raise BadMessage("folded header line")
        if not raw or raw.translate(None, TCHAR):
            raise BadMessage("header name is not a token")
        lower = raw.lower()
        return lower, _SPECIAL.get(lower, PLAIN)

    def start(self) -> None:
        """Know the usual names in their usual spellings."""
        for name in _USUAL.split():
            self[name] = self[name.lower()] = self._learn(name)


NAMES: Final = _Names()
NAMES.start()


def parse_lines(block: bytes, most: int) -> tuple[Headers, list[tuple[int, bytes]]]:
    """Field lines, each with its CRLF, as fields; and those of them that we ourselves go by.

    Raises BadMessage; TooMany beyond `most` lines.
    """
    fields: Headers = []
    special: list[tuple[int, bytes]] = []
    lines = block.split(b"\r\n")
    if lines.pop():
        raise BadMessage("header line without end")
    # One pass finds control bytes, bare CR and bare LF together: what is left without text is CRs,
    # LFs and control bytes, and the lines' own ends explain two bytes each.
    if len(block.translate(None, TEXT)) != 2 * len(lines):
        raise BadMessage(BAD_BYTE)
    if len(lines) > most:
        raise TooMany("too many headers")
    names = NAMES
    for line in lines:
        raw, colon, value = line.partition(b":")
        name, kind = names[raw]
        if not colon:
            raise BadMessage("header line without colon")
        value = value.strip(b" \t")
        fields.append((name, value))
        if kind:
            special.append((kind, value))
    return fields, special


def sound(data: bytes, scanned: int, limit: int) -> bool:
    """Whether the new part of an unfinished head holds only text and whole line ends."""
    start = scanned - 1 if scanned and data[scanned - 1] == 13 else scanned
    part = data[start:limit]
    strange = len(part.translate(None, TEXT))
    pending = 1 if part.endswith(b"\r") else 0
    return strange == 2 * part.count(b"\r\n") + pending


class TooMany(BadMessage):
    """More field lines than the limit."""


_OPTIONS: Final = {
    b"keep-alive": frozenset((b"keep-alive",)),
    b"Keep-Alive": frozenset((b"keep-alive",)),
    b"close": frozenset((b"close",)),
}
NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


def connection_options(value: bytes) -> frozenset[bytes]:
    """The members of a Connection value, lower case (RFC 9110 section 7.6.1)."""
    known = _OPTIONS.get(value)
    if known is not None:
        return known
    parts = (part.strip(b" \t").lower() for part in value.split(b","))
    return frozenset(part for part in parts if part)


def content_length(value: bytes) -> int:
    """The number of bytes, or -1 when `value` is not 1 to 18 digits (RFC 9110 section 8.6)."""
    if not value.isdigit() or len(value) > 18:  # 18 keep it below 2**63
        return -1
    return int(value)


class Framed:
    """What the special fields of one head say. `host`, `expect` as they came, None without.

    `forwarded` is what a proxy in front claims, `certificates` what it claims of its client's;
    nobody believes it by itself. `upgrades`: there is an Upgrade field, whatever it says.
    """

    __slots__ = (
        "certificates", "coding", "expect", "forwarded", "host", "length", "options", "upgrades",
    )  # fmt: skip

    def __init__(self, special: list[tuple[int, bytes]]) -> None:
        """Raises BadMessage where a field comes twice that may come once, or two contradict."""
        self.host: bytes | None = None
        self.expect: bytes | None = None
        self.length = -1
        self.coding: bytes | None = None  # lower case
        self.options = NO_OPTIONS
        self.forwarded: Claims | None = None
        self.certificates: list[tuple[int, bytes]] | None = None
        self.upgrades = False
        for kind, value in special:
            if kind == CONNECTION:
                self.options |= connection_options(value)
            elif kind == HOST:
                if self.host is not None:
                    raise BadMessage("more than one Host")
                self.host = value
            elif kind == CONTENT_LENGTH:
                if self.length >= 0:
                    raise BadMessage("more than one content-length")
                self.length = content_length(value)
                if self.length < 0:
                    raise BadMessage("bad content-length")
            elif kind == TRANSFER_ENCODING:
                if self.coding is not None:
                    raise BadMessage("more than one transfer-encoding")
                self.coding = value.lower()
            elif kind == UPGRADE:
                self.upgrades = True
            elif kind >= CLIENT_CERT:
                self.certificates = [*(self.certificates or ()), (kind, value)]
            elif kind >= FORWARDED_FOR:
                said = self.forwarded or Claims()
                self.forwarded = (
                    said.with_chain(value) if kind == FORWARDED_FOR else said.with_scheme(value)
                )
            elif self.expect is not None:
                raise BadMessage("more than one expect")
            else:
                self.expect = value
        if self.coding is not None:
            if self.length >= 0:
                raise BadMessage("content-length with transfer-encoding")
            if self.coding != b"chunked":
                raise BadMessage("transfer-encoding other than a single chunked")

    def persists(self, version: int) -> bool:
        """RFC 9112 section 9.3."""
        if b"close" in self.options:
            return False
        return version == 1 or b"keep-alive" in self.options
