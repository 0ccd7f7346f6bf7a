"""WebSocket on the wire (RFC 6455): both halves of the handshake, frame ends, close frames. Pure.

Frames pass through a tunnel as they are. All that is read of them is how long each one is, so that
a close frame of ours can be put between two of them, where a receiver takes it for a frame.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from typing import Final

from sidecar.decide.request import Headers
from sidecar.errors import BadResponse

VERSION: Final = b"13"
POLICY_VIOLATION: Final = 1008  # RFC 6455 section 7.4.1
GOING_AWAY: Final = 1001

_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")  # RFC 6455 section 4.1: 16 bytes in base64
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))
_CLOSE: Final = 8  # opcode


class Handshake:
    """A client's half: what a server that agrees must answer, and what it may choose from."""

    __slots__ = ("accept", "protocols")

    def __init__(self, key: bytes, protocols: frozenset[bytes]) -> None:
        digest = sha1(key + _GUID, usedforsecurity=False).digest()
        self.accept = b64encode(digest)
        self.protocols = protocols

    def check(self, headers: Headers, options: frozenset[bytes]) -> None:
        """Hold a 101's fields to RFC 6455 section 4.2.2. Raises BadResponse.

        `options` are the members of its Connection field, `headers` those that reach the client.
        """
        if b"upgrade" not in options or [v.lower() for v in _values(headers, b"upgrade")] != [
            b"websocket"
        ]:
            raise BadResponse("101 to something else than WebSocket")
        if any(name in _FRAMING for name, _ in headers):
            raise BadResponse("101 that announces a body")
        if _values(headers, b"sec-websocket-accept") != [self.accept]:
            raise BadResponse("101 that does not answer the key")
        chosen = _values(headers, b"sec-websocket-protocol")
        if len(chosen) > 1 or not self.protocols.issuperset(chosen):
            raise BadResponse("101 with a protocol that nobody offered")


def handshake(headers: Headers, options: frozenset[bytes]) -> Handshake | None:
    """What a GET of HTTP/1.1 without a body asks for by these fields; None: for no WebSocket.

    RFC 6455 section 4.2.1. Whatever falls short of it is an ordinary request.
    """
    if b"upgrade" not in options:
        return None
    if [value.lower() for value in _values(headers, b"upgrade")] != [b"websocket"]:
        return None
    if _values(headers, b"sec-websocket-version") != [VERSION]:
        return None
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        return None
    offered = b",".join(_values(headers, b"sec-websocket-protocol")).split(b",")
    names = (name.strip(b" \t") for name in offered)
    return Handshake(keys[0], frozenset(name for name in names if name))


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


class Frames:
    """Follows the frames of one direction. How the bytes were cut makes no difference.

    `closed`: a close frame has begun, behind which nothing has a meaning. `broken`: a length that
    cannot be (RFC 6455 section 5.2), so nobody can say where a frame ends any more.
    """

    __slots__ = ("_header", "_left", "broken", "closed")

    def __init__(self) -> None:
        self._header = b""  # the beginning of a frame's header
        self._left = 0  # bytes of the frame under way that are still to come
        self.closed = False
        self.broken = False

    def between(self) -> bool:
        """Whether no frame is under way."""
        return not self._left and not self._header and not self.broken

    def feed(self, data: bytes) -> None:
        """Follow `data`."""
        left = self._left
        if len(data) <= left:
            self._left = left - len(data)
        else:
            self._follow(data, False)

    def finish(self, data: bytes) -> int:
        """Follow `data` up to the end of the frame under way; how many bytes that took."""
        return 0 if self.between() else self._follow(data, True)

    def _follow(self, data: bytes, one: bool) -> int:
        """The index behind what was followed; `one`: stop at the end of a frame."""
        size = len(data)
        at = self._left
        if at:
            if at > size:
                self._left = at - size
                return size
            self._left = 0
            if one:
                return at
        held = len(self._header)
        if held:
            data = self._header + data
            size += held
            self._header = b""
        while at < size and not self.closed and not self.broken:
            start = at + 2  # of the payload
            length = data[at + 1] if start <= size else 0
            if length & 128:
                start += 4  # the mask
            length &= 127
            if length > 125:
                wide = 2 if length == 126 else 8
                start += wide
                length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
            if start > size:
                self._header = data[at:]
                return size - held
            self.broken = length >= 1 << 63
            self.closed = data[at] & 15 == _CLOSE
            at = start + length
            if one:
                break
        if at > size:
            self._left = at - size
            at = size
        return at - held


def close_frame(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A close frame (RFC 6455 section 5.5.1). Towards a server it must have a `mask`: 4 bytes."""
    payload = code.to_bytes(2, "big") + reason.encode("ascii")
    if len(payload) > 125:
        raise ValueError("a control frame holds at most 125 bytes")
    if not mask:
        return bytes((128 | _CLOSE, len(payload))) + payload
    masked = bytes(byte ^ mask[place & 3] for place, byte in enumerate(payload))
    return bytes((128 | _CLOSE, 128 | len(payload))) + mask + masked
