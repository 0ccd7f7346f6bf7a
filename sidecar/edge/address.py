"""Where the upstream is, and how to connect to it: TCP, TLS over TCP, or a Unix socket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.edge.tls import TlsConnection
from sidecar.edge.upstream_connection import UpstreamConnection
from sidecar.errors import Misuse

_PORTS: Final = {"http": 80, "https": 443}
Factory = Callable[[], UpstreamConnection]


@dataclass(frozen=True, slots=True)
class Address:
    """`host` and `port`, or the `path` of a Unix socket."""

    host: str
    port: int
    path: str = ""
    tls: bool = False

    @property
    def authority(self) -> str:
        """What a request names that names no host itself."""
        if self.path:
            return "localhost"
        bare = self.host.partition("%")[0]  # a zone means nothing to anyone else
        host = f"[{bare}]" if ":" in bare else bare
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """`http://host[:port]`, `https://host[:port]` or `unix:///path`. Raises Misuse."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Misuse(f"upstream {url!r} is not a URL; write http://host:port") from None
        if parts.scheme == "unix":
            if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
                raise Misuse(f"upstream {url!r}: expected unix:///absolute/path")
            return cls("", 0, parts.path)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise Misuse(f"upstream {url!r}: expected http://host:port or https://host:port")
        if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise Misuse(f"upstream {url!r} must name a host and a port and nothing else")
        tls = parts.scheme == "https"
        return cls(parts.hostname, _PORTS[parts.scheme] if port is None else port, tls=tls)

    async def connect(self, factory: Factory) -> None:
        """Open one connection without TLS. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.path:
            await loop.create_unix_connection(factory, self.path)
        else:
            await loop.create_connection(factory, self.host, self.port)


def tls_connect(
    address: Address, context: Callable[[], ssl.SSLContext], server_name: str = ""
) -> Callable[[Factory], Coroutine[Any, Any, None]]:
    """A way to open connections with TLS, each with the context of its moment.

    The upstream must prove to be `server_name`, or else the address's host. What it returns raises
    ssl.SSLError when the handshake fails, for whatever reason, and OSError when there is none.
    """
    name = server_name or address.host

    async def connect(factory: Factory) -> None:
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[OSError | None] = loop.create_future()

        def told(_: TlsConnection, error: OSError | None) -> None:
            if not settled.done():
                settled.set_result(error)

        def protocol() -> TlsConnection:
            return TlsConnection(context(), factory(), told, server_side=False, server_name=name)

        transport, _ = await loop.create_connection(protocol, address.host, address.port)
        try:
            error = await settled
        except asyncio.CancelledError:
            transport.abort()
            raise
        if error is not None:
            transport.close()
        if error is not None and not isinstance(error, ssl.SSLError):
            raise ssl.SSLError(f"the upstream ended the handshake: {error}") from error
        if error is not None:
            raise error

    return connect
