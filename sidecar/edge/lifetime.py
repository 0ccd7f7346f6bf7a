"""How a client connection lives and ends: what it writes, its deadlines, lingering, resets.

A connection never ends such that its client could take a cut response for a whole one, nor such
that an answer already written is lost to a reset. What arrives is `connection`'s business.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final

from sidecar.decide.challenge import Answer
from sidecar.edge import answers
from sidecar.edge.forward import answer as answer_bytes
from sidecar.edge.sweeper import NEVER

if TYPE_CHECKING:
    from sidecar.edge.proxy import Proxy

# The states; `connection` says what they mean.
HEAD: Final = "head"
HOLD: Final = "hold"
GATHER: Final = "gather"
BODY: Final = "body"
DRAIN: Final = "drain"
LINGER: Final = "linger"
CLOSED: Final = "closed"

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


def reset(transport: asyncio.Transport) -> None:
    """End such that the peer does not take what it has for the whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


class Lifetime(asyncio.Protocol):
    """The part of a client connection that knows no HTTP but its own last words."""

    __slots__ = (
        "_behind", "_dropped", "_eof", "_full", "_input", "_pace", "_pending", "_proxy",
        "_reading", "_skipped", "_state", "_throttled", "_transport", "cutoff", "deadline",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.deadline = NEVER  # for what we wait for at the moment
        self.cutoff = NEVER  # for the whole of the exchange under way
        self._state = HEAD
        self._input = b""  # bytes not yet read as anything
        self._skipped = False  # an empty line before the head
        self._behind = False  # the rest of the input waits for its turn
        self._dropped = 0  # bytes read in DRAIN or LINGER
        self._pace = 0  # bytes of the body read in this window
        self._pending = -1  # unsent bytes when last looked at
        self._eof = False
        self._reading = True
        self._full = False  # the client does not take what we write
        self._throttled = False  # the upstream does not take what we write

    def _break_off(self, status: int, answer: Answer) -> None:
        """Stop the exchange under way: answer if nothing of a response was sent, else reset."""
        raise NotImplementedError

    # -- ends

    def write(self, data: bytes) -> None:
        self._proxy.stats.bytes_sent += len(data)
        self._transport.write(data)

    def _last_words(self, answer: Answer) -> None:
        """An answer after which nothing more is read from this client."""
        if self._state is CLOSED:
            return
        self.write(answer_bytes(answer, version=1, keep_alive=False, date=self._proxy.sweeper.date))
        self._linger()

    def _linger(self) -> None:
        """End our side; go on reading for a while (RFC 9112 section 9.6)."""
        self._input = b""
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
        reset(self._transport)

    def close_if_idle(self) -> None:
        """Drain: nothing is under way here."""
        if self._state is HEAD and not self._input:
            self._close()

    def abort(self) -> None:
        """Drain: the time is up."""
        self._transport.abort()

    def cut_off(self) -> None:
        """The exchange under way takes longer than any may."""
        self.cutoff = NEVER
        self._proxy.stats.timeout("total")
        self._break_off(504, answers.overdue())

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
        elif state is BODY or state is DRAIN or state is GATHER:
            limits = self._proxy.limits
            if self._pace >= limits.body_rate * limits.body_window:
                self._watch_pace()
                return
            self._expired("body")
            if state is DRAIN:
                self._linger()
            else:
                self._break_off(408, answers.request_timeout())
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
        elif state is DRAIN or state is GATHER or (state is BODY and not self._throttled):
            self._watch_pace()
        elif state is LINGER:
            self.deadline = after(limits.linger)
        elif state is not CLOSED:
            self.deadline = NEVER

    def _watch_pace(self) -> None:
        """From here on the body has to come fast enough: a whole window of it, then the next."""
        self._pace = 0
        self.deadline = self._proxy.sweeper.after(self._proxy.limits.body_window)

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
