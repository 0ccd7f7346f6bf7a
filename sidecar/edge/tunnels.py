"""All WebSocket tunnels of one proxy: bounded, timed, and held to the policy of the moment.

A tunnel lives as long as its request would be permitted. That is looked at when another snapshot
is adopted: in slices, since ten thousand decisions at once would hold up everybody else. What
cannot be decided for want of facts stays open and is looked at again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.decide.outcomes import Code, Permit, Refuse
from sidecar.decide.request import Request
from sidecar.edge.decision import Decision
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.sweeper import NEVER, Sweeper
from sidecar.edge.tunnel import Cut, Tunnel

if TYPE_CHECKING:
    from sidecar.edge.connection import ClientConnection

SLICE: Final = 0.002  # seconds of reviewing before other work gets its turn
AT_ONCE: Final = 16  # tunnels that facts are fetched for
AGAIN: Final = 10.0  # seconds until what could not be decided is looked at again

# What says nothing of whether the request is permitted.
_UNDECIDED: Final = frozenset((Code.UNAVAILABLE, Code.TOO_MANY_REQUESTS))


class Reviewer(Protocol):
    """Who decides; the proxy's authorizer."""

    def review(self, request: Request) -> Permit | Refuse | None:
        """What would be decided now, or None where `reconsider` must be awaited."""

    async def reconsider(self, request: Request) -> Permit | Refuse:
        """The same, after fetching what it needs."""

    def finished(
        self, request: Request, decision: Decision, status: int, upstream_seconds: float
    ) -> None:
        """Once per decided request, at its end."""


class Tunnels:
    """One per proxy. `clock` is the authorizer's: seconds since the epoch."""

    def __init__(
        self,
        reviewer: Reviewer,
        limits: Limits,
        stats: ProxyStats,
        sweeper: Sweeper,
        left: Callable[[ClientConnection], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`left` hears of each client connection that is gone."""
        self.limits = limits
        self.stats = stats
        self.sweeper = sweeper
        self._reviewer = reviewer
        self._client_left = left
        self._clock = clock
        self._all: set[Tunnel] = set()
        self._draining = False
        self._to_review: deque[Tunnel] = deque()
        self._reviewing = False  # a slice of it is due
        self._unsure: set[Tunnel] = set()  # looked at again at `_again`
        self._again = NEVER
        self._waiting: dict[Tunnel, None] = {}  # in order, for `_task`, which fetches facts
        self._task: asyncio.Task[None] | None = None
        sweeper.watch(self.sweep)

    def room(self) -> bool:
        """Whether there may be one more; if not, it counts as refused."""
        if len(self._all) < self.limits.tunnels:
            return True
        self.stats.tunnels_refused += 1
        return False

    def joined(self, tunnel: Tunnel) -> None:
        """One more, just begun."""
        self._all.add(tunnel)
        self.stats.tunnels += 1
        self.stats.tunnels_open = len(self._all)
        if self._draining:
            tunnel.cut(Cut.DRAIN)
        else:
            self.look(tunnel)  # it was decided a while ago: the upstream took its time

    def left(self, tunnel: Tunnel) -> None:
        """One less."""
        self._all.discard(tunnel)
        self._unsure.discard(tunnel)
        self.stats.tunnels_open = len(self._all)

    def finished(
        self,
        request: Request,
        decision: Decision,
        upstream_seconds: float,
        connection: ClientConnection,
    ) -> None:
        """Its client is gone."""
        self._reviewer.finished(request, decision, 101, upstream_seconds)
        self._client_left(connection)

    def all(self) -> list[Tunnel]:
        """Those of the moment."""
        return list(self._all)

    def drain(self) -> None:
        """End all of them, and any that is still to come."""
        self._draining = True
        for tunnel in list(self._all):
            tunnel.cut(Cut.DRAIN)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._task is not None:
            self._task.cancel()
        for tunnel in list(self._all):
            tunnel.abort()

    def sweep(self, now: float) -> None:
        """End what is overdue."""
        wall = self._clock()
        interval = self.sweeper.interval
        for tunnel in [
            each
            for each in self._all
            if each.deadline <= now
            or each.expires <= wall
            or each.heard + each.patience + interval <= now
        ]:
            if tunnel.deadline <= now:
                tunnel.expire()
            elif tunnel.cutting or tunnel.ending:
                continue  # which has its own deadline
            elif tunnel.expires <= wall:
                self._expired(tunnel)
            else:
                tunnel.cut(Cut.IDLE)
        if self._again <= now:
            self._again = NEVER
            self._enqueue(self._unsure)

    # -- whether they are still permitted

    def review(self) -> None:
        """Another snapshot decides: look at all of them again."""
        self._to_review.clear()
        self._enqueue(self._all)

    def _enqueue(self, tunnels: set[Tunnel]) -> None:
        self._to_review.extend(tunnels)
        if self._to_review and not self._reviewing:
            self._reviewing = True
            asyncio.get_running_loop().call_soon(self._review_some)

    def _review_some(self) -> None:
        until = time.perf_counter() + SLICE
        queue = self._to_review
        while queue:
            tunnel = queue.popleft()
            if tunnel in self._all:
                self.look(tunnel)
            if time.perf_counter() >= until:
                break
        self._reviewing = bool(queue)
        if queue:
            asyncio.get_running_loop().call_soon(self._review_some)

    def look(self, tunnel: Tunnel) -> None:
        outcome = self._reviewer.review(tunnel.request)
        if outcome is not None:
            self._judge(tunnel, outcome)
            return
        self._doubt(tunnel)  # should the fetch fail in a way that nobody foresaw
        self._waiting[tunnel] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._reconsider())
            self._task.add_done_callback(self._reconsidered)

    async def _reconsider(self) -> None:
        """A few at a time: those that need the same facts share their fetching."""
        try:
            while self._waiting:
                some = [each for each in list(self._waiting)[:AT_ONCE] if each in self._all]
                for each in list(self._waiting)[:AT_ONCE]:
                    del self._waiting[each]
                outcomes = await asyncio.gather(
                    *(self._reviewer.reconsider(each.request) for each in some)
                )
                for each, outcome in zip(some, outcomes, strict=True):
                    if each in self._all:
                        self._judge(each, outcome)
        finally:
            self._task = None  # here and now: who comes next must not wait for this one

    @staticmethod
    def _reconsidered(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "reviewing tunnels failed", "exception": task.exception()}
            )

    def _judge(self, tunnel: Tunnel, outcome: Permit | Refuse) -> None:
        self._unsure.discard(tunnel)
        if isinstance(outcome, Permit) and outcome.obligations.redact:
            tunnel.cut(Cut.POLICY)  # frames are not looked through
        elif isinstance(outcome, Permit):
            self._prolong(tunnel, outcome)
        elif outcome.code not in _UNDECIDED:
            tunnel.cut(Cut.EXPIRED if tunnel.expires <= self._clock() else Cut.POLICY)
        else:
            self._doubt(tunnel)

    def _doubt(self, tunnel: Tunnel) -> None:
        """Look at it again later."""
        if tunnel in self._all:
            self._unsure.add(tunnel)
            if self._again == NEVER:
                self._again = self.sweeper.after(AGAIN)

    @staticmethod
    def _prolong(tunnel: Tunnel, permit: Permit) -> None:
        """It goes on: for as long as whom the upstream was told of is known to be the caller."""
        tunnel.overtime = False
        told = tunnel.decision.outcome.identity
        if permit.identity == told or permit.observed is not None:
            tunnel.expires = permit.expires
        else:
            tunnel.expires = min(tunnel.expires, permit.expires)

    def _expired(self, tunnel: Tunnel) -> None:
        """What it hangs on was believed until now: look again whether it still stands.

        An opaque token may be asked about anew. Where nobody can say, the tunnel goes on once more,
        for `AGAIN` seconds and never beyond the token's own end: its issuer may just be restarting.
        Where refusals are only logged (mode `observe`) nothing ends.
        """
        wall = self._clock()
        outcome = self._reviewer.review(tunnel.request)
        if isinstance(outcome, Permit) and not outcome.obligations.redact:
            self._prolong(tunnel, outcome)
            if tunnel.expires > wall:
                return
        undecided = outcome is None or (isinstance(outcome, Refuse) and outcome.code in _UNDECIDED)
        ends = tunnel.ends()
        if undecided and wall < ends and not tunnel.overtime:
            tunnel.overtime = True
            tunnel.expires = min(ends, wall + AGAIN)
            self.look(tunnel)
        else:
            tunnel.cut(Cut.EXPIRED)
