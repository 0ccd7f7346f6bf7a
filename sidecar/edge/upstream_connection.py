"""One connection to the upstream, carrying one exchange at a time for its `Taker`.

It parses what comes back, strictly, and hands over heads and payload. Surplus bytes, an early end
or a late byte end it: only a connection whose last exchange was whole on both sides is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import ssl
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.decide.request import Headers
from sidecar.edge.bodies import Body, body_of, trailers_of
from sidecar.edge.names import end_to_end
from sidecar.edge.response_head import ResponseHead, parse_response_head, response_head_end
from sidecar.edge.sweeper import NEVER
from sidecar.errors import BadMessage, BadResponse

if TYPE_CHECKING:
    from sidecar.edge.upstream import UpstreamPool

MAX_INTERIM: Final = 16  # 1xx responses before one final response


class Failure(StrEnum):
    """Why an exchange got no (whole) response. The names are metric labels."""

    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS = "tls"
    BUSY = "busy"
    BUSY_TIMEOUT = "busy_timeout"
    CLOSED = "closed"
    BAD_RESPONSE = "bad_response"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    RESPONSE_TIMEOUT = "response_timeout"
    WITHHELD = "withheld"  # there is one, and it must not be seen


class Taker(Protocol):
    """Who a connection works for: one request."""

    def upstream_ready(self, upstream: UpstreamConnection) -> None:
        """A connection asked for is there."""

    def upstream_failed(self, failure: Failure) -> None:
        """No connection, or no (whole) response. The connection, if any, is gone already."""

    def upstream_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""

    def upstream_switched(self, head: ResponseHead, rest: bytes) -> None:
        """A 101, and what came behind it. Raises BadResponse unless it was asked for."""

    def upstream_response(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        """The response's head with the payload that came along. `done`: release the connection."""

    def upstream_payload(self, payload: bytes, done: bool) -> None:
        """More of the body. `done`: release the connection."""

    def upstream_writable(self, writable: bool) -> None:
        """Whether the upstream keeps up with what is written to it."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to the upstream. `taker` is None while it is idle."""

    __slots__ = (
        "_body", "_complete", "_head", "_held", "_interims", "_method", "_paused", "_poll", "_pool",
        "_scanned", "_whole", "answered", "closed", "deadline", "generation", "reused", "taker",
        "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, pool: UpstreamPool, generation: int = 0) -> None:
        self._pool = pool
        self._poll: Any = None  # asks the kernel what waits to be read
        self.generation = generation  # the pool's, when this was opened
        self.taker: Taker | None = None
        self.deadline = NEVER
        self.reused = False
        self.answered = False  # a byte of the response has come
        self.closed = False
        self._method = ""
        self._paused = False
        self._held = b""  # of a response head
        self._scanned = 0
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._complete = True  # all of the request was written
        self._whole = True  # the last response has ended, and let the connection live
        self._interims = 0

    # -- what the taker calls

    def send_request(self, data: bytes, method: str, complete: bool) -> None:
        """Write a request's head and what there is of its body; `complete`: that is all of it."""
        self._method = method
        self._complete = complete
        self._whole = False
        self.answered = False
        self._interims = 0
        pool = self._pool
        self.deadline = pool.sweeper.after(pool.limits.first_byte) if complete else NEVER
        self.transport.write(data)

    def send_body(self, data: bytes, complete: bool) -> None:
        """Write more of the request."""
        self._complete = complete
        if complete and self._head is None:
            self.deadline = self._pool.sweeper.after(self._pool.limits.first_byte)
        if data:
            self.transport.write(data)

    def pause_response(self) -> None:
        """The client does not keep up."""
        if not self.transport.is_closing():
            self._paused = True
            self.deadline = NEVER
            self.transport.pause_reading()

    def resume_response(self) -> None:
        """It does again."""
        if self._paused and not self.transport.is_closing():
            self.deadline = self._pool.sweeper.after(self._pool.limits.response)
            self.transport.resume_reading()
        self._paused = False

    def release(self, request_complete: bool) -> None:
        """The taker is done. Used again when request and response were whole."""
        self.taker = None
        self._head = self._body = None
        if self._paused:
            self.resume_response()
        if request_complete and self._whole and not self.closed:
            self._pool.idle(self)
        else:
            self.discard()

    def trailers(self) -> Headers:
        """What came behind the response's body, once that has ended, and may go on."""
        head = self._head
        found = trailers_of(self._body)
        return end_to_end(found, head.options) if head is not None else found

    def quiet(self) -> bool:
        """Whether nothing waits to be read: neither an end of the stream nor bytes out of turn."""
        return self._poll is None or not self._poll.poll(0)

    def hand_over(self) -> asyncio.Transport:
        """Leave the transport to somebody else; the pool neither counts nor ends it any more."""
        self.taker = None
        self.closed = True
        self.deadline = NEVER
        self._pool.lost(self)
        return self.transport

    def discard(self) -> None:
        """Never use it again; what was sent stays incomplete if it was."""
        self.taker = None
        if not self.closed:
            self.closed = True
            self._pool.lost(self)
            self.transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio says BaseTransport; that of a stream can write.
        self.transport = transport  # type: ignore[assignment]
        limits = self._pool.limits
        self.transport.set_write_buffer_limits(limits.buffer_high, limits.buffer_low)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)
        self._pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError) and not self.closed:
            self._fail(Failure.TLS)  # it refused our certificate, say, or sent what is no TLS
        elif isinstance(exc, OSError):
            self._read_on()
        self._ended(rightly=exc is None and self._body is not None and self._body.end())

    def _read_on(self) -> None:
        """Take what had come before a write failed.

        An upstream that answers before it has the whole request, and closes, makes our next write
        fail; loops then end the transport, though the answer waits to be read.
        """
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.get_extra_info("ssl_object") is not None:
            return  # the socket holds ciphertext
        with contextlib.suppress(OSError):
            while self.taker is not None and not self.closed:
                data = os.read(sock.fileno(), 256 * 1024)
                if not data:
                    return
                self.data_received(data)

    def eof_received(self) -> None:
        self._ended(rightly=self._body is not None and self._body.end())

    def pause_writing(self) -> None:
        if self.taker is not None:
            if self._head is None:
                self.deadline = self._pool.sweeper.after(self._pool.limits.first_byte)
            self.taker.upstream_writable(False)

    def resume_writing(self) -> None:
        if self.taker is not None:
            if self._head is None and not self._complete:
                self.deadline = NEVER  # the client's turn
            self.taker.upstream_writable(True)

    def data_received(self, data: bytes) -> None:
        taker = self.taker
        if taker is None:
            self.discard()  # an answer to nothing
            return
        self.answered = True
        try:
            if self._head is None:
                self._read_head(taker, data)
            else:
                self._read_body(taker, data)
        except BadMessage:
            self._fail(Failure.BAD_RESPONSE)

    # -- reading

    def _read_head(self, taker: Taker, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        while self.taker is taker:
            end = response_head_end(data, self._scanned)
            if end < 0:
                self._held = data
                self._scanned = len(data)
                return
            self._scanned = 0
            head = parse_response_head(data[:end], self._method)
            data = data[end:] if end < len(data) else b""
            if head.status >= 200:
                self._response(taker, head, data)
                return
            if head.status == 101:
                taker.upstream_switched(head, data)
                return
            self._interim(taker, head)

    def _interim(self, taker: Taker, head: ResponseHead) -> None:
        self._interims += 1
        if self._interims > MAX_INTERIM:
            raise BadResponse("too many interim responses")
        taker.upstream_interim(head)

    def _response(self, taker: Taker, head: ResponseHead, data: bytes) -> None:
        self._body = body = body_of(head)
        if body is None:
            payload, rest, done = b"", data, True
        elif data:
            payload, rest, done = body.feed(data)
        else:
            payload, rest, done = b"", b"", False
        self._head = head
        if done:
            self._whole = head.keep_alive and not rest
            self.deadline = NEVER
        else:
            pool = self._pool
            self.deadline = pool.sweeper.after(pool.limits.response)
        taker.upstream_response(head, payload, done)

    def _read_body(self, taker: Taker, data: bytes) -> None:
        body, head = self._body, self._head
        if body is None or head is None:
            self.discard()
            return
        payload, rest, done = body.feed(data)
        if done:
            self._whole = head.keep_alive and not rest
            self.deadline = NEVER
        else:
            pool = self._pool
            self.deadline = pool.sweeper.after(pool.limits.response)
        if payload or done:
            taker.upstream_payload(payload, done)

    # -- ends

    def expire(self) -> None:
        """The deadline has passed."""
        if self.taker is None:
            self.discard()
        elif self._head is None:
            self._fail(Failure.FIRST_BYTE_TIMEOUT)
        else:
            self._fail(Failure.RESPONSE_TIMEOUT)

    def _ended(self, *, rightly: bool) -> None:
        """The stream is over, which is the end of the response only for a body that says so."""
        if self.closed:
            return
        taker = self.taker
        self._whole = False
        if taker is None:
            self.discard()
        elif rightly:
            taker.upstream_payload(b"", True)
        else:
            self._fail(Failure.CLOSED)

    def _fail(self, failure: Failure) -> None:
        taker = self.taker
        self.discard()
        if taker is not None:
            taker.upstream_failed(failure)
