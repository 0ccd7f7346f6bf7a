"""One client connection: reads requests one at a time, has them decided, answers in order.

The states, and what arriving bytes are then:

    HEAD    the beginning of a request                       -> HOLD, or LINGER after a bad one
    HOLD    kept, up to a bound: a request is being decided,
            waits for an upstream connection or is answered   -> BODY, HEAD, DRAIN, LINGER
    BODY    more of the body, passed on                       -> HOLD when it is whole
    DRAIN   the rest of a refused request's body, dropped     -> HEAD
    LINGER  dropped, so that the client can read our last
            answer before the connection is reset             -> CLOSED
    CLOSED  nothing

A warm request is handled within one call of `data_received`: no task, no future, no timer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.decide.challenge import Answer, refusal
from sidecar.decide.outcomes import Permit
from sidecar.decide.request import Request
from sidecar.edge import answers
from sidecar.edge.bodies import Body, LengthBody, body_of
from sidecar.edge.exchange import Decision, Exchange
from sidecar.edge.forward import CONTINUE
from sidecar.edge.forward import answer as answer_bytes
from sidecar.edge.http1 import (
    RequestHead,
    parse_request_head,
    request_head_end,
    skip_empty_line,
)
from sidecar.edge.sweeper import NEVER
from sidecar.edge.upstream import Failure
from sidecar.errors import BadMessage, BadRequest

if TYPE_CHECKING:
    from sidecar.edge.proxy import Proxy

HEAD: Final = "head"
HOLD: Final = "hold"
BODY: Final = "body"
DRAIN: Final = "drain"
LINGER: Final = "linger"
CLOSED: Final = "closed"

_TURNS: Final = 16  # pipelined requests begun before other connections get their turn
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class ClientConnection(asyncio.Protocol):
    """The client's side. Exchanges call its public methods; so does the proxy's sweeper."""

    __slots__ = (
        "_address", "_behind", "_body", "_dropped", "_eof", "_exchange", "_full", "_head", "_input",
        "_payload", "_pending", "_persist", "_proxy", "_pumping", "_reading", "_scanned",
        "_skipped", "_state", "_task", "_throttled", "_transport", "deadline",
    )  # fmt: skip

    _transport: asyncio.Transport
    _head: RequestHead

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._address = ""
        self.deadline = NEVER
        self._state = HEAD
        self._input = b""  # bytes not yet read as anything
        self._scanned = 0  # of them, for the end of a head
        self._skipped = False  # an empty line before the head
        self._body: Body | None = None  # of the request at hand, until it has ended
        self._payload = b""  # of the body, from the read that brought the head
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[Decision] | None = None
        self._persist = True
        self._dropped = 0  # bytes read in DRAIN or LINGER
        self._pending = -1  # unsent bytes when last looked at
        self._eof = False
        self._reading = True
        self._full = False  # the client does not take what we write
        self._throttled = False  # the upstream does not take what we write
        self._pumping = False
        self._behind = False  # the rest of the input waits for its turn

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        limits = self._proxy.limits
        self._transport.set_write_buffer_limits(limits.buffer_high, limits.buffer_low)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            # A dual-stack socket shows IPv4 as ::ffff:…; a zone says nothing to anyone else.
            self._address = str(peer[0]).partition("%")[0].removeprefix("::ffff:")
        self.deadline = self._proxy.sweeper.after(limits.idle)
        if not self._proxy.joined(self):
            self._last_words(answers.too_many_connections())

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = CLOSED
        self.deadline = NEVER
        self._input = b""
        self._proxy.left(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._proxy.stats.client_aborts += 1
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._proxy.stats.client_aborts += 1
            exchange.abandon(0)

    def eof_received(self) -> bool:
        """The client sends no more; it may still read. True: keep our side open."""
        self._eof = True
        state = self._state
        if state is HOLD or (state is HEAD and self._behind):
            return True
        if state is BODY:
            self._bad_body("body ended early")
        return False

    def data_received(self, data: bytes) -> None:
        self._proxy.stats.bytes_received += len(data)
        state = self._state
        if state is HEAD:
            self._input = self._input + data if self._input else data
            self._pump()
        elif state is BODY:
            self._upload(data)
        elif state is HOLD:
            self._input += data
            self._adjust()
        elif state is DRAIN:
            self._drain(data)
        elif state is LINGER:
            self._dropped += len(data)
            if self._dropped > self._proxy.limits.linger_bytes:
                self._transport.abort()

    def pause_writing(self) -> None:
        self._full = True
        self._pending = -1
        self.deadline = self._proxy.sweeper.after(self._proxy.limits.send)
        if self._exchange is not None:
            self._exchange.client_writable(False)

    def resume_writing(self) -> None:
        self._full = False
        self._rearm()
        if self._exchange is not None:
            self._exchange.client_writable(True)
        elif self._state is HEAD:
            self._pump()

    # -- reading requests

    def _pump(self) -> None:
        """Handle what the input holds, one request after the other."""
        if self._pumping:
            return
        self._pumping = True
        self._behind = False
        turns = 0
        try:
            while self._input and self._state is HEAD:
                if self._full:
                    self._behind = True
                    break
                if turns == _TURNS:
                    self._behind = True
                    asyncio.get_running_loop().call_soon(self._pump)
                    break
                turns += 1
                if not self._read_head():
                    break
        finally:
            self._pumping = False
        if self._state is HEAD:
            if self._eof and not self._behind:
                self._close()
            elif self._behind or not self._reading:
                self._adjust()

    def _read_head(self) -> bool:
        """Read one request and have it handled. False: more bytes are needed."""
        try:
            return self._try_head()
        except BadRequest as error:
            self._proxy.stats.bad_request(error.reason)
            self._last_words(answers.bad_request(error))
            return True

    def _try_head(self) -> bool:
        data = self._input
        limits = self._proxy.limits
        if data[0] == 13 and not self._skipped:
            rest = skip_empty_line(data)
            if rest is None or not rest:
                self._skipped = rest is not None
                self._input = data if rest is None else b""
                self._await_head()
                return False
            self._skipped = len(rest) < len(data)
            self._input = data = rest
        end = request_head_end(data, self._scanned, limits.head)
        if end < 0:
            if not self._scanned:
                self._await_head()
            self._scanned = len(data)
            return False
        self._scanned = 0
        self._skipped = False
        if end == len(data):
            head = parse_request_head(data, limits.headers)
            self._input = b""
        else:
            head = parse_request_head(data[:end], limits.headers)
            self._input = data[end:]
        self._body = body = body_of(head.block)
        self._payload = b""
        if body is not None and self._input:
            try:
                self._payload, self._input, done = body.feed(self._input)
            except BadMessage as error:
                raise BadRequest(error.reason) from None
            if done:
                self._body = None
        self._begin(head)
        return True

    def _await_head(self) -> None:
        """The first bytes of a head: from here on it has a time limit as a whole."""
        if not self._full:
            self.deadline = self._proxy.sweeper.after(self._proxy.limits.header)

    def _begin(self, head: RequestHead) -> None:
        proxy = self._proxy
        proxy.stats.requests += 1
        self._head = head
        self._persist = False
        self.deadline = NEVER
        self._state = HOLD
        request = head.request(proxy.scheme, self._address)
        decision = proxy.authorizer.decide(request)
        if decision is not None:
            self._decided(request, decision)
            return
        task = asyncio.get_running_loop().create_task(proxy.authorizer.resolve(request))
        self._task = task
        task.add_done_callback(partial(self._resolved, request))

    def _resolved(self, request: Request, task: asyncio.Task[Decision]) -> None:
        """The cold path's end."""
        if task is not self._task:
            return  # the client went away
        self._task = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            # A defect of ours: the request must not go on, and we must hear of it.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "deciding failed", "exception": error, "protocol": self}
            )
            self._last_words(answers.undecided())
            return
        self._decided(request, task.result())

    def _decided(self, request: Request, decision: Decision) -> None:
        outcome = decision.outcome
        if isinstance(outcome, Permit):
            proxy = self._proxy
            exchange = Exchange(self, proxy.pool, self._head, request, decision)
            self._exchange = exchange
            payload, self._payload = self._payload, b""
            exchange.start(outcome, proxy.names(), payload, self._body is None)
            return
        answer = refusal(outcome, request, decision.id)
        self.finished(request, decision, answer.status, 0.0)
        self._answer(answer)

    # -- request bodies

    def upload_ready(self) -> None:
        """The upstream has the head and what came along; now the rest of the body."""
        self._state = BODY
        body = self._body
        if (
            self._head.block.expect_continue
            and not self._input
            and body is not None
            and body.fresh()
        ):
            self.write(CONTINUE)
        if not self._full:
            self.deadline = self._proxy.sweeper.after(self._proxy.limits.body)
        self._adjust()
        data, self._input = self._input, b""
        if data:
            self._upload(data)
        if self._eof and self._state is BODY:
            self._bad_body("body ended early")

    def upload_writable(self, writable: bool) -> None:
        """Whether the upstream keeps up."""
        self._throttled = not writable
        self._adjust()
        if self._state is BODY and not self._full:
            self._rearm()

    def _upload(self, data: bytes) -> None:
        body, exchange = self._body, self._exchange
        if body is None or exchange is None:
            return
        try:
            payload, rest, done = body.feed(data)
        except BadMessage as error:
            self._bad_body(error.reason)
            return
        if done:
            self._body = None
            self._input = rest
            self._state = HOLD
            if not self._full:
                self.deadline = NEVER
            if not self._reading:
                self._adjust()
        elif not self._full:
            self.deadline = self._proxy.sweeper.after(self._proxy.limits.body)
        if payload or done:
            exchange.upload(payload, done)

    def _bad_body(self, reason: str) -> None:
        """The upstream never sees a complete request; the client learns why if it still can."""
        self._proxy.stats.bad_request(reason)
        self._break_off(400, answers.bad_request(BadRequest(reason)))

    def _break_off(self, status: int, answer: Answer) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.abandon(status):
            self._reset()
        else:
            self._last_words(answer)

    def _drain(self, data: bytes) -> None:
        """Drop the rest of a refused request's body; beyond the bound the connection ends."""
        body = self._body
        self._dropped += len(data)
        if body is None or self._dropped > self._proxy.limits.drain:
            self._linger()
            return
        try:
            _, self._input, done = body.feed(data)
        except BadMessage:
            self._linger()
            return
        if done:
            self._body = None
            self._next()

    # -- responses

    def may_persist(self, request_done: bool) -> bool:
        """Whether the connection can go on after this response."""
        return request_done and self._head.block.keep_alive and not self._proxy.draining

    def persist(self, keep_alive: bool) -> None:
        """What the response's head told the client."""
        self._persist = keep_alive

    def write(self, data: bytes) -> None:
        self._proxy.stats.bytes_sent += len(data)
        self._transport.write(data)

    def finished(
        self, request: Request, decision: Decision, status: int, upstream_seconds: float
    ) -> None:
        self._proxy.authorizer.finished(request, decision, status, upstream_seconds)

    def response_done(self, request_done: bool) -> None:
        """The exchange is over; the response is whole."""
        self._exchange = None
        self._throttled = False
        if self._persist and request_done:
            self._next()
        elif request_done and not self._head.block.keep_alive:
            self._close()  # as the client asked: it sends no more
        else:
            self._linger()

    def response_broken(self) -> None:
        """The response had begun and cannot be finished."""
        self._exchange = None
        self._reset()

    def no_response(self, failure: Failure, request: Request, decision: Decision) -> None:
        """The upstream failed before a response began."""
        self._exchange = None
        self._throttled = False
        answer = answers.upstream_failed(failure, decision.id)
        self.finished(request, decision, answer.status, 0.0)
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        """Answer by ourselves; keep the connection if the rest of the request is cheap to read."""
        head, body = self._head, self._body
        keep_alive = head.block.keep_alive and not self._proxy.draining
        if body is not None:
            # RFC 9110 section 10.1.1: after a refusal the expected body may or may not follow.
            unsure = head.block.expect_continue and body.fresh() and not self._input
            long = isinstance(body, LengthBody) and body.left > self._proxy.limits.drain
            if unsure or long or self._eof:
                keep_alive = False
        self.write(
            answer_bytes(
                answer, version=head.version, keep_alive=keep_alive, body=head.method != "HEAD"
            )
        )
        if not keep_alive:
            if body is None and not head.block.keep_alive:
                self._close()
            else:
                self._linger()
        elif body is None:
            self._next()
        else:
            self._state = DRAIN
            self._dropped = 0
            self._rearm()
            self._adjust()
            data, self._input = self._input, b""
            if data:
                self._drain(data)

    def _next(self) -> None:
        """Ready for the next request."""
        self._state = HEAD
        proxy = self._proxy
        if proxy.draining:
            self._linger()
            return
        if not self._full:
            self.deadline = proxy.sweeper.after(proxy.limits.idle)
        if self._input or self._eof or not self._reading:
            self._pump()

    # -- ends

    def _last_words(self, answer: Answer) -> None:
        """An answer after which nothing more is read from this client."""
        if self._state is CLOSED:
            return
        self.write(answer_bytes(answer, version=1, keep_alive=False))
        self._linger()

    def _linger(self) -> None:
        """End our side; go on reading for a while (RFC 9112 section 9.6)."""
        self._input = b""
        self._body = None
        self._dropped = 0
        if self._eof:
            self._close()
            return
        self._state = LINGER
        self.deadline = self._proxy.sweeper.after(self._proxy.limits.linger)
        self._adjust()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        """Close when everything is written; the deadline guards against a client not reading."""
        self._state = CLOSED
        self._input = b""
        self._pending = -1
        self.deadline = self._proxy.sweeper.after(self._proxy.limits.send)
        self._transport.close()

    def _reset(self) -> None:
        """End so that no client takes a cut response for a whole one."""
        self._state = CLOSED
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Drain: nothing is under way here."""
        if self._state is HEAD and not self._input:
            self._close()

    def abort(self) -> None:
        """Drain: the time is up."""
        self._transport.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        pending = self._transport.get_write_buffer_size()
        if pending:
            if pending != self._pending:
                self._pending = pending
                self.deadline = self._proxy.sweeper.after(self._proxy.limits.send)
            else:
                self._expired("send")
                self._reset()
            return
        state = self._state
        if state is HEAD:
            if self._input or self._skipped:
                self._expired("header")
                self._last_words(answers.request_timeout())
            else:
                self._expired("idle")
                self._close()
        elif state is BODY:
            self._expired("body")
            self._break_off(408, answers.request_timeout())
        elif state is DRAIN:
            self._expired("body")
            self._linger()
        elif state is HOLD:
            self.deadline = NEVER
        else:
            self._expired("linger")
            self._transport.abort()

    def _expired(self, kind: str) -> None:
        self.deadline = NEVER
        self._proxy.stats.timeout(kind)

    # -- within

    def _rearm(self) -> None:
        """Set the deadline that belongs to the state, once the client takes bytes again."""
        limits, after = self._proxy.limits, self._proxy.sweeper.after
        state = self._state
        if state is HEAD:
            self.deadline = after(limits.header if self._input else limits.idle)
        elif state is DRAIN or (state is BODY and not self._throttled):
            self.deadline = after(limits.body)
        elif state is LINGER:
            self.deadline = after(limits.linger)
        elif state is not CLOSED:
            self.deadline = NEVER

    def _adjust(self) -> None:
        """Read from the socket exactly when there is room for what would come."""
        state = self._state
        if state is BODY:
            wanted = not self._throttled
        elif state is HOLD or self._behind:
            wanted = len(self._input) < self._proxy.limits.pipelined
        else:
            wanted = True
        if wanted is self._reading or self._eof or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
