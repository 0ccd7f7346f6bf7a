"""The fault proxy itself: an echo behind it tells what came through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.faults.proxy import Proxy, proxied

WITHIN = 10.0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"bye")
        await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxied(f"127.0.0.1:{port}") as made:
        yield made
    for writer in OPENED:
        writer.transport.abort()
    OPENED.clear()
    server.close()
    await asyncio.sleep(0)  # transports close in the next round


OPENED: list[asyncio.StreamWriter] = []


async def connected(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    OPENED.append(writer)
    return reader, writer


async def said(
    pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes, count: int | None = None
) -> bytes:
    """Sends, and reads what comes back."""
    pair[1].write(data)
    await pair[1].drain()
    async with asyncio.timeout(WITHIN):
        return await pair[0].readexactly(len(data) if count is None else count)


async def test_bytes_go_both_ways_unchanged_and_each_side_may_end_first(proxy: Proxy) -> None:
    pair = await connected(proxy)
    data = bytes(range(256)) * 1000
    assert await said(pair, data) == data
    pair[1].write_eof()
    async with asyncio.timeout(WITHIN):
        assert await pair[0].read() == b"bye"
    pair[1].close()
    await proxy.until(lambda p: p.connections == 0)
    assert proxy.accepted == 1
    assert proxy.passed == len(data) + 3


async def test_cut(proxy: Proxy) -> None:
    pair = await connected(proxy)
    await said(pair, b"a")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await said(pair, b"b")
    assert await said(await connected(proxy), b"c") == b"c"


async def test_refuse_and_accept_at_the_same_address(proxy: Proxy) -> None:
    before = await connected(proxy)
    await said(before, b"a")
    address = proxy.address
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connected(proxy)
    assert await said(before, b"b") == b"b", "what is connected stays"
    await proxy.accept()
    assert proxy.address == address
    assert await said(await connected(proxy), b"c") == b"c"


async def test_stall_loses_nothing_that_is_not_cut(proxy: Proxy) -> None:
    pair = await connected(proxy)
    await said(pair, b"a")
    proxy.stall()
    pair[1].write(b"b")
    other = await connected(proxy)
    other[1].write(b"c")
    await proxy.until(lambda p: p.connections == 2)
    waiting = asyncio.ensure_future(pair[0].readexactly(1))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    proxy.flow()
    async with asyncio.timeout(WITHIN):
        assert await waiting == b"b"
        assert await other[0].readexactly(1) == b"c"


async def test_delay_and_throttle_keep_order(proxy: Proxy) -> None:
    proxy.delay, proxy.rate = 0.01, 200_000.0
    loop = asyncio.get_running_loop()
    pair = await connected(proxy)
    began = loop.time()
    data = bytes(range(250)) * 80
    assert await said(pair, data) == data
    assert loop.time() - began >= len(data) / 200_000.0  # it cannot be faster than that
    await proxy.heal()
    assert await said(pair, data) == data


@pytest.mark.parametrize("count", [1, 5, 19_999])
async def test_cut_after_so_many_bytes(proxy: Proxy, count: int) -> None:
    pair = await connected(proxy)
    proxy.cut_after(count)
    pair[1].write(b"x" * 20_000)
    async with asyncio.timeout(WITHIN):
        assert len(await pair[0].read()) == count
    assert await said(await connected(proxy), b"c") == b"c", "only once"


async def test_a_request_whose_answer_is_lost(proxy: Proxy) -> None:
    one, other = await connected(proxy), await connected(proxy)
    await said(one, b"a")
    await said(other, b"b")
    proxy.cut_the_answer_to(b"INSERT", b"COMMIT")
    assert await said(other, b"..COMMIT..") == b"..COMMIT.."
    assert await said(one, b"..INSERT..") == b"..INSERT.."
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await said(one, b"..COMMIT..")
    assert await said(other, b"..COMMIT..") == b"..COMMIT..", "only once"


async def test_a_target_that_is_away_ends_who_connects(proxy: Proxy) -> None:
    there, proxy.target = proxy.target, "127.0.0.1:1"
    pair = await connected(proxy)
    async with asyncio.timeout(WITHIN):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await said(pair, b"a")
    proxy.target = there
    assert await said(await connected(proxy), b"c") == b"c"
