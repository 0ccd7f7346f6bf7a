"""The request as every door presents it, and the canonical form of what it names.

What is decided is what is forwarded: a door builds a `Request` from `canonical_target` and
`canonical_authority`, and forwards exactly those. The canonical path is a fixed point:
canonicalising it again changes nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from sidecar.decide.workloads import Certificate
from sidecar.errors import BadRequest

MAX_TARGET: Final = 16 * 1024  # bytes; the head has its own bound, this one holds at every door

# RFC 3986 section 3.3: pchar and "/", less what needs a closer look ("%", ";", "." segments, "//").
_PLAIN_PATH: Final = re.compile(rb"(?:/(?!\.)[A-Za-z0-9\-._~!$&'()*+,=:@]+)+/?|/")
_PATH: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*")
# RFC 3986 section 3.4, and what browsers leave raw in a query: " < > [ ] \ ^ ` { | }
_QUERY: Final = re.compile(rb"[!\x22$-~]*")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)
_HOST_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_PORT: Final = re.compile(r"[0-9]{1,5}")

Headers = list[tuple[bytes, bytes]]
"""Header fields in the order they came: lower-case name, value without outer white space."""
NO_HEADERS: Final[Headers] = []


class Unread:
    """In place of a body that was not read, or not to its end: `status` says what that would be
    answered with, `reason` why."""

    __slots__ = ("reason", "status")

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason


TOO_LARGE: Final = Unread(413, "body_too_large")
CROWDED: Final = Unread(503, "bodies_crowded")
"""As many bytes of bodies as may be are held already."""


class Request:
    """One request, canonical. Doors build it once; nothing of what it says changes afterwards.

    `path` is canonical and percent-encoded, `segments` are its decoded parts (`/a/b/` is
    `["a", "b", ""]`), `query` the raw bytes after `?` (None without one), `host` lower case without
    port (empty for HTTP/1.0 without Host), `authority` the same with the port as it came, `address`
    the client's IP address; `chain` is it and the trusted proxies that it came by, where there are
    any, as `x-forwarded-for` lists them. `certificate` is the one that the caller has shown, to us
    or to a trusted proxy.

    A door may present the very same object for a request that came again, byte for byte. `memo` is
    what `authorize` remembers with it, `logged` what the decision log does; `trace` is the caller's
    traceparent, empty without a sound one, None until somebody looked.

    `body` is None until it was read: only for a decision that needs it, and then for a request of
    its own (`with_body`), since the same head may come with another body.
    """

    __slots__ = (
        "address", "authority", "body", "certificate", "chain", "headers", "host", "logged", "memo",
        "method", "path", "query", "scheme", "segments", "trace",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        path: str,
        segments: list[str],
        query: bytes | None,
        authority: str,
        host: str,
        scheme: str,
        headers: Headers,
        address: str,
        chain: str = "",
        certificate: Certificate | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.segments = segments
        self.query = query
        self.authority = authority
        self.host = host
        self.scheme = scheme
        self.headers = headers
        self.address = address
        self.chain = chain
        self.certificate = certificate
        self.body: bytes | Unread | None = None
        self.memo: Any = None
        self.trace: bytes | None = None
        self.logged: Any = None

    def with_body(self, body: bytes | Unread) -> Request:
        """The same request once its body was read."""
        found = Request(
            self.method, self.path, self.segments, self.query, self.authority, self.host,
            self.scheme, self.headers, self.address, self.chain, self.certificate,
        )  # fmt: skip
        found.body = body
        found.trace = self.trace
        return found

    def has_body(self) -> bool:
        """Whether its head announces one."""
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
                return True
        return False

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the header `name` (lower case), in order."""
        return [value for key, value in self.headers if key == name]


def canonical_target(target: bytes) -> tuple[str, list[str], bytes | None]:
    """Split an origin-form target into canonical path, decoded segments and raw query.

    Nobody may change the segments: paths that come again share them. Raises BadRequest for whatever
    two parsers could read differently (DESIGN section 8, rule 2).
    """
    if len(target) > MAX_TARGET:
        raise BadRequest("target too long", 414)
    raw, mark, query = target.partition(b"?")
    if mark and not _QUERY.fullmatch(query):
        raise BadRequest("query holds a byte that no URI may hold")
    # Remembered up to a length: the memory is bounded in bytes as well as in entries.
    path, segments = known_path(raw) if len(raw) <= 256 else _split(raw)
    return path, segments, query if mark else None


def _split(raw: bytes) -> tuple[str, list[str]]:
    if _PLAIN_PATH.fullmatch(raw):
        path = raw.decode("ascii")
        return path, path.split("/")[1:]
    path = canonical_path(raw)
    return path, decoded_segments(path)


known_path: Final = lru_cache(maxsize=4096)(_split)


def canonical_path(raw: bytes) -> str:
    """The canonical form: unreserved decoded once, dot segments resolved, `//` collapsed.

    Other escapes stay, with upper-case digits. Source: RFC 3986 sections 6.2.2.1 to 6.2.2.3.
    """
    if not raw.startswith(b"/"):
        raise BadRequest("target is not an absolute path")
    if not _PATH.fullmatch(raw):
        raise BadRequest("path holds a byte that no URI path may hold")
    if b";" in raw:
        raise BadRequest("path parameter (;) in path")
    if _BROKEN_ESCAPE.search(raw):
        raise BadRequest("invalid percent-encoding in path")
    text = _ESCAPE.sub(_normal_escape, raw.decode("ascii"))
    out: list[str] = []
    parts = text.split("/")[1:]
    last = len(parts) - 1
    for place, part in enumerate(parts):
        if part in ("", "."):
            if place == last:
                out.append("")
        elif part == "..":
            if not out:
                raise BadRequest("path climbs above the root")
            out.pop()
            if place == last:
                out.append("")
        else:
            out.append(part)
    path = "/" + "/".join(out)
    _require_utf8(path)
    return path


def _normal_escape(match: re.Match[str]) -> str:
    code = int(match.group(1), 16)
    if code in _UNRESERVED:
        return chr(code)
    # An upstream that decodes before it splits would see another path than we did.
    if code in (0x2F, 0x5C, 0x00):
        raise BadRequest("encoded slash, backslash or NUL in path")
    return f"%{code:02X}"


def _require_utf8(path: str) -> None:
    if "%" in path:
        try:
            unquote_to_bytes(path).decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("path is not UTF-8") from None


def decoded_segments(path: str) -> list[str]:
    """The segments of a canonical path, percent-decoded: what routes are matched against."""
    if "%" not in path:
        return path.split("/")[1:]
    return [unquote_to_bytes(part).decode("utf-8") for part in path.split("/")[1:]]


def canonical_authority(raw: bytes) -> tuple[str, str]:
    """A Host value as (authority, host): lower case, one trailing dot dropped, the port checked.

    Raises BadRequest when it is no host at all (RFC 9112 section 3.2).
    """
    try:
        text = raw.decode("ascii").lower()
    except UnicodeDecodeError:
        raise BadRequest("Host is not ASCII") from None
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        host = _canonical_ipv6(host[1:])
        known: object = bracket and host
    else:
        host, colon, port = text.partition(":")
        rest = colon + port
        host = host.removesuffix(".")
        known = _HOST_NAME.fullmatch(host)
    if not known:
        raise BadRequest("Host is not a host name")
    if rest:
        port = rest[1:]
        if rest[0] != ":" or (port and (not _PORT.fullmatch(port) or int(port) > 65535)):
            raise BadRequest("Host has a bad port")
        if not port:
            rest = ""
    return host + rest, host


def _canonical_ipv6(text: str) -> str:
    """`[::1]` for every spelling of ::1 (RFC 5952); empty if it is no IPv6 address."""
    try:
        return f"[{IPv6Address(text)}]" if "%" not in text else ""
    except AddressValueError:
        return ""
