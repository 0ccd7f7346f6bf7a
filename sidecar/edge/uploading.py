"""The way of a request's body: from the client to its exchange, or, refused, into nothing.

Part of a client connection; `connection` draws the states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.decide.request import NO_HEADERS
from sidecar.edge import answers
from sidecar.edge.bodies import Body, trailers_of
from sidecar.edge.exchange import Exchange
from sidecar.edge.forward import CONTINUE
from sidecar.edge.http1 import RequestHead
from sidecar.edge.lifetime import BODY, HOLD, Lifetime
from sidecar.edge.sweeper import NEVER
from sidecar.errors import BadMessage, BadRequest

if TYPE_CHECKING:
    from sidecar.edge.proxy import Proxy


class Uploading(Lifetime):
    """The part of a client connection that knows what belongs to the body at hand."""

    __slots__ = ("_body", "_exchange", "_head")

    _head: RequestHead

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._body: Body | None = None  # of the request at hand, until it has ended
        self._exchange: Exchange | None = None

    def _next(self) -> None:
        """Ready for the next request."""
        raise NotImplementedError

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
            self._watch_pace()
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
        self._pace += len(data)
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
        if payload or done:
            exchange.upload(payload, done, trailers_of(body) if done else NO_HEADERS)

    def _bad_body(self, reason: str) -> None:
        """The upstream never sees a complete request; the client learns why if it still can."""
        self._proxy.stats.bad_request(reason)
        self._break_off(400, answers.bad_request(BadRequest(reason)))

    def _drain(self, data: bytes) -> None:
        """Drop the rest of a refused request's body; beyond the bound the connection ends."""
        body = self._body
        self._dropped += len(data)
        self._pace += len(data)
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
