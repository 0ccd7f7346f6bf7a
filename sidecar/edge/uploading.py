"""The way of a request's body: from the client to its exchange, held before where it is decided on,
or, refused, into nothing.

Part of a client connection; `connection` draws the states.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.decide.outcomes import NeedBody
from sidecar.decide.request import CROWDED, NO_HEADERS, TOO_LARGE, Unread
from sidecar.edge import answers
from sidecar.edge.bodies import Body, LengthBody, trailers_of
from sidecar.edge.exchange import Exchange
from sidecar.edge.forward import CONTINUE
from sidecar.edge.http1 import RequestHead
from sidecar.edge.lifetime import BODY, GATHER, HOLD, Lifetime
from sidecar.edge.sweeper import NEVER
from sidecar.errors import BadMessage, BadRequest

if TYPE_CHECKING:
    from sidecar.edge.proxy import Proxy


class Uploading(Lifetime):
    """The part of a client connection that knows what belongs to the body at hand."""

    __slots__ = (
        "_awaited",
        "_body",
        "_exchange",
        "_gathered",
        "_head",
        "_held",
        "_payload",
        "_trailers",
        "_wanted",
    )

    _head: RequestHead

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._body: Body | None = None  # of the request at hand, until it has ended
        self._exchange: Exchange | None = None
        self._payload = b""  # of the body, from the read that brought the head, or gathered
        self._trailers = NO_HEADERS  # likewise
        self._gathered: list[bytes] = []
        self._held = 0  # bytes of it that count as held
        self._wanted = 0  # how many may be
        self._awaited: asyncio.Future[bytes | Unread] | None = None

    async def read_body(self, want: NeedBody) -> bytes | Unread:
        """The whole body of the request at hand, which is held to be decided on and passed on.

        What was read of one that is too large is kept for the upstream all the same.
        """
        body, payload = self._body, self._payload
        if len(payload) > want.limit:
            return TOO_LARGE
        if body is None:
            return payload
        if want.optional and not isinstance(body, LengthBody):
            # It may not end before its service answers, and no shadow may keep it from that.
            return TOO_LARGE
        if isinstance(body, LengthBody) and body.left + len(payload) > want.limit:
            return TOO_LARGE
        if not self._hold(len(payload)):
            return CROWDED
        self._gathered = [payload] if payload else []
        self._wanted = want.limit
        awaited: asyncio.Future[bytes | Unread] = asyncio.get_running_loop().create_future()
        self._awaited = awaited
        self._state = GATHER
        if self._head.block.expect_continue and not self._input and body.fresh():
            self.write(CONTINUE)
        if not self._full:
            self._watch_pace()
        self._adjust()
        data, self._input = self._input, b""
        if data:
            self._gather(data)
        if self._eof and self._state is GATHER:
            self._bad_body("body ended early")
        return await awaited

    def _hold(self, size: int) -> bool:
        """Count so many bytes more as held; False: more than may be, of all requests."""
        stats = self._proxy.stats
        if stats.bodies_held + size > self._proxy.limits.bodies_held:
            stats.bodies_refused += 1
            return False
        stats.bodies_held += size
        self._held += size
        return True

    def _release(self) -> None:
        """What was held is the upstream's now, who answers, or dropped."""
        self._proxy.stats.bodies_held -= self._held
        self._held = 0

    def _gather(self, data: bytes) -> None:
        """More of a body that is to be decided on."""
        body = self._body
        if body is None:
            return
        self._pace += len(data)
        try:
            payload, rest, done = body.feed(data)
        except BadMessage as error:
            self._bad_body(error.reason)
            return
        self._gathered.append(payload)
        held = self._hold(len(payload))
        if done:
            self._trailers = trailers_of(body)
            self._body = None
        self._input = rest
        if done or not held or self._held > self._wanted:
            self._payload = b"".join(self._gathered)
            self._gathered = []
            self._state = HOLD
            if not self._full:
                self.deadline = NEVER
            self._adjust()
            awaited, self._awaited = self._awaited, None
            if awaited is not None and not awaited.done():
                large = self._held > self._wanted
                awaited.set_result(CROWDED if not held else TOO_LARGE if large else self._payload)

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
