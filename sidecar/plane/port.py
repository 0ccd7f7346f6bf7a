"""One traffic port for several workers, and for nobody else.

SO_REUSEPORT lets any process of the same user join a port, so a second sidecar would take half of
the traffic in silence. The supervisor therefore first listens without it, which fails when anybody
has the port, and then holds a socket that is bound and does not listen: workers, which set
SO_REUSEPORT, can join it; whoever does not, cannot (it has lost SO_REUSEADDR after binding).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from sidecar.edge.listening import hosts
from sidecar.edge.proxy import cannot_listen
from sidecar.errors import Misuse

_REUSE: Final = (socket.SOL_SOCKET, socket.SO_REUSEADDR)
_SHARE: Final = (socket.SOL_SOCKET, socket.SO_REUSEPORT)


class HeldPort:
    """Every address that the host means, at one port."""

    def __init__(self, port: int, sockets: list[socket.socket]) -> None:
        self.port = port
        self._sockets = sockets

    @property
    def address(self) -> tuple[str, int]:
        """The first of them."""
        name = self._sockets[0].getsockname()
        return name[0], name[1]

    @classmethod
    async def hold(cls, host: str, port: int) -> HeldPort:
        """Port 0 chooses a free one. Raises Misuse when the address cannot be had."""
        sockets: list[socket.socket] = []
        try:
            loop = asyncio.get_running_loop()
            found = [
                entry
                for each in hosts(host)
                for entry in await loop.getaddrinfo(
                    each, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
            ]
            for family, _, _, _, address in dict.fromkeys(found):
                sockets.append(_held(family, (address[0], port, *address[2:])))
                port = sockets[0].getsockname()[1]  # one for all, chosen by the first
        except OSError as error:
            for each in sockets:
                each.close()
            raise Misuse(f"--listen: {cannot_listen(host, port, error)}") from None
        return cls(port, sockets)

    def close(self) -> None:
        """Let others have it, once the workers have ended."""
        for each in self._sockets:
            each.close()


def _held(family: int, address: tuple[str | int, ...]) -> socket.socket:
    with _socket(family) as probe:
        probe.bind(address)
        probe.listen(1)
        probe.setsockopt(*_SHARE, 1)  # too late for others: it listens
        held = _socket(family)
        try:
            held.setsockopt(*_SHARE, 1)
            held.bind(probe.getsockname())
            held.setsockopt(*_REUSE, 0)
        except OSError:
            held.close()
            raise
        return held


def _socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(*_REUSE, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio's servers
    return made
