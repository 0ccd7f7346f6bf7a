"""The pool of connections to the upstream: bounded, the latest used first.

Whoever wants a request answered is a `Taker`. It asks the pool for a connection and gets one at
once (the usual, warm case), or is called back.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from sidecar.edge.address import Address
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.sweeper import NEVER, Sweeper
from sidecar.edge.upstream_connection import Failure, Taker, UpstreamConnection

_log: Final = logging.getLogger("sidecar.upstream")


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
        self._told = 0  # how many are counted as open; other pools may count beside us
        self.closed = False  # whoever holds it must ask for another
        self._generation = 0  # of connections; those of an earlier one are not used again
        self._tls_failure = ""  # the last one, which is said once
        sweeper.watch(self.sweep)

    def choose(self, transport: asyncio.BaseTransport) -> UpstreamPool:
        """Where the requests of a connection just accepted go: to where all others do."""
        return self

    def busy(self) -> bool:
        """Whether a request is under way, or waits."""
        return bool(self._waiting or self._opening) or len(self._all) > len(self._idle)

    def ends(self) -> list[Any]:
        """Our ends of all connections, as loops name them."""
        return [each.transport.get_extra_info("sockname") for each in self._all]

    def take(self, taker: Taker) -> UpstreamConnection | None:
        """An idle connection, now. None: `taker` is in line and will be called.

        The kernel is asked whether something waits to be read there: an end, after which a request
        may not be sent again, or bytes out of turn, which must not become somebody's answer.
        """
        while self._idle:
            upstream = self._idle[-1]
            if upstream.transport.is_closing() or not upstream.quiet():
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
        if self.closed or len(self._waiting) >= self.limits.upstream_waiting:
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

    def renew(self) -> None:
        """Open new connections from now on; those in use finish what they are at."""
        self._generation += 1
        for upstream in list(self._idle):
            upstream.discard()

    def close(self) -> None:
        """End everything. Exchanges still under way fail."""
        self.closed = True
        self.sweeper.unwatch(self.sweep)
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
        self._tls_failure = ""
        self._all.add(upstream)
        self.stats.upstream_created += 1
        self._give(upstream)

    def idle(self, upstream: UpstreamConnection) -> None:
        """A connection is free again."""
        upstream.reused = True
        if self._waiting and (upstream.transport.is_closing() or not upstream.quiet()):
            upstream.discard()  # as in `take`; who waits gets a new one
            return
        self._give(upstream)

    def lost(self, upstream: UpstreamConnection) -> None:
        """A connection is gone."""
        if upstream in self._all:
            self._all.remove(upstream)
            if upstream in self._idle:
                self._idle.remove(upstream)
                self.stats.upstream_idle -= 1
            self._open()

    def _give(self, upstream: UpstreamConnection) -> None:
        if upstream.generation != self._generation:
            upstream.discard()
        elif self._waiting:
            taker, _ = self._waiting.popleft()
            self.stats.upstream_waiting -= 1
            upstream.taker = taker
            if upstream.reused:
                self.stats.upstream_reused += 1
            self._counted()
            taker.upstream_ready(upstream)
        elif len(self._idle) >= self.limits.upstream_idle or self.closed:
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
        while len(self._opening) < len(self._waiting) and self._room() and not self.closed:
            one = partial(UpstreamConnection, self, self._generation)
            task = asyncio.get_running_loop().create_task(self._connect(one))
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
            if isinstance(error, ssl.SSLError):
                failure = Failure.TLS
                self._untrusted(str(error))
            elif error is not None:
                failure = Failure.CONNECT
                if not isinstance(error, OSError):  # a defect, not a network
                    _log.error("connecting to %s failed", self.address.authority, exc_info=error)
        self._counted()
        if failure is not None:
            self._fail_waiting(1, failure)
        self._open()

    def _untrusted(self, why: str) -> None:
        if why != self._tls_failure:
            self._tls_failure = why
            _log.error("TLS to %s failed: %s", self.address.authority, why)

    def _fail_waiting(self, count: int, failure: Failure) -> None:
        for _ in range(min(count, len(self._waiting))):
            taker, _ = self._waiting.popleft()
            self.stats.upstream_waiting -= 1
            taker.upstream_failed(failure)

    def _counted(self) -> None:
        now = len(self._all) + len(self._opening)
        self.stats.upstream_open += now - self._told
        self._told = now
