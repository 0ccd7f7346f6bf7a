"""Body framing as small sans-I/O readers: bytes in, payload out (RFC 9112 sections 6 and 7).

Each reader's `feed(data)` returns (payload, leftover, done): the payload found in `data`, the bytes
behind the end of the body, and whether the end has come. `feed` raises BadMessage and must not be
called again after that or after `done`. How the bytes were cut makes no difference to the whole.

A chunked body is read and re-framed: the sender's chunk lines, extensions and trailers are checked
and end here, so that nobody behind us has to read them the same way as we do.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.decide.request import NO_HEADERS, Headers
from sidecar.edge.fields import parse_lines
from sidecar.edge.http1 import (
    CHUNKED,
    CLOSE,
    LENGTH,
    Framing,
    RequestBlock,
)
from sidecar.edge.response_head import ResponseHead
from sidecar.errors import BadMessage

MAX_CHUNK_LINE: Final = 1024  # bytes, extensions included
MAX_EXTENSIONS: Final = 16 * 1024  # bytes of them in one body
MAX_TRAILERS: Final = 8 * 1024  # bytes
MAX_TRAILER_FIELDS: Final = 32

LAST_CHUNK: Final = b"0\r\n\r\n"

# RFC 9112 section 7.1.1, without the white space it calls bad. Up to 15 digits: below 2**60.
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"((?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb"(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb'|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"))?)*)'
)

Fed = tuple[bytes, bytes, bool]


class LengthBody:
    """A body of a known number of bytes. `left` are still to come."""

    __slots__ = ("_length", "left")

    def __init__(self, length: int) -> None:
        self._length = self.left = length

    def fresh(self) -> bool:
        """Whether nothing of it has come yet."""
        return self.left == self._length

    def feed(self, data: bytes) -> Fed:
        size = len(data)
        if size < self.left:
            self.left -= size
            return data, b"", False
        left = self.left
        self.left = 0
        if size == left:
            return data, b"", True
        return data[:left], data[left:], True

    def end(self) -> bool:
        """Whether the end of the stream ends the body rightly."""
        return False


class CloseBody:
    """A response body that ends with the connection."""

    __slots__ = ()

    def fresh(self) -> bool:
        return False

    def feed(self, data: bytes) -> Fed:
        return data, b"", False

    def end(self) -> bool:
        return True


class ChunkedBody:
    """A chunked body. `trailers` are kept apart from the headers that were decided on."""

    __slots__ = (
        "_begun", "_extensions", "_held", "_left", "_trailer_bytes", "_want", "trailers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.trailers: Headers = []
        self._begun = False
        self._want = _SIZE
        self._left = 0  # payload bytes of the current chunk still to come
        self._held = b""  # the beginning of a line
        self._extensions = 0
        self._trailer_bytes = 0

    def fresh(self) -> bool:
        """Whether nothing of it has come yet."""
        return not self._begun

    def feed(self, data: bytes) -> Fed:
        self._begun = True
        if self._held:
            data = self._held + data
            self._held = b""
        at = 0
        size = len(data)
        pieces: list[bytes] = []
        while at < size:
            if self._want == _DATA:
                stop = at + self._left
                piece = data[at:stop] if at or stop < size else data
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._want = _DATA_END
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data[at:])
                break
            line = data[at:end]
            at = end + 2
            if self._want == _SIZE:
                self._size_line(line)
            elif self._want == _DATA_END:
                if line:
                    raise BadMessage("chunk longer than its size")
                self._want = _SIZE
            elif self._trailer_line(line):
                return _joined(pieces), data[at:], True
        return _joined(pieces), b"", False

    def end(self) -> bool:
        return False

    def _hold(self, rest: bytes) -> None:
        """Keep the beginning of a line, unless it can be none."""
        length = len(rest) - rest.endswith(b"\r")
        if b"\n" in rest or b"\r" in rest[:length]:
            raise BadMessage("bare CR or LF in a chunked body")
        if self._want == _DATA_END and length:
            raise BadMessage("chunk longer than its size")
        if length > MAX_CHUNK_LINE and self._want == _SIZE:
            raise BadMessage("chunk line too long")
        if length + self._trailer_bytes > MAX_TRAILERS and self._want == _TRAILER:
            raise BadMessage("trailers too large")
        self._held = rest

    def _size_line(self, line: bytes) -> None:
        if len(line) > MAX_CHUNK_LINE:
            raise BadMessage("chunk line too long")
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise BadMessage("bad chunk size")
        digits, extensions = match.groups()
        self._extensions += len(extensions)
        if self._extensions > MAX_EXTENSIONS:
            raise BadMessage("too many chunk extensions")
        self._left = int(digits, 16)
        self._want = _DATA if self._left else _TRAILER

    def _trailer_line(self, line: bytes) -> bool:
        """Take one line of the trailer section; True when it was the last."""
        if not line:
            return True
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > MAX_TRAILERS + 2 or len(self.trailers) >= MAX_TRAILER_FIELDS:
            raise BadMessage("trailers too large")
        self.trailers += parse_lines(line + b"\r\n", 1)[0]
        return False


_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILER: Final = 3

Body = LengthBody | ChunkedBody | CloseBody


def _joined(pieces: list[bytes]) -> bytes:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def body_of(head: RequestBlock | ResponseHead) -> Body | None:
    """The reader of the body behind `head`; None where there is none, or nothing in it."""
    framing: Framing = head.framing
    if framing is LENGTH:
        return LengthBody(head.length) if head.length else None
    if framing is CHUNKED:
        return ChunkedBody()
    return CloseBody() if framing is CLOSE else None


def trailers_of(body: Body | None) -> Headers:
    """The fields behind a body that has ended; only a chunked one can have any."""
    return body.trailers if isinstance(body, ChunkedBody) else NO_HEADERS


def last_chunk(trailer_lines: bytes) -> bytes:
    """The end of a chunked body of ours, with fields behind it, each with its line end."""
    return b"0\r\n" + trailer_lines + b"\r\n" if trailer_lines else LAST_CHUNK


def chunk(payload: bytes) -> bytes:
    """One chunk of ours; nothing for an empty payload, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
