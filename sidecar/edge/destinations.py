"""The upstream of each connection is where its caller connected to: a pool for each such address.

Where to is known once a client has connected, and the pool is chosen once, with its first permitted
request; then all is as with one upstream. Refused are connections that nobody redirected, those to
ports of our own and those that come from ourselves, which would go in a circle, and addresses that
are not this host's: whatever the packet filter says, nothing beyond it is dialled.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from sidecar.decide.challenge import Answer
from sidecar.edge import answers
from sidecar.edge.address import Address, Factory
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.original import Accepted, is_own, original_destination, sockaddr
from sidecar.edge.sweeper import Sweeper
from sidecar.edge.upstream import UpstreamPool

MOST: Final = 64  # pools: an application has few ports, and a pod few addresses

_log: Final = logging.getLogger("sidecar.upstream")

_HINTS: Final = {
    "not_redirected": "connections to the traffic port itself lead to no service; where there are "
    "no others, `sidecar redirect` has not run in this pod",
    "own_port": "the sidecar's own ports are no service's",
    "loop": "the sidecar's own connections come back to it; name the user it runs as to "
    "`sidecar redirect --user`",
    "not_local": "the packet filter redirects what is on its way to other hosts; use "
    "`sidecar redirect`, and not in a pod that routes for others",
    "too_many": f"requests are under way to {MOST} addresses and ports at once",
}


class Destination:
    """Where one client was going."""

    __slots__ = ("_all", "_wanted")

    def __init__(self, every: Destinations, wanted: tuple[str, int]) -> None:
        self._all = every
        self._wanted = wanted

    def pool(self) -> UpstreamPool | None:
        """Its pool, until that is closed; None: there are as many as may be, all in use."""
        return self._all.pool(self._wanted)


class Destinations:
    """Every pool of this process, by address and port; at most `most` of them.

    For one more than that, the pool is closed that was chosen longest ago of those without a
    request under way; where there is none, the request is refused.
    """

    def __init__(
        self,
        limits: Limits,
        sweeper: Sweeper,
        stats: ProxyStats,
        *,
        own_ports: frozenset[int] = frozenset(),
        most: int = MOST,
        original: Callable[[Accepted], tuple[str, int] | None] = original_destination,
        own: Callable[[str], bool] = is_own,
    ) -> None:
        """`own_ports` are those of health and admin. `original` and `own` ask the kernel."""
        self.limits = limits
        self.sweeper = sweeper
        self.stats = stats
        self._own_ports = own_ports
        self._most = most
        self._original = original
        self._own = own
        self._pools: OrderedDict[tuple[str, int], UpstreamPool] = OrderedDict()  # latest at the end
        self._dialling: set[tuple[str, int]] = set()  # our ends of what is being opened
        self._said: set[str] = set()

    def choose(self, transport: asyncio.BaseTransport) -> Destination | Answer:
        """Where the requests of a connection just accepted go, or what to answer instead."""
        accepted = transport.get_extra_info("socket")
        wanted = self._original(accepted)
        if wanted is None or wanted[1] == accepted.getsockname()[1]:
            return self._refused("not_redirected")
        if wanted[1] in self._own_ports:
            return self._refused("own_port")
        if wanted not in self._pools and not self._own(wanted[0]):
            return self._refused("not_local")
        if self._ours(transport.get_extra_info("peername")):
            return self._refused("loop")
        return Destination(self, wanted)

    def pool(self, wanted: tuple[str, int]) -> UpstreamPool | None:
        """That of an address and port; None: there are as many as may be, all in use."""
        pool = self._pools.get(wanted)
        if pool is not None:
            self._pools.move_to_end(wanted)
            return pool
        if len(self._pools) >= self._most and not self._evicted():
            self._count("too_many")
            return None
        host, port = wanted
        connect = partial(self._connect, host, port)
        pool = UpstreamPool(Address(host, port), self.limits, self.sweeper, self.stats, connect)
        self._pools[wanted] = pool
        self.stats.destinations += 1
        return pool

    def close(self) -> None:
        """End everything. Exchanges still under way fail."""
        for pool in self._pools.values():
            pool.close()
        self.stats.destinations -= len(self._pools)
        self._pools.clear()

    def _evicted(self) -> bool:
        """Whether there is room again."""
        for wanted, pool in self._pools.items():
            if not pool.busy():
                pool.close()
                del self._pools[wanted]
                self.stats.destinations -= 1
                self.stats.destinations_closed += 1
                return True
        return False

    async def _connect(self, host: str, port: int, factory: Factory) -> None:
        """Open one connection. Our end of it is known before it can be accepted anywhere."""
        family, address = sockaddr(host, port)
        loop = asyncio.get_running_loop()
        dialling = socket.socket(family, socket.SOCK_STREAM)
        here = ("", 0)
        try:
            dialling.setblocking(False)
            code = dialling.connect_ex(address)
            here = _end(dialling.getsockname())
            self._dialling.add(here)
            if code == errno.EINPROGRESS:
                await loop.sock_connect(dialling, address)  # waits for what has begun
            elif code:
                raise OSError(code, os.strerror(code))
            await loop.create_connection(factory, sock=dialling)
        except BaseException:
            dialling.close()
            raise
        finally:
            self._dialling.discard(here)

    def _ours(self, peername: tuple[str, int] | None) -> bool:
        """Whether this process is at the other end as well."""
        if peername is None:
            return False  # gone already
        peer = _end(peername)
        if peer in self._dialling:
            return True
        # Who comes from one of our addresses is rare: then, and only then, look at all we opened.
        return any(host == peer[0] for host, _ in self._pools) and any(
            peer == _end(end) for pool in self._pools.values() for end in pool.ends()
        )

    def _refused(self, reason: str) -> Answer:
        self._count(reason)
        return answers.misdirected()

    def _count(self, reason: str) -> None:
        self.stats.destination_refused(reason)
        if reason not in self._said:  # once: whoever knocks must not fill the log
            self._said.add(reason)
            _log.warning("refused, and from now on only counted: %s: %s", reason, _HINTS[reason])


def _end(name: tuple[str, int]) -> tuple[str, int]:
    """An address and port, without what only some who name them add."""
    return name[0].partition("%")[0].removeprefix("::ffff:"), name[1]
