"""`::` is every address."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sidecar.edge import listening


async def connected(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def test_every_address_at_one_port() -> None:
    servers = await listening.listen(asyncio.Protocol, "::", 0)
    [port] = {each.getsockname()[1] for server in servers for each in server.sockets}
    assert [await connected(host, port) for host in ("127.0.0.1", "::1")] == [True, True]
    families = {each.family for server in servers for each in server.sockets}
    assert families == {socket.AF_INET, socket.AF_INET6}
    for server in servers:
        server.close()
    assert not await connected("127.0.0.1", port)


async def test_one_address_is_one() -> None:
    [server] = await listening.listen(asyncio.Protocol, "127.0.0.1", 0)
    [bound] = server.sockets
    assert not await connected("::1", bound.getsockname()[1])
    server.close()


async def test_half_of_it_is_none_of_it() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await listening.listen(asyncio.Protocol, "::", port)
        assert not await connected("::1", port)


async def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_ipv6", lambda: False)
    assert listening.hosts("::") == ("0.0.0.0",)
    [server] = await listening.listen(asyncio.Protocol, "::", 0)
    assert await connected("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()
