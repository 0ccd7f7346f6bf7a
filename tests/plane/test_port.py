"""A port that workers share and strangers cannot join."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sidecar.errors import Misuse
from sidecar.plane.port import HeldPort


async def listen(port: int, *, share: bool) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(
        asyncio.Protocol, "127.0.0.1", port, reuse_port=share or None
    )


async def test_workers_share_it_and_nobody_else_gets_it() -> None:
    held = await HeldPort.hold("127.0.0.1", 0)
    assert held.address == ("127.0.0.1", held.port)
    with pytest.raises(OSError, match="in use"):
        await listen(held.port, share=False)  # before any worker listens
    servers = [await listen(held.port, share=True) for _ in range(3)]
    with pytest.raises(OSError, match="in use"):
        await listen(held.port, share=False)
    with pytest.raises(Misuse, match=f"--listen: cannot listen on 127.0.0.1:{held.port}"):
        await HeldPort.hold("127.0.0.1", held.port)
    for server in servers:
        server.close()
        await server.wait_closed()
    with pytest.raises(Misuse):
        await HeldPort.hold("127.0.0.1", held.port)  # while all workers are being replaced
    held.close()
    again = await HeldPort.hold("127.0.0.1", held.port)
    again.close()


async def test_every_address_is_held() -> None:
    held = await HeldPort.hold("::", 0)
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(Misuse):
            await HeldPort.hold(host, held.port)
    held.close()


@pytest.mark.parametrize("share", [False, True])
async def test_a_port_that_is_taken_cannot_be_held(share: bool) -> None:
    server = await listen(0, share=share)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Misuse, match="choose another address"):
        await HeldPort.hold("127.0.0.1", port)
    server.close()


async def test_connections_that_have_just_ended_do_not_hold_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""  # the server's side waits now, with its port
    held = await HeldPort.hold("127.0.0.1", port)
    held.close()


async def test_an_address_of_another_machine() -> None:
    with pytest.raises(Misuse, match="--listen"):
        await HeldPort.hold("192.0.2.1", 0)
