"""One WebSocket tunnel: two transports, bytes both ways, and an end that both peers understand.

Bytes pass as they come, with no task or timer for any of them; a side that does not keep up stops
the reading of the other. Only a cut says something of its own: a close frame to either side, behind
the frame that is under way there, after which nothing of the other side is passed on. Then the
peers have a moment to answer it.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from sidecar.decide.outcomes import Permit
from sidecar.decide.request import Request
from sidecar.edge.decision import Decision
from sidecar.edge.lifetime import reset
from sidecar.edge.sweeper import NEVER
from sidecar.edge.websocket import GOING_AWAY, POLICY_VIOLATION, Frames, close_frame

if TYPE_CHECKING:
    from sidecar.edge.connection import ClientConnection
    from sidecar.edge.tunnels import Tunnels


class Cut(Enum):
    """Why we end a tunnel; the names are metric labels. Each with what the peers are told."""

    EXPIRED = ("expired", POLICY_VIOLATION, "token expired")
    POLICY = ("policy", POLICY_VIOLATION, "no longer permitted")
    DRAIN = ("drain", GOING_AWAY, "going away")
    IDLE = ("idle", GOING_AWAY, "idle for too long")
    REVOKED = ("revoked", POLICY_VIOLATION, "credential withdrawn")


class Side(asyncio.Protocol):
    """One of the two peers. `frames` are those that it sends."""

    __slots__ = ("_stuck", "_tunnel", "eof", "frames", "full", "gone", "heard_out", "transport")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self._tunnel: Tunnel | None = tunnel  # until the peer is gone, lest a circle stays behind
        self.transport = transport
        self.frames = Frames()
        self.eof = False  # it sends no more
        self.full = False  # it does not take what we write
        self.gone = False  # the connection is lost
        self.heard_out = False  # nothing of it is passed on any more
        self._stuck = -1  # unsent bytes when last looked at

    # -- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.received(self, data)

    def eof_received(self) -> bool:
        self.eof = True
        return self._tunnel is not None and self._tunnel.half_closed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof = self.gone = True
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.lost(self)

    def pause_writing(self) -> None:
        self.full = True
        self._stuck = -1
        if self._tunnel is not None:
            self._tunnel.keeps_up(self, False)

    def resume_writing(self) -> None:
        self.full = False
        if self._tunnel is not None:
            self._tunnel.keeps_up(self, True)

    # -- what the tunnel calls

    def read(self, wanted: bool) -> None:
        """Read from the peer, or leave it waiting."""
        if not self.eof and not self.transport.is_closing():
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def write_eof(self) -> None:
        if not self.transport.is_closing() and self.transport.can_write_eof():
            with suppress(OSError):  # asyncio raises where the peer has reset it meanwhile
                self.transport.write_eof()

    def stuck(self) -> bool:
        """Whether the peer took not one byte since this was last asked."""
        before, self._stuck = self._stuck, self.transport.get_write_buffer_size()
        return self._stuck == before

    def said_close(self) -> bool:
        """Whether its close frame has come as a whole, or never can."""
        frames = self.frames
        return self.eof or frames.broken or (frames.closed and frames.between())


class Tunnel:
    """It lives in `Tunnels` from `begin` until both sides are gone."""

    __slots__ = (
        "_connection", "_cut", "_seconds", "_tunnels", "client", "deadline", "decision", "expires",
        "heard", "overtime", "patience", "request", "upstream",
    )  # fmt: skip

    def __init__(
        self,
        tunnels: Tunnels,
        connection: ClientConnection,
        client: asyncio.Transport,
        upstream: asyncio.Transport,
        request: Request,
        decision: Decision,
        upstream_seconds: float,
        expires: float,
    ) -> None:
        self._tunnels = tunnels
        self._connection = connection
        self._seconds = upstream_seconds
        self._cut: Cut | None = None
        self.request = request
        self.decision = decision
        self.expires = expires  # seconds since the epoch
        self.overtime = False  # it goes on beyond that, since nobody could say whether it may
        self.deadline = NEVER
        self.heard = tunnels.sweeper.now  # when either side sent something
        self.patience = tunnels.limits.tunnel_idle
        self.client = Side(self, client)
        self.upstream = Side(self, upstream)

    @property
    def cutting(self) -> bool:
        """Whether we have begun to end it."""
        return self._cut is not None

    @property
    def ending(self) -> bool:
        """Whether one side is gone; the other gets what is left for it."""
        return self.client.gone or self.upstream.gone

    def permitted(self) -> Permit | None:
        """What it hangs on; None once it ends."""
        outcome = self.decision.outcome
        return outcome if type(outcome) is Permit and self._cut is None else None

    def ends(self) -> float:
        """When its caller's credential does, whatever anybody says (seconds since the epoch)."""
        permit = self.permitted()
        if permit is None:
            return 0.0
        ends = [each.ends for each in (permit.verified, permit.beside) if each is not None]
        return min(ends) if ends else permit.expires

    def withdraw(self) -> None:
        """Its caller's credential was withdrawn."""
        self.cut(Cut.REVOKED)

    def doubt(self) -> None:
        """What it was decided on has changed."""
        self._tunnels.look(self)

    def begin(self, head: bytes, rest: bytes, early: bytes, eof: bool, full: bool) -> None:
        """Answer the client with `head`, a 101, and pass on what came meanwhile.

        `rest` is what the upstream sent behind its 101, `early` what the client sent behind its
        request; `eof`: all that it will; `full`: it does not take what we write.
        """
        client, upstream = self.client, self.upstream
        client.transport.set_protocol(client)
        upstream.transport.set_protocol(upstream)
        client.eof = eof
        client.read(True)
        if full:
            client.pause_writing()
        self._write(client, head)
        if rest:
            self.received(upstream, rest)
        if early:
            self._pass_on(client, early)
        if eof and not self.half_closed(client):
            self._close(client)
        self._tunnels.joined(self)

    def cut(self, cut: Cut) -> None:
        """Tell both sides why, as soon as that can be said, and end."""
        if self._cut is not None or self.ending:
            return
        self._cut = cut
        tunnels = self._tunnels
        tunnels.stats.tunnel_cut(cut.value[0])
        self.deadline = tunnels.sweeper.after(tunnels.limits.tunnel_close)
        self._conclude(self.upstream)
        self._conclude(self.client)

    def expire(self) -> None:
        """The deadline has passed."""
        tunnels = self._tunnels
        if self._cut is None and not self.ending:
            stuck = [side for side in (self.client, self.upstream) if side.full and side.stuck()]
            if not stuck:
                self.deadline = tunnels.sweeper.after(tunnels.limits.send)
                return
            tunnels.stats.timeout("send")
        self.deadline = NEVER
        self.abort()

    def abort(self) -> None:
        """End both sides; whoever was not told all it should have been gets a reset."""
        for side in (self.client, self.upstream):
            if self._other(side).heard_out:
                side.transport.abort()
            else:
                reset(side.transport)

    # -- what the sides call

    def received(self, side: Side, data: bytes) -> None:
        tunnels = self._tunnels
        self.heard = tunnels.sweeper.now
        if side is self.client:
            tunnels.stats.bytes_received += len(data)
        self._pass_on(side, data)

    def half_closed(self, side: Side) -> bool:
        """`side` sends no more. True: it may still be sent something."""
        other = self._other(side)
        if self._cut is not None:
            self._conclude(side)
            return not side.transport.is_closing()
        side.heard_out = True
        self.patience = min(self.patience, self._tunnels.limits.idle)
        if other.eof:
            self._close(other)
            return False
        other.write_eof()
        return True

    def lost(self, side: Side) -> None:
        other = self._other(side)
        if self._cut is None or not side.heard_out:
            side.heard_out = True
            self._close(other)
        tunnels = self._tunnels
        if side is self.client:
            tunnels.finished(self.request, self.decision, self._seconds, self._connection)
        if other.gone:
            self.deadline = NEVER
            tunnels.left(self)
        elif self._cut is None:
            self.deadline = tunnels.sweeper.after(tunnels.limits.send)

    def keeps_up(self, side: Side, writable: bool) -> None:
        other = self._other(side)
        other.read(writable or other.heard_out)
        if self._cut is None and not self.ending:
            sweeper, limits = self._tunnels.sweeper, self._tunnels.limits
            some = self.client.full or self.upstream.full
            self.deadline = sweeper.after(limits.send) if some else NEVER

    # -- within

    def _other(self, side: Side) -> Side:
        return self.upstream if side is self.client else self.client

    def _write(self, side: Side, data: bytes) -> None:
        if not side.transport.is_closing():
            if side is self.client:
                self._tunnels.stats.bytes_sent += len(data)
            side.transport.write(data)

    def _pass_on(self, side: Side, data: bytes) -> None:
        if self._cut is None:
            side.frames.feed(data)
            self._write(self._other(side), data)
        else:
            self._last(side, data)

    def _last(self, side: Side, data: bytes) -> None:
        """The rest of the frame that was under way goes on; what follows is only looked at."""
        if not side.heard_out:
            size = side.frames.finish(data)
            if size:
                self._write(self._other(side), data[:size])
            data = data[size:]
            self._conclude(side)
        if data:
            side.frames.feed(data)
            self._farewell(side)

    def _conclude(self, side: Side) -> None:
        """Where nothing of `side` is under way: say a close frame to the other, unless it did."""
        other = self._other(side)
        over = side.said_close()
        if not side.heard_out and (over or side.frames.between()):
            side.heard_out = True
            side.read(True)  # for its answer
            if not over:
                self._write(other, self._words(masked=other is self.upstream))
        self._farewell(side)
        self._farewell(other)

    def _farewell(self, side: Side) -> None:
        """Close a side that was told all, once it has answered (RFC 6455 section 7.1.1).

        Without waiting where it could not be told: the other ended without a close frame.
        """
        other = self._other(side)
        if side.heard_out and other.heard_out:
            untold = other.eof or other.frames.broken
            if untold or side.said_close():
                self._close(side)

    def _words(self, *, masked: bool) -> bytes:
        # For mypy: only called when it is.
        assert self._cut is not None  # noqa: S101
        _, code, reason = self._cut.value
        return close_frame(code, reason, os.urandom(4) if masked else b"")

    @staticmethod
    def _close(side: Side) -> None:
        """Close when everything is written."""
        if not side.transport.is_closing():
            side.transport.close()
