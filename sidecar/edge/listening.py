"""What a host to listen at means: `::` is every address, IPv4's too, wherever IPv6 is or is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


def hosts(host: str) -> tuple[str, ...]:
    """Each to be listened at with a socket of its own; IPv6 sockets take IPv6 only."""
    if host != "::":
        return (host,)
    return ("::", "0.0.0.0") if _ipv6() else ("0.0.0.0",)  # noqa: S104  (as was asked for)


async def listen(
    protocol: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    *,
    backlog: int = 100,
    reuse_port: bool | None = None,
) -> list[asyncio.Server]:
    """Accept connections, at one port everywhere: 0 picks a free one. Raises OSError."""
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    try:
        for each in hosts(host):
            server = await loop.create_server(
                protocol, each, port, backlog=backlog, reuse_port=reuse_port
            )
            servers.append(server)
            port = server.sockets[0].getsockname()[1]
    except OSError:
        for server in servers:
            server.close()
        raise
    return servers


def _ipv6() -> bool:
    """Whether the kernel has it at all; it may have it without an address."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True
