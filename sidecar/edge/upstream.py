"""The upstream side: connections that carry one exchange at a time, and the pool of them.

Whoever wants a request answered is a `Taker`. It asks the pool for a connection and gets one at
once (the usual, warm case), or is called back. The connection parses what comes back, strictly,
and hands its taker heads and payload; surplus bytes, an early end or a late byte end it, and only
a connection whose last exchange was whole on both sides is used again, the latest used first.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from sidecar.edge.bodies import Body, body_of
from sidecar.edge.http1 import ResponseHead, parse_response_head, response_head_end
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.sweeper import NEVER, Sweeper
from sidecar.errors import BadMessage, BadResponse, Misuse

MAX_INTERIM: Final = 16  # 1xx responses before one final response

_log: Final = logging.getLogger("sidecar.upstream")


class Failure(StrEnum):
    """Why an exchange got no (whole) response. The names are metric labels."""

    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    BUSY = "busy"
    BUSY_TIMEOUT = "busy_timeout"
    CLOSED = "closed"
    BAD_RESPONSE = "bad_response"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    RESPONSE_TIMEOUT = "response_timeout"


class Taker(Protocol):
    """Who a connection works for: one request."""

    def upstream_ready(self, upstream: UpstreamConnection) -> None:
        """A connection asked for is there."""

    def upstream_failed(self, failure: Failure) -> None:
        """No connection, or no (whole) response. The connection, if any, is gone already."""

    def upstream_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""

    def upstream_response(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        """The response's head with the payload that came along. `done`: release the connection."""

    def upstream_payload(self, payload: bytes, done: bool) -> None:
        """More of the body. `done`: release the connection."""

    def upstream_writable(self, writable: bool) -> None:
        """Whether the upstream keeps up with what is written to it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the upstream is. TLS and Unix sockets will be other ways to `connect`."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """`http://host[:port]`. Raises Misuse."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Misuse(f"upstream {url!r} is not a URL; write http://host:port") from None
        if parts.scheme != "http" or not parts.hostname:
            raise Misuse(f"upstream {url!r}: expected http://host:port")
        if parts.username or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise Misuse(f"upstream {url!r} must name a host and a port and nothing else")
        return cls(parts.hostname, 80 if port is None else port)

    async def connect(self, factory: Callable[[], UpstreamConnection]) -> None:
        """Open one connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(factory, self.host, self.port)


class UpstreamConnection(asyncio.Protocol):
    """One connection to the upstream. `taker` is None while it is idle."""

    __slots__ = (
        "_body", "_complete", "_head", "_held", "_interims", "_method", "_paused", "_pool",
        "_scanned", "_whole", "answered", "closed", "deadline", "reused", "taker", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
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

    def quiet(self) -> bool:
        """Whether nothing waits to be read: neither an end of the stream nor bytes out of turn."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def discard(self) -> None:
        """Never use it again; what was sent stays incomplete if it was."""
        self.taker = None
        if not self.closed:
            self.closed = True
            self._pool.lost(self)
            self.transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        limits = self._pool.limits
        self.transport.set_write_buffer_limits(limits.buffer_high, limits.buffer_low)
        self._pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(rightly=exc is None and self._body is not None and self._body.end())

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
            self._interim(taker, head)

    def _interim(self, taker: Taker, head: ResponseHead) -> None:
        if head.status == 101:
            raise BadResponse("101 to a request that asked for no upgrade")
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


Connect = Callable[[Callable[[], UpstreamConnection]], Coroutine[Any, Any, None]]


class UpstreamPool:
    """Every connection to one upstream, idle, busy or being opened; never more than the limit.

    Who finds none idle waits in line, and the first in line gets whichever comes first: one that
    is opened for it, or one that another exchange gives back.
    """

    def __init__(
        self,
        address: Address,
        limits: Limits,
        sweeper: Sweeper,
        stats: ProxyStats,
        connect: Connect | None = None,
    ) -> None:
        self.address = address
        self.default_host = address.authority
        self.limits = limits
        self.sweeper = sweeper
        self.stats = stats
        self._connect = connect if connect is not None else address.connect
        self._idle: list[UpstreamConnection] = []  # the latest used at the end
        self._all: set[UpstreamConnection] = set()
        self._waiting: deque[tuple[Taker, float]] = deque()
        self._opening: dict[asyncio.Task[None], float] = {}
        self._closed = False
        sweeper.watch(self.sweep)

    def take(self, taker: Taker, repeatable: bool) -> UpstreamConnection | None:
        """An idle connection, now. None: `taker` is in line and will be called.

        A request that is not `repeatable` cannot be sent again should the upstream have closed the
        connection meanwhile, so for that one we ask the kernel whether the news is already there.
        """
        while self._idle:
            upstream = self._idle[-1]
            if upstream.transport.is_closing() or not (repeatable or upstream.quiet()):
                upstream.discard()
                continue
            self._idle.pop()
            upstream.taker = taker
            upstream.reused = True
            stats = self.stats
            stats.upstream_idle -= 1
            stats.upstream_reused += 1
            return upstream
        self.take_new(taker)
        return None

    def take_new(self, taker: Taker) -> None:
        """Get in line for a connection nobody used before, as a retry must (if there is room)."""
        if self._closed or len(self._waiting) >= self.limits.upstream_waiting:
            asyncio.get_running_loop().call_soon(taker.upstream_failed, Failure.BUSY)
            return
        self._waiting.append((taker, self.sweeper.after(self.limits.upstream_wait)))
        self.stats.upstream_waiting += 1
        if self._idle and not self._room():
            self._idle[0].discard()
        self._open()

    def leave(self, taker: Taker) -> None:
        """`taker` no longer waits."""
        for entry in self._waiting:
            if entry[0] is taker:
                self._waiting.remove(entry)
                self.stats.upstream_waiting -= 1
                return

    def close(self) -> None:
        """End everything. Exchanges still under way fail."""
        self._closed = True
        for task in list(self._opening):
            task.cancel()
        for upstream in list(self._all):
            taker = upstream.taker
            upstream.discard()
            if taker is not None:
                taker.upstream_failed(Failure.CLOSED)
        self._fail_waiting(len(self._waiting), Failure.CLOSED)

    def sweep(self, now: float) -> None:
        """End what is overdue."""
        for task, deadline in list(self._opening.items()):
            if deadline <= now:
                self._opening[task] = NEVER  # tells `_opened_one` why it was cancelled
                task.cancel()
        for upstream in [each for each in self._all if each.deadline <= now]:
            upstream.expire()
        while self._waiting and self._waiting[0][1] <= now:
            self._fail_waiting(1, Failure.BUSY_TIMEOUT)

    # -- what connections call

    def opened(self, upstream: UpstreamConnection) -> None:
        """A new connection stands."""
        self._all.add(upstream)
        self.stats.upstream_created += 1
        self._give(upstream)

    def idle(self, upstream: UpstreamConnection) -> None:
        """A connection is free again."""
        upstream.reused = True
        self._give(upstream)

    def lost(self, upstream: UpstreamConnection) -> None:
        """A connection is gone."""
        if upstream in self._all:
            self._all.remove(upstream)
            if upstream in self._idle:
                self._idle.remove(upstream)
            self._counted()
            self._open()

    def _give(self, upstream: UpstreamConnection) -> None:
        if self._waiting:
            taker, _ = self._waiting.popleft()
            self.stats.upstream_waiting -= 1
            upstream.taker = taker
            if upstream.reused:
                self.stats.upstream_reused += 1
            self._counted()
            taker.upstream_ready(upstream)
        elif len(self._idle) >= self.limits.upstream_idle or self._closed:
            upstream.discard()
        else:
            upstream.deadline = self.sweeper.after(self.limits.keep)
            self._idle.append(upstream)
            self.stats.upstream_idle += 1

    # -- opening

    def _room(self) -> bool:
        return len(self._all) + len(self._opening) < self.limits.upstream_connections

    def _open(self) -> None:
        """Open as many as wait and as there is room for."""
        while len(self._opening) < len(self._waiting) and self._room() and not self._closed:
            task = asyncio.get_running_loop().create_task(
                self._connect(lambda: UpstreamConnection(self))
            )
            self._opening[task] = self.sweeper.after(self.limits.connect)
            task.add_done_callback(self._opened_one)
        self._counted()

    def _opened_one(self, task: asyncio.Task[None]) -> None:
        deadline = self._opening.pop(task)
        failure: Failure | None = None
        if task.cancelled():
            failure = Failure.CONNECT_TIMEOUT if deadline == NEVER else Failure.CLOSED
        else:
            error = task.exception()
            if error is not None:
                failure = Failure.CONNECT
                if not isinstance(error, OSError):  # a defect, not a network
                    _log.error("connecting to %s failed", self.address.authority, exc_info=error)
        self._counted()
        if failure is not None:
            self._fail_waiting(1, failure)
        self._open()

    def _fail_waiting(self, count: int, failure: Failure) -> None:
        for _ in range(min(count, len(self._waiting))):
            taker, _ = self._waiting.popleft()
            self.stats.upstream_waiting -= 1
            taker.upstream_failed(failure)

    def _counted(self) -> None:
        self.stats.upstream_open = len(self._all) + len(self._opening)
        self.stats.upstream_idle = len(self._idle)
