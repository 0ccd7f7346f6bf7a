"""One permitted request on its way: between a client connection and an upstream connection.

It exists only with a Permit. It writes the upstream's request, the client's response, keeps either
side from outrunning the other, and knows what may still be retried or answered: nothing that looks
like a whole response is ever sent for one that was not.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from sidecar.decide.outcomes import Permit
from sidecar.decide.request import NO_HEADERS, Headers, Request
from sidecar.edge.bodies import LAST_CHUNK, chunk, last_chunk
from sidecar.edge.decision import Decision
from sidecar.edge.forward import (
    client_framing,
    interim_head,
    request_head,
    response_head,
    response_trailers,
    switching_head,
)
from sidecar.edge.http1 import CHUNKED, CLOSE, NONE, Framing, RequestHead
from sidecar.edge.names import RequestNames, end_to_end, late_request_lines
from sidecar.edge.redacting import Inspection
from sidecar.edge.response_head import ResponseHead
from sidecar.edge.upstream import UpstreamPool
from sidecar.edge.upstream_connection import Failure, UpstreamConnection
from sidecar.errors import BadResponse

# RFC 9110 section 9.2.2; PROPFIND and the like are left out on purpose: few, and not sure.
_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))

NO_NAMES: Final = RequestNames()


class Client(Protocol):
    """Who asked: a client connection, as its exchange sees it."""

    def write(self, data: bytes) -> None:
        """Send this to the client."""

    def upload_ready(self) -> None:
        """The upstream has the head and what came along; now the rest of the body."""

    def upload_writable(self, writable: bool) -> None:
        """Whether the upstream keeps up."""

    def may_persist(self, request_done: bool) -> bool:
        """Whether the connection can go on after this response."""

    def persist(self, keep_alive: bool) -> None:
        """What the response's head told the client."""

    def finished(
        self, request: Request, decision: Decision, status: int, upstream_seconds: float
    ) -> None:
        """Once, at the end. Status 0: the client went away first."""

    def response_done(self, request_done: bool) -> None:
        """The exchange is over; the response is whole."""

    def response_broken(self) -> None:
        """The response had begun and cannot be finished."""

    def switched(
        self,
        upstream: UpstreamConnection,
        head: bytes,
        rest: bytes,
        request: Request,
        decision: Decision,
        upstream_seconds: float,
    ) -> None:
        """The exchange is over: `upstream` agreed to speak WebSocket. `head` is its 101 for the
        client, `rest` what came behind it; `finished` is for the client to call."""

    def no_response(self, failure: Failure, request: Request, decision: Decision) -> None:
        """The upstream failed before a response began."""


class Exchange:
    """A `Taker` of one upstream connection. The client calls `start`, `upload` and `abandon`."""

    __slots__ = (
        "_client", "_decision", "_first", "_framing", "_head", "_inspection", "_names", "_over",
        "_pool", "_request", "_request_done", "_retried", "_seconds", "_sent_at", "_status",
        "_upstream",
    )  # fmt: skip

    def __init__(
        self,
        client: Client,
        pool: UpstreamPool,
        head: RequestHead,
        request: Request,
        decision: Decision,
    ) -> None:
        self._client = client
        self._pool = pool
        self._head = head
        self._request = request
        self._decision = decision
        self._first = b""
        self._names = NO_NAMES
        self._request_done = False
        self._retried = False
        self._over = False
        self._upstream: UpstreamConnection | None = None
        self._sent_at = 0.0
        self._seconds = 0.0
        self._status = 0  # of the response that has begun
        self._framing: Framing = NONE
        self._inspection: Inspection | None = None  # of a response that must be redacted

    # -- what the client calls

    @property
    def decision(self) -> Decision:
        """What it goes by."""
        return self._decision

    @property
    def begun(self) -> int:
        """The status of the response once it has begun, 0 before."""
        return self._status

    @property
    def request(self) -> Request:
        """What was decided."""
        return self._request

    def start(
        self,
        permit: Permit,
        names: RequestNames,
        payload: bytes,
        done: bool,
        trailers: Headers = NO_HEADERS,
        assertion: bytes = b"",
    ) -> None:
        """Send the head, with the `payload` that came along; `done`: that is the whole request.

        A WebSocket whose messages would have to be redacted is withheld before it is asked for.
        """
        head, decision = self._head, self._decision
        if permit.obligations.redact:
            names = names.inspected(head.method in ("GET", "HEAD"))
            self._inspection = Inspection(
                self, head, permit.obligations.redact, self._pool.limits, self._pool.stats
            )
            if head.handshake is not None:
                self._pool.stats.withhold("websocket")
                self.withhold()
                return
        self._names = names
        first = request_head(
            head,
            self._request,
            permit,
            names,
            decision_id=decision.id,
            traceparent=decision.traceparent,
            default_host=self._pool.default_host,
            assertion=assertion,
        )
        framed = head.block.framing is not NONE
        self._first = first + self._framed(payload, done, trailers) if framed else first
        self._request_done = done
        upstream = self._pool.take(self)
        if upstream is not None:
            self.upstream_ready(upstream)

    def upload(self, payload: bytes, done: bool, trailers: Headers = NO_HEADERS) -> None:
        """Send more of the body. Only after `ClientConnection.upload_ready`."""
        self._request_done = done
        if self._upstream is not None:
            self._upstream.send_body(self._framed(payload, done, trailers), done)

    def client_writable(self, writable: bool) -> None:
        """Whether the client keeps up with the response."""
        if self._upstream is not None and self._status:
            if writable:
                self._upstream.resume_response()
            else:
                self._upstream.pause_response()

    def abandon(self, status: int) -> bool:
        """Stop: the client is gone (0) or its body is bad (400). Whether a response had begun."""
        self._over = True
        if self._inspection is not None:
            self._inspection.cancel()
        self._drop_upstream()
        begun = self._status != 0
        self._finished(status)
        return begun

    # -- Taker

    def upstream_ready(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        self._sent_at = time.perf_counter()
        done = self._request_done
        upstream.send_request(self._first, self._head.method, done)
        if not done:
            self._first = b""
            self._client.upload_ready()

    def upstream_failed(self, failure: Failure) -> None:
        if self._over:
            return
        upstream, self._upstream = self._upstream, None
        stats = self._pool.stats
        if failure is Failure.CLOSED and upstream is not None and self._repeatable(upstream):
            stats.retries += 1
            self._retried = True
            self._pool.take_new(self)
            return
        stats.upstream_error(failure.value)
        if self._inspection is not None:
            self._inspection.cancel()
        if self._status:
            self._finished(self._status)
            self._client.response_broken()
        else:
            self._client.no_response(failure, self._request, self._decision)

    def upstream_interim(self, head: ResponseHead) -> None:
        # 100 answers an expectation that we met ourselves (RFC 9110 section 15.2.1).
        if head.status != 100 and self._head.version == 1:
            self._client.write(interim_head(head, self._decision.edits.left_out))

    def upstream_switched(self, head: ResponseHead, rest: bytes) -> None:
        handshake, upstream = self._head.handshake, self._upstream
        if handshake is None or upstream is None:
            raise BadResponse("101 to a request that asked for no upgrade")
        switching = switching_head(head, handshake, self._decision.edits)
        self._seconds = time.perf_counter() - self._sent_at
        self._upstream = None
        self._over = True
        self._client.switched(
            upstream, switching, rest, self._request, self._decision, self._seconds
        )

    def upstream_response(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        self._seconds = time.perf_counter() - self._sent_at
        self._first = b""
        if self._inspection is None:
            self._respond(head, payload, done)
        else:
            if done:
                self._let_go()
            self._inspection.begin(head, payload, done)

    def upstream_payload(self, payload: bytes, done: bool) -> None:
        if self._inspection is not None:
            if done:
                self._let_go()
            self._inspection.more(payload, done)
            return
        if self._framing is CHUNKED:
            payload = chunk(payload) + self._last_chunk() if done else chunk(payload)
        if payload:
            self._client.write(payload)
        if done:
            self._end()

    def upstream_writable(self, writable: bool) -> None:
        self._client.upload_writable(writable)

    # -- Inspected

    def inspected(self, head: ResponseHead, body: bytes) -> None:
        self._respond(head, body, True)

    def withhold(self) -> None:
        self._over = True
        self._drop_upstream()
        self._client.no_response(Failure.WITHHELD, self._request, self._decision)

    # -- within

    def _respond(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        self._status = head.status
        client = self._client
        version = self._head.version
        self._framing = framing = client_framing(head, version)
        keep_alive = framing is not CLOSE and client.may_persist(self._request_done)
        data = response_head(
            head,
            version=version,
            keep_alive=keep_alive,
            edits=self._decision.edits,
            date=self._pool.sweeper.date,
        )
        client.persist(keep_alive)
        if framing is CHUNKED:
            data = b"".join((data, chunk(payload), self._last_chunk() if done else b""))
        elif payload:
            data += payload
        client.write(data)
        if done:
            self._end()

    def _framed(self, payload: bytes, done: bool, trailers: Headers) -> bytes:
        block = self._head.block
        if block.framing is not CHUNKED:
            return payload
        if not done:
            return chunk(payload)
        late = b""
        if trailers:
            late = late_request_lines(end_to_end(trailers, block.options), self._names)
        return chunk(payload) + last_chunk(late)

    def _last_chunk(self) -> bytes:
        """The end of the response, with its trailers for a client that asked for them."""
        trailers = self._upstream.trailers() if self._upstream is not None else NO_HEADERS
        if not trailers or not self._head.block.wants_trailers():
            return LAST_CHUNK
        return last_chunk(response_trailers(trailers, self._decision.edits.left_out))

    def _repeatable(self, upstream: UpstreamConnection) -> bool:
        """Whether sending it all again can neither do harm nor lack a piece.

        Only where a used connection ended before any answer: then the upstream had very likely
        closed it before the request came.
        """
        return (
            upstream.reused
            and not upstream.answered
            and not self._retried
            and self._request_done
            and bool(self._first)
            and self._head.method in _IDEMPOTENT
        )

    def _end(self) -> None:
        self._let_go()
        self._finished(self._status)
        self._client.response_done(self._request_done)

    def _let_go(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release(self._request_done)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.discard()
        else:
            self._pool.leave(self)

    def _finished(self, status: int) -> None:
        self._client.finished(self._request, self._decision, status, self._seconds)
