"""The reverse proxy: listens, holds the client connections, drains.

The straight line of a request: `connection` reads and has it decided, `exchange` forwards it over
an `upstream` connection. A request that is not permitted never opens an upstream connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from sidecar.decide.challenge import Answer
from sidecar.decide.credentials import Location
from sidecar.decide.outcomes import Permit
from sidecar.decide.request import Request
from sidecar.edge import listening
from sidecar.edge.callers import Callers
from sidecar.edge.connection import ClientConnection
from sidecar.edge.decision import Decision
from sidecar.edge.destinations import Destinations
from sidecar.edge.evidence import ReadBody
from sidecar.edge.forwarded import NOBODY, TrustedProxies
from sidecar.edge.handshakes import Handshakes
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.names import RequestNames
from sidecar.edge.tunnels import Reviewer, Tunnels
from sidecar.edge.upstream import UpstreamPool
from sidecar.edge.withdrawals import Withdrawals
from sidecar.errors import Misuse

_TURN: float = 0.005  # seconds, when draining, in which the kernel hands over who waits there
_TURNS: int = 40
_LESS: int = 256  # sets of headers that rules take away, remembered with their table
_SILENCE: float = 0.25  # seconds, when draining, in which a request on its way arrives


class Authorizer(Reviewer, Protocol):
    """Who decides; `edge.authorizer` in production."""

    def decide(self, request: Request) -> Decision | None:
        """The decision at once, or None where `resolve` must be awaited."""

    def assertion(self, permit: Permit) -> bytes:
        """A header line of the authorizer's own for the upstream, with its end, or nothing."""

    def published(self, request: Request) -> Answer | None:
        """The answer to a request that is for the sidecar itself; None for all others."""

    def preflight(self, request: Request) -> Answer | None:
        """The answer to a CORS preflight; None where `request`, an OPTIONS, is to be decided."""

    async def resolve(self, request: Request, body: ReadBody) -> Decision:
        """The decision, after fetching what it needs; `body` reads that of the request."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed()` whenever another snapshot decides from then on."""

    def watch_withdrawals(self, changed: Callable[[], None]) -> None:
        """Call `changed()` whenever credentials were withdrawn."""

    def withdrawn(self, permit: Permit) -> bool:
        """Whether what was permitted must end, since its credential was withdrawn."""

    def doubtful(self, permit: Permit) -> bool:
        """Whether what was permitted has to be decided again."""


class Proxy:
    """One per process. `strip` names the headers that rules set, at the moment of asking, `read`
    those that a decision may depend on, `remove` where credentials are that stay here.

    With `handshakes` every listener speaks TLS, and nothing but TLS; then `callers` knows whose
    certificates were shown. `told` is the header (one of `CERTIFICATE_HEADERS`) in which trusted
    proxies say it; 0: none.
    """

    def __init__(
        self,
        authorizer: Authorizer,
        upstreams: UpstreamPool | Destinations,
        limits: Limits | None = None,
        *,
        handshakes: Handshakes | None = None,
        callers: Callers | None = None,
        told: int = 0,
        trusted: TrustedProxies = NOBODY,
        strip: Callable[[], frozenset[str]] = frozenset,
        read: Callable[[], frozenset[str] | None] = lambda: None,
        remove: Callable[[], tuple[Location, ...]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.authorizer = authorizer
        self.upstreams = upstreams
        self.limits = limits if limits is not None else upstreams.limits
        self.stats: ProxyStats = upstreams.stats
        self.sweeper = upstreams.sweeper
        self.handshakes = handshakes
        self.callers = callers if handshakes is not None else None
        self.told = told
        self.trusted = trusted
        self.scheme = "http" if handshakes is None else "https"
        self.draining = False
        self._strip = strip
        self._read = read
        self._remove = remove
        self._names = RequestNames(strip(), read())
        self._bare_names = self._names
        self._less: dict[frozenset[str], RequestNames] = {}
        self._connections: set[ClientConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._empty: asyncio.Future[None] | None = None
        self.sweeper.watch(self.sweep)
        self.tunnels = Tunnels(authorizer, self.limits, self.stats, self.sweeper, self.left, clock)
        authorizer.watch(self.tunnels.review)
        self.withdrawals = Withdrawals(
            authorizer.withdrawn,
            authorizer.doubtful,
            lambda: [*self._connections, *self.tunnels.all()],
        )
        authorizer.watch_withdrawals(self.withdrawals.begin)

    async def listen(
        self, host: str, port: int, *, reuse_port: bool = False
    ) -> list[tuple[str, int]]:
        """Accept connections; port 0 picks a free one, `::` is every address. Returns those bound.

        Raises Misuse when the address cannot be had.
        """
        try:
            servers = await listening.listen(
                self._accept, host, port, backlog=1024, reuse_port=reuse_port or None
            )
        except OSError as error:
            raise Misuse(cannot_listen(host, port, error)) from None
        self._servers += servers
        self.sweeper.start()
        return [each.getsockname()[:2] for server in servers for each in server.sockets]

    async def drain(self, seconds: float) -> bool:
        """Stop accepting, finish what is under way, close. False: not all within `seconds`.

        A client that has just connected or been answered may have sent a request that we have not
        read: what the kernel has accepted for us is taken, and only who then stays silent for a
        moment is idle.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self._servers:
            await self._accept_all()
        for server in self._servers:
            server.close()
        await self._empties(min(seconds, _SILENCE))
        if self.handshakes is not None:
            self.handshakes.abort()
        for connection in list(self._connections):
            connection.close_if_idle()
        self.tunnels.drain()
        done = await self._empties(end - loop.time())
        for connection in list(self._connections):
            connection.abort()
        return done

    async def _accept_all(self) -> None:
        """Take the connections that wait in the kernel: closing the listener would reset them."""
        for _ in range(_TURNS):
            before = self.stats.accepted
            await asyncio.sleep(_TURN)
            if self.stats.accepted == before:
                return

    async def _empties(self, seconds: float) -> bool:
        """Wait until nobody is there, `seconds` at most; whether that is so."""
        if self._connections and seconds > 0:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._empty,), timeout=seconds)
        return not self._connections

    async def close(self) -> None:
        """End everything at once."""
        await self.drain(0)
        self.tunnels.close()
        self.upstreams.close()
        self.sweeper.stop()
        await asyncio.sleep(0)  # aborted transports tell their protocols in the next turn

    def sweep(self, now: float) -> None:
        """End what is overdue."""
        if self.handshakes is not None:
            self.handshakes.sweep(now)
        for connection in [each for each in self._connections if each.deadline <= now]:
            connection.expire()
        if self.limits.total:
            for connection in [each for each in self._connections if each.cutoff <= now]:
                connection.cut_off()

    def _accept(self) -> asyncio.Protocol:
        """The protocol of one more client."""
        handshakes = self.handshakes
        if handshakes is None:
            return ClientConnection(self)
        stats = self.stats
        most = self.limits.connections + self.limits.connections_told
        crowded = stats.connections_open + len(handshakes) >= most
        if crowded:
            stats.accepted += 1
            stats.connections_refused += 1
        return handshakes.begin(lambda: ClientConnection(self), self.sweeper, crowded=crowded)

    # -- what connections call

    def joined(self, connection: ClientConnection) -> bool:
        """A client came. False: one more than may be."""
        stats = self.stats
        stats.accepted += 1
        stats.connections_open += 1
        self._connections.add(connection)
        surplus = stats.connections_open - self.limits.connections
        if surplus > 0:
            stats.connections_refused += 1
            if surplus > self.limits.connections_told:
                connection.abort()
                return True
            return False
        return True

    def left(self, connection: ClientConnection) -> None:
        """A client went."""
        self._connections.discard(connection)
        self.stats.connections_open -= 1
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def names(self, permit: Permit) -> RequestNames:
        """Which request headers go upstream under the rules of the moment."""
        names, set_by_rules, read = self._names, self._strip(), self._read()
        if (set_by_rules is not names.set_by_rules or read is not names.read) and (
            set_by_rules != names.set_by_rules or read != names.read
        ):
            self._names = names = RequestNames(set_by_rules, read)
        away = permit.obligations.remove_headers
        if away:
            names = self._without(names, away)
        removed = self._remove()
        if not removed or permit.identity is None:
            return names
        bare = self._bare_names
        if bare.removed is not removed or bare.beside is not names:
            self._bare_names = bare = RequestNames(names.set_by_rules, read, removed, names)
        return bare

    def _without(self, names: RequestNames, away: frozenset[str]) -> RequestNames:
        """The same less what rules take away from this request."""
        known = self._less.get(away)
        if known is None or known.beside is not names:
            if len(self._less) >= _LESS:
                self._less.clear()
            known = RequestNames(names.set_by_rules | away, names.read, (), names)
            self._less[away] = known
        return known


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Why not, and who should change what."""
    return (
        f"cannot listen on {host}:{port}: {error.strerror or error}; "
        "stop what holds it or choose another address"
    )
