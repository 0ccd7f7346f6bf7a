from __future__ import annotations

import asyncio
import json

import pytest

from sidecar.edge.address import Address
from sidecar.errors import Misuse

from .conftest import Peer, Rig, soon

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def request(method: bytes = b"GET", path: bytes = b"/a", rest: bytes = b"\r\n") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\nHost: a.example\r\n" + rest


POST = request(b"POST", rest=b"Content-Length: 2\r\n\r\nhi")


async def served(rig: Rig) -> tuple[Peer, Peer]:
    """A client and an upstream connection that have one good exchange behind them."""
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    return client, upstream


# -- addresses


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://127.0.0.1:8080", Address("127.0.0.1", 8080), "127.0.0.1:8080"),
        ("http://bank.example/", Address("bank.example", 80), "bank.example:80"),
        ("http://[::1]:9", Address("::1", 9), "[::1]:9"),
        ("https://bank.example", Address("bank.example", 443, tls=True), "bank.example:443"),
        ("unix:///run/a.sock", Address("", 0, "/run/a.sock"), "localhost"),
        ("unix:/run/a.sock", Address("", 0, "/run/a.sock"), "localhost"),
    ],
)
def test_addresses(url: str, address: Address, authority: str) -> None:
    assert Address.parse(url) == address
    assert address.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "bank:80", "ftp://bank", "http://", "unix://run/a", "unix:a", "http://:p@bank", "http://bank/path", "http://u:p@bank",
        "http://bank?q", "http://bank:port", "http://bank:99999", "http://[::1",
    ],
)  # fmt: skip
def test_bad_addresses(url: str) -> None:
    with pytest.raises(Misuse):
        Address.parse(url)


# -- reuse


async def test_the_latest_used_connection_is_used_first(rig: Rig) -> None:
    one = await rig.client(request())
    first = await rig.upstream.accept()
    two = await rig.client(request())
    second = await rig.upstream.accept()
    for upstream, client in ((first, one), (second, two)):
        await upstream.head()
        upstream.send(OK)
        await client.response()
    one.send(request(path=b"/again"))
    assert (await second.head()).startswith(b"GET /again ")
    assert (rig.stats.upstream_open, rig.stats.upstream_idle) == (2, 1)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"surplus",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 ",
        b"HTTP/1.1 204 No\r\n\r\nx",
    ],
)
async def test_connections_not_used_again(rig: Rig, response: bytes) -> None:
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(response)
    await client.head()
    await rig.becomes(lambda: rig.stats.upstream_open == 0)
    assert rig.authorizer.done[0][1] in (200, 204)


async def test_bytes_out_of_turn_end_an_idle_connection(rig: Rig) -> None:
    client, upstream = await served(rig)
    upstream.send(b"HTTP/1.1 408 Idle\r\n\r\n")
    await rig.becomes(lambda: rig.stats.upstream_open == 0)
    client.send(request())
    second = await rig.upstream.accept()
    await second.head()
    second.send(OK)
    assert await client.response() == (200, b"ok")


async def test_idle_connections_are_let_go(rig: Rig) -> None:
    _, upstream = await served(rig)
    rig.pass_time(10)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(1)
    assert rig.stats.upstream_open == rig.stats.upstream_idle == 0


@pytest.mark.limits(upstream_idle=1)
async def test_no_more_idle_connections_than_the_limit(rig: Rig) -> None:
    clients = [await rig.client(request()) for _ in range(3)]
    upstreams = [await rig.upstream.accept() for _ in range(3)]
    for upstream in upstreams:
        await upstream.head()
        upstream.send(OK)
    for client in clients:
        await client.response()
    assert (rig.stats.upstream_open, rig.stats.upstream_idle) == (1, 1)


# -- retry


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
async def test_a_stale_connection_is_tried_again_once(rig: Rig, method: bytes) -> None:
    client, upstream = await served(rig)
    rest = b"Content-Length: 2\r\n\r\nhi" if method == b"PUT" else b"\r\n"
    client.send(request(method, rest=rest))
    first = await upstream.head()
    upstream.reset()
    second = await rig.upstream.accept()
    assert await second.head() == first
    if method == b"PUT":
        assert await second.exactly(2) == b"hi"
    second.send(b"HTTP/1.1 204 Fine\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 204 Fine\r\n")
    assert rig.stats.retries == 1
    client.send(request())
    await second.head()
    second.reset()
    third = await rig.upstream.accept()
    await third.head()
    third.close()  # a new connection that fails is no stale one
    assert (await client.response())[0] == 502
    assert rig.stats.retries == 2


async def test_a_post_is_never_sent_twice(rig: Rig) -> None:
    client, upstream = await served(rig)
    client.send(POST)
    await upstream.head()
    upstream.close()
    status, body = await client.response()
    assert (status, json.loads(body)["code"]) == (502, "bad_gateway")
    assert rig.stats.retries == 0
    assert rig.upstream.accepted.empty()


async def test_a_post_asks_whether_the_connection_is_still_there(rig: Rig) -> None:
    client, upstream = await served(rig)
    # As when both happen in one turn of the loop: nobody has told the proxy of the end yet.
    rig.pool._idle[0].transport.pause_reading()
    upstream.close()
    await soon(upstream.writer.wait_closed())
    client.send(POST)
    second = await rig.upstream.accept()
    await second.head()
    second.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.stats.retries == 0


async def test_a_body_still_coming_is_not_sent_twice(rig: Rig) -> None:
    client, upstream = await served(rig)
    client.send(request(b"PUT", rest=b"Content-Length: 4\r\n\r\nhi"))
    await upstream.head()
    upstream.reset()
    assert (await client.response())[0] == 502
    assert rig.stats.retries == 0


async def test_half_an_answer_is_not_asked_for_again(rig: Rig) -> None:
    client, upstream = await served(rig)
    client.send(request())
    await upstream.head()
    upstream.send(b"HTTP/1.1 2")
    upstream.close()
    assert (await client.response())[0] == 502
    assert rig.stats.retries == 0


# -- failures


async def test_nobody_listens(rig: Rig) -> None:
    await rig.upstream.stop()
    client = await rig.client(request())
    status, body = await client.response()
    assert (status, json.loads(body)["decision_id"]) == (502, "f" * 32)
    assert rig.stats.upstream_errors == {"connect": 1}
    client.send(request())
    assert (await client.response())[0] == 502
    assert rig.authorizer.done == [("/a", 502)] * 2


@pytest.mark.parametrize(
    "response",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"X" * 70_000,
    ],
)
async def test_an_answer_that_is_no_http(rig: Rig, response: bytes) -> None:
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(response)
    assert (await client.response())[0] == 502
    assert rig.stats.upstream_errors == {"bad_response": 1}
    assert rig.stats.upstream_open == 0


async def test_a_bad_chunk_in_a_response_under_way(rig: Rig) -> None:
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    await client.until(b"ok\r\n")
    upstream.send(b"zz\r\n")
    with pytest.raises(ConnectionError):
        await client.rest()


async def test_a_response_byte_by_byte(rig: Rig) -> None:
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    for at in range(len(OK)):
        upstream.send(OK[at : at + 1])
        await upstream.flush()
        await asyncio.sleep(0)
    assert await client.response() == (200, b"ok")


# -- time


async def test_no_first_byte_in_time(rig: Rig) -> None:
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    rig.pass_time(59)
    assert rig.stats.upstream_errors == {}
    rig.pass_time(3)
    assert (await client.response())[0] == 504
    assert rig.stats.upstream_errors == {"first_byte_timeout": 1}


@pytest.mark.limits(body_rate=0)
async def test_a_slow_upload_is_not_the_upstreams_fault(rig: Rig) -> None:
    client = await rig.client(request(b"POST", rest=b"Content-Length: 20\r\n\r\n"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    for _ in range(20):
        rig.pass_time(30)
        client.send(b"x")
        assert await upstream.exactly(1) == b"x"
    rig.pass_time(59)
    upstream.send(OK)
    assert await client.response() == (200, b"ok")


async def test_a_response_that_stops(rig: Rig) -> None:
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    await client.until(b"ab")
    rig.pass_time(302)
    with pytest.raises(ConnectionError):
        await client.rest()
    assert rig.stats.upstream_errors == {"response_timeout": 1}


async def test_an_upstream_that_does_not_accept(rig: Rig) -> None:
    connecting = asyncio.Event()

    async def never(factory: object) -> None:
        connecting.set()
        await asyncio.Event().wait()

    rig.pool._connect = never
    client = await rig.client(request())
    await soon(connecting.wait())
    rig.pass_time(6)
    assert (await client.response())[0] == 504
    assert rig.stats.upstream_errors == {"connect_timeout": 1}
    assert rig.stats.upstream_open == 0


# -- the bound


@pytest.mark.limits(upstream_connections=1, upstream_waiting=1)
async def test_waiting_in_line(rig: Rig) -> None:
    first = await rig.client(request(path=b"/1"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    second = await rig.client(request(path=b"/2"))
    await rig.becomes(lambda: rig.stats.upstream_waiting == 1)
    third = await rig.client(request(path=b"/3"))
    head = await third.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in head
    upstream.send(OK)
    assert await first.response() == (200, b"ok")
    assert (await upstream.head()).startswith(b"GET /2 ")
    upstream.send(OK)
    assert await second.response() == (200, b"ok")
    assert rig.stats.upstream_created == 1
    assert rig.stats.upstream_errors == {"busy": 1}


@pytest.mark.limits(upstream_connections=1)
async def test_waiting_too_long(rig: Rig) -> None:
    await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    second = await rig.client(request())
    await rig.becomes(lambda: rig.stats.upstream_waiting == 1)
    rig.pass_time(11)
    assert (await second.response())[0] == 503
    assert rig.stats.upstream_errors == {"busy_timeout": 1}


@pytest.mark.limits(upstream_connections=1)
async def test_who_leaves_the_line_makes_room(rig: Rig) -> None:
    first = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    second = await rig.client(request())
    await rig.becomes(lambda: rig.stats.upstream_waiting == 1)
    second.reset()
    await rig.becomes(lambda: rig.stats.upstream_waiting == 0)
    upstream.send(OK)
    assert await first.response() == (200, b"ok")
    assert rig.stats.upstream_idle == 1


@pytest.mark.limits(upstream_connections=1)
async def test_a_lost_connection_makes_room_for_who_waits(rig: Rig) -> None:
    first = await rig.client(request(path=b"/1"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    second = await rig.client(request(path=b"/2"))
    await rig.becomes(lambda: rig.stats.upstream_waiting == 1)
    upstream.close()
    assert (await first.response())[0] == 502
    another = await rig.upstream.accept()
    assert (await another.head()).startswith(b"GET /2 ")
    another.send(OK)
    assert await second.response() == (200, b"ok")


async def test_closing_the_pool_fails_who_is_under_way(rig: Rig) -> None:
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    rig.pool.close()
    assert (await client.response())[0] == 502
    client.send(request())
    assert (await client.response())[0] == 503


async def test_an_answer_before_the_upload_is_over_is_not_lost(rig: Rig) -> None:
    """The upstream answers, closes with bytes unread (a reset), and we write on meanwhile."""
    for _ in range(20):
        client = await rig.client(request(b"POST", rest=b"Content-Length: 5000000\r\n\r\n"))
        upstream = await rig.upstream.accept()
        await upstream.head()
        upstream.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(b"x" * 1_000_000)
        upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        upstream.close()
        assert await client.response() == (413, b"large")


async def test_bytes_out_of_turn_are_nobodys_answer(rig: Rig) -> None:
    """Also where they wait in the kernel when the next request comes."""
    client = await rig.client(request())
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    [idle] = rig.pool._idle
    idle.transport.pause_reading()  # as if the loop had not come to it yet
    upstream.send(b"HTTP/1.1 200 EVIL\r\nContent-Length: 4\r\n\r\nevil")
    await upstream.flush()
    await rig.becomes(lambda: not idle.quiet())
    client.send(request())
    fresh = await rig.upstream.accept()
    await fresh.head()
    fresh.send(OK)
    assert await client.response() == (200, b"ok")
