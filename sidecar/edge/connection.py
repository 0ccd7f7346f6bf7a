"""One client connection: reads requests one at a time, has them decided, answers in order.

The states, and what arriving bytes are then:

    HEAD    the beginning of a request                       -> HOLD, or LINGER after a bad one
    HOLD    kept, up to a bound: a request is being decided,
            waits for an upstream connection or is answered   -> BODY, HEAD, DRAIN, LINGER
    GATHER  more of a body that is decided on, kept            -> HOLD when it is whole or too much
    BODY    more of the body, passed on                       -> HOLD when it is whole, or LINGER
    DRAIN   the rest of a body whose request we answered
            ourselves, dropped                                -> HEAD, or LINGER beyond a bound
    LINGER  dropped, so that the client can read our last
            answer before the connection is reset             -> CLOSED
    CLOSED  nothing; every state leads here when a side ends, and HOLD when a tunnel takes over

A warm request is handled within one call of `data_received`: no task, no future, no timer.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.decide.challenge import Answer, refusal
from sidecar.decide.outcomes import Code, Permit, Refuse
from sidecar.decide.request import NO_HEADERS, Request
from sidecar.decide.workloads import Certificate
from sidecar.edge import answers, assertions
from sidecar.edge.bodies import LengthBody, body_of, trailers_of
from sidecar.edge.callers import told
from sidecar.edge.decision import Decision
from sidecar.edge.destinations import Destination
from sidecar.edge.exchange import Exchange
from sidecar.edge.forward import answer as answer_bytes
from sidecar.edge.http1 import (
    RequestHead,
    parse_request_head,
    request_head_end,
    skip_empty_line,
)
from sidecar.edge.lifetime import BODY, CLOSED, DRAIN, GATHER, HEAD, HOLD, LINGER
from sidecar.edge.sweeper import NEVER
from sidecar.edge.tunnel import Tunnel
from sidecar.edge.uploading import Uploading
from sidecar.edge.upstream import UpstreamPool
from sidecar.edge.upstream_connection import Failure, UpstreamConnection
from sidecar.errors import BadMessage, BadRequest

if TYPE_CHECKING:
    from sidecar.edge.proxy import Proxy

WITHDRAWN: Final = Refuse(
    Code.INVALID_TOKEN, "revoked", "The credential was withdrawn.", presented=True
)
_OWN: Final = len(assertions.PATH)
_TURNS: Final = 16  # pipelined requests begun before other connections get their turn


class ClientConnection(Uploading):
    """The client's side. Exchanges call its public methods; so does the proxy's sweeper."""

    __slots__ = (
        "_address", "_certificate", "_destination", "_open", "_persist", "_pool", "_pumping",
        "_scanned", "_task", "_trusted",
    )  # fmt: skip

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._address = ""
        self._trusted = False  # the peer is a proxy of ours
        self._certificate: Certificate | None = None  # that the peer has shown
        self._pool: UpstreamPool | None = None  # where its requests go
        self._destination: Destination | None = None  # likewise, where each client has its own
        self._scanned = 0  # of the input, for the end of a head
        self._task: asyncio.Task[Decision] | None = None
        self._persist = True
        self._pumping = False
        self._open = False  # the request at hand counts as in flight

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio says BaseTransport; that of a stream can write.
        self._transport = transport  # type: ignore[assignment]
        limits = self._proxy.limits
        self._transport.set_write_buffer_limits(limits.buffer_high, limits.buffer_low)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            # A dual-stack socket shows IPv4 as ::ffff:…; a zone says nothing to anyone else.
            self._address = str(peer[0]).partition("%")[0].removeprefix("::ffff:")
            self._trusted = self._proxy.trusted.trust(self._address)
        self.deadline = self._proxy.sweeper.after(limits.idle)
        if not self._proxy.joined(self):
            self._last_words(answers.too_many_connections())
            return
        chosen = self._proxy.upstreams.choose(transport)
        if isinstance(chosen, Answer):
            self._last_words(chosen)
            return
        if isinstance(chosen, Destination):
            self._destination = chosen
        else:
            self._pool = chosen
        if self._proxy.callers is not None:
            self._certificate = self._proxy.callers.shown(transport.get_extra_info("ssl_object"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = CLOSED
        self.deadline = NEVER
        self._input = b""
        self._proxy.left(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._proxy.stats.client_aborts += 1
        self._settled()
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
        if state is BODY or state is GATHER:
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
        elif state is GATHER:
            self._gather(data)
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
        self._trailers = NO_HEADERS
        if body is not None and self._input:
            try:
                self._payload, self._input, done = body.feed(self._input)
            except BadMessage as error:
                raise BadRequest(error.reason) from None
            if done:
                self._trailers = trailers_of(body)
                self._body = None
        self._begin(head)
        return True

    def _await_head(self) -> None:
        """The first bytes of a head: from here on it has a time limit as a whole."""
        if not self._full:
            self.deadline = self._proxy.sweeper.after(self._proxy.limits.header)

    def _begin(self, head: RequestHead) -> None:
        proxy = self._proxy
        stats, limits = proxy.stats, proxy.limits
        stats.requests += 1
        self._head = head
        self._persist = False
        self.deadline = NEVER
        self._state = HOLD
        if stats.in_flight >= limits.in_flight:
            stats.shed += 1
            self._answer(answers.shed())
            return
        stats.in_flight += 1
        self._open = True
        if limits.total:
            self.cutoff = proxy.sweeper.after(limits.total)
        certificate = self._certificate
        if self._trusted and proxy.told:  # then the caller is who the proxy speaks for, or nobody
            certificate = told(head.block, proxy.told)
        if self._trusted and head.block.forwarded is not None:
            origin = proxy.trusted.origin(self._address, proxy.scheme, head.block.forwarded)
            request = head.request(origin.scheme, origin.address, origin.chain, certificate)
        else:
            request = head.request(proxy.scheme, self._address, "", certificate)
        answer = None
        if request.method == "OPTIONS":
            answer = proxy.authorizer.preflight(request)
        elif len(request.path) == _OWN:
            answer = proxy.authorizer.published(request)
        if answer is not None:
            self._answer(answer)
            return
        decision = proxy.authorizer.decide(request)
        if decision is not None:
            self._decided(request, decision)
            return
        task = asyncio.get_running_loop().create_task(
            proxy.authorizer.resolve(request, self.read_body)
        )
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
            self._settled()
            self._last_words(answers.undecided())
            return
        self._decided(request, task.result())

    def _decided(self, request: Request, decision: Decision) -> None:
        outcome = decision.outcome
        if type(outcome) is Permit:
            proxy = self._proxy
            if self._head.handshake is not None and not proxy.tunnels.room():
                self._own(answers.too_many_tunnels(decision.id), request, decision)
                return
            if request.method == "OPTIONS" and self._head.block.hops() == 0:
                self._own(answers.last_hop(decision.id), request, decision)
                return
            pool = self._pool
            if pool is None or pool.closed:
                pool = self._choose()
                if pool is None:
                    self._own(answers.too_many_destinations(decision.id), request, decision)
                    return
            exchange = Exchange(self, pool, self._head, request, decision)
            self._exchange = exchange
            payload, self._payload = self._payload, b""
            exchange.start(
                outcome,
                proxy.names(outcome),
                payload,
                self._body is None,
                self._trailers,
                proxy.authorizer.assertion(outcome),
            )
            return
        self._own(refusal(outcome, request, decision.id), request, decision)

    def _choose(self) -> UpstreamPool | None:
        """The pool that this client's requests go to from here on; None: there are too many.

        Not before one is permitted: nobody else takes one of the few there may be.
        """
        if self._destination is not None:
            self._pool = self._destination.pool()
        return self._pool

    def _own(self, answer: Answer, request: Request, decision: Decision) -> None:
        """What was decided is answered here."""
        answer.headers.extend(decision.said)
        self.finished(request, decision, answer.status, 0.0)
        self._answer(answer)

    # -- ends

    def _break_off(self, status: int, answer: Answer) -> None:
        self._body = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._settled()
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.abandon(status):
            self._reset()
        else:
            self._last_words(answer)

    def permitted(self) -> Permit | None:
        """What the exchange under way goes by, if there is one."""
        exchange = self._exchange
        if exchange is None:
            return None
        outcome = exchange.decision.outcome
        return outcome if type(outcome) is Permit else None

    def withdraw(self) -> None:
        """The credential that the exchange under way hangs on was withdrawn."""
        exchange = self._exchange
        if exchange is not None:
            answer = refusal(WITHDRAWN, exchange.request, exchange.decision.id)
            answer.headers.extend(exchange.decision.said)
            self._break_off(exchange.begun or answer.status, answer)

    def doubt(self) -> None:
        """What the exchange under way was decided on has changed. What cannot be decided at once
        goes on: whoever can be asked again says so."""
        exchange = self._exchange
        if exchange is None:
            return
        outcome = self._proxy.authorizer.review(exchange.request)
        if type(outcome) is Refuse and outcome.code is not Code.UNAVAILABLE:
            answer = refusal(outcome, exchange.request, exchange.decision.id)
            answer.headers.extend(exchange.decision.said)
            self._break_off(exchange.begun or answer.status, answer)

    def _settled(self) -> None:
        """The request at hand, if any, is no longer in flight."""
        if self._held:
            self._release()
        if self._open:
            self._open = False
            self._proxy.stats.in_flight -= 1
            self.cutoff = NEVER

    # -- responses

    def may_persist(self, request_done: bool) -> bool:
        """Whether the connection can go on after this response."""
        return request_done and self._head.block.keep_alive and not self._proxy.draining

    def persist(self, keep_alive: bool) -> None:
        """What the response's head told the client; nothing of the request is sent once more."""
        self._persist = keep_alive
        if self._held:
            self._release()

    def finished(
        self, request: Request, decision: Decision, status: int, upstream_seconds: float
    ) -> None:
        self._proxy.authorizer.finished(request, decision, status, upstream_seconds)

    def response_done(self, request_done: bool) -> None:
        """The exchange is over; the response is whole."""
        self._exchange = None
        self._throttled = False
        self._settled()
        if self._persist and request_done:
            self._next()
        elif request_done and not self._head.block.keep_alive and self._head.handshake is None:
            self._close()  # as the client asked: it sends no more
        else:
            self._linger()

    def response_broken(self) -> None:
        """The response had begun and cannot be finished."""
        self._exchange = None
        self._settled()
        self._reset()

    def switched(
        self,
        upstream: UpstreamConnection,
        head: bytes,
        rest: bytes,
        request: Request,
        decision: Decision,
        upstream_seconds: float,
    ) -> None:
        """The upstream agreed to speak WebSocket: from here on the transport is the tunnel's.

        This connection still counts as one, until the tunnel says that its client is gone.
        """
        self._exchange = None
        tunnels = self._proxy.tunnels
        if not tunnels.room():
            upstream.discard()
            self._own(answers.too_many_tunnels(decision.id), request, decision)
            return
        self._settled()
        self._state = CLOSED
        self.deadline = NEVER
        early, self._input = self._input, b""
        outcome = decision.outcome
        expires = outcome.expires if type(outcome) is Permit else 0.0
        tunnel = Tunnel(
            tunnels, self, self._transport, upstream.hand_over(), request, decision,
            upstream_seconds, expires,
        )  # fmt: skip
        tunnel.begin(head, rest, early, self._eof, self._full)

    def no_response(self, failure: Failure, request: Request, decision: Decision) -> None:
        """The upstream failed before a response began."""
        self._exchange = None
        self._throttled = False
        answer = answers.upstream_failed(failure, decision.id)
        answer.headers.extend(decision.said)
        self.finished(request, decision, answer.status, 0.0)
        # After an answer that could be read two ways nothing more is said on either connection.
        self._answer(answer, last=failure is Failure.BAD_RESPONSE)

    def _answer(self, answer: Answer, *, last: bool = False) -> None:
        """Answer by ourselves; keep the connection if the rest of the request is cheap to read."""
        self._settled()
        head, body = self._head, self._body
        keep_alive = head.block.keep_alive and not self._proxy.draining and not last
        if body is not None:
            # RFC 9110 section 10.1.1: after a refusal the expected body may or may not follow.
            unsure = head.block.expect_continue and body.fresh() and not self._input
            long = isinstance(body, LengthBody) and body.left > self._proxy.limits.drain
            if unsure or long or self._eof:
                keep_alive = False
        self.write(
            answer_bytes(
                answer,
                version=head.version,
                keep_alive=keep_alive,
                body=head.method != "HEAD",
                date=self._proxy.sweeper.date,
            )
        )
        if not keep_alive:
            if body is None and not head.block.keep_alive and head.handshake is None:
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
