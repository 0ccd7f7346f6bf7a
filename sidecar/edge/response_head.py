"""A response's head as an upstream sent it: strict, no sockets. The request's is in `http1`."""

from __future__ import annotations

from typing import Final

from sidecar.decide.request import Headers
from sidecar.edge.fields import BAD_BYTE, TEXT, Framed, Memo, parse_lines, sound
from sidecar.edge.http1 import CHUNKED, CLOSE, LENGTH, MAX_HEAD, MAX_HEADERS, NONE, Framing
from sidecar.errors import BadMessage, BadResponse


class ResponseHead:
    """One response's head. Shared: nobody changes it. `length` is -1 without a content-length.

    With Framing.NONE (HEAD, 204, 304) it only describes. `line` is status and reason as they came.
    `wire` belongs to `forward`, which remembers there what most clients are sent of it.
    """

    __slots__ = (
        "dated", "framing", "headers", "keep_alive", "length", "line", "options", "status",
        "version", "wire",
    )  # fmt: skip

    def __init__(
        self, line: bytes, version: int, headers: Headers, framed: Framed, method: str
    ) -> None:
        """Raises BadResponse."""
        self.line = line
        self.status = int(line[:3])
        self.version = version
        self.headers = headers
        self.options = framed.options
        self.length = framed.length
        self.keep_alive = framed.persists(version)
        self.wire = b""
        self.dated = any(name == b"date" for name, _ in headers)
        chunked = framed.coding is not None
        if chunked and version == 0:
            raise BadResponse("transfer-encoding in HTTP/1.0")
        self.framing = self._framing(chunked, method)

    def _framing(self, chunked: bool, method: str) -> Framing:
        """RFC 9112 section 6.3."""
        if self.status < 200 or self.status == 204:
            # Neither may say how long a body it has: some parsers would go by the words.
            if chunked or self.length > 0:
                raise BadResponse("1xx or 204 that announces a body")
            self.length = -1
            return NONE
        if self.status == 304 or method == "HEAD":
            return NONE
        if chunked:
            return CHUNKED
        if self.length >= 0:
            return LENGTH
        self.keep_alive = False
        return CLOSE


def response_head_end(data: bytes, scanned: int = 0, limit: int = MAX_HEAD) -> int:
    """As `request_head_end`; raises BadResponse."""
    # Bounds as arguments cost `find` more than the search: most heads come whole, and short.
    end = data.find(b"\r\n\r\n") if scanned < 4 else data.find(b"\r\n\r\n", scanned - 3)
    if 0 <= end <= limit - 4:
        return end + 4
    if not sound(data, scanned, limit):
        raise BadResponse(BAD_BYTE)
    if len(data) >= limit:
        raise BadResponse("head too large")
    return -1


# Of responses to anything but HEAD. Their Date is another one each second.
_response_heads: Final[Memo[ResponseHead]] = Memo(256)


def parse_response_head(
    head: bytes, method: str, max_headers: int = 2 * MAX_HEADERS
) -> ResponseHead:
    """Read the head that answers `method`, up to and with its blank line.

    Raises BadResponse for what the client could read differently than we do.
    """
    if method == "HEAD":
        return _response_head(head, method, max_headers)
    known = _response_heads.get(head)
    if known is None or len(known.headers) > max_headers:
        known = _response_head(head, method, max_headers)
        _response_heads.offer(head, known)
    return known


def _response_head(head: bytes, method: str, most: int) -> ResponseHead:
    cut = head.find(b"\r\n")
    line = head[:cut]
    start, code = line[:9], line[9:12]
    # RFC 9112 section 4: a space must follow; many leave it out with the reason, unmistakably.
    if (
        start not in (b"HTTP/1.1 ", b"HTTP/1.0 ")
        or len(code) != 3
        or not code.isdigit()
        or code < b"100"
        or line[12:13] not in (b" ", b"")
        or line.translate(None, TEXT)
    ):
        raise BadResponse("bad status line")
    try:
        headers, special = parse_lines(head[cut + 2 : -2], most)
        framed = Framed(special)
    except BadMessage as error:
        raise BadResponse(error.reason) from None
    rest = line[9:] if len(line) > 12 else code + b" "
    return ResponseHead(rest, 1 if start == b"HTTP/1.1 " else 0, headers, framed, method)


def remembered() -> dict[str, int]:
    """Entries by table of what came before; bounded."""
    return {"response_heads": len(_response_heads)}
