from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

from sidecar.decide.credentials import Location
from sidecar.decide.outcomes import Identity, Permit
from sidecar.edge.bodies import body_of
from sidecar.edge.http1 import parse_request_head
from sidecar.edge.proxy import Proxy
from sidecar.errors import Misuse

from .conftest import Peer, Rig, soon
from .raw_requests import RAW, Outcome

GET = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1024 * 1024
ANYBODY = Permit("r")
ALICE = Permit("r", Identity("iss", "alice"))


def post(target: bytes = b"/p", *lines: bytes, body: bytes = b"") -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"POST " + target + b" HTTP/1.1\r\nHost: a.example\r\n" + head + b"\r\n" + body


async def exchange(rig: Rig, request: bytes, response: bytes) -> tuple[Peer, Peer, bytes]:
    """Client, upstream and the head that the upstream saw, after it answered."""
    client = await rig.client(request)
    upstream = await rig.upstream.accept()
    head = await upstream.head()
    upstream.send(response)
    return client, upstream, head


# -- the straight line


async def test_a_request_goes_through_and_comes_back(rig: Rig) -> None:
    client, upstream, head = await exchange(rig, GET, OK)
    assert head == (
        b"GET /a HTTP/1.1\r\nhost: a.example\r\nx-forwarded-for: 127.0.0.1\r\n"
        b"x-forwarded-proto: http\r\nx-forwarded-host: a.example\r\nx-sidecar-subject: alice\r\n"
        b"x-sidecar-issuer: iss\r\nx-sidecar-decision: " + b"f" * 32 + b"\r\ntraceparent: "
        b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00\r\n\r\n"
    )
    assert await client.until(b"ok") == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    client.send(GET)
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.authorizer.done == [("/a", 200), ("/a", 200)]
    assert (rig.stats.requests, rig.stats.upstream_created, rig.stats.upstream_reused) == (2, 1, 1)


async def test_a_refused_request_never_opens_an_upstream_connection(rig: Rig) -> None:
    client = await rig.client(GET.replace(b"/a", b"/no"))
    status, body = await client.response()
    assert (status, json.loads(body)["code"]) == (403, "denied")
    client.send(GET.replace(b"GET /a", b"HEAD /no"))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 403 ")
    client.send(GET.replace(b"/a", b"/no"))  # no body came with the answer to HEAD
    assert (await client.response())[0] == 403
    assert rig.stats.upstream_created == 0
    assert rig.authorizer.done == [("/no", 403)] * 3


@pytest.mark.parametrize("path", [b"/cold", b"/cold/no"])
async def test_a_cold_decision_is_waited_for(rig: Rig, path: bytes) -> None:
    client = await rig.client(post(path, b"Content-Length: 4", body=b"bo"))
    await rig.becomes(lambda: len(rig.authorizer.decided) == 1)
    client.send(b"dy")
    assert rig.stats.upstream_created == 0
    rig.authorizer.warm.set()
    if path == b"/cold":
        upstream = await rig.upstream.accept()
        await upstream.head()
        assert await upstream.exactly(4) == b"body"
        upstream.send(OK)
        assert await client.response() == (200, b"ok")
    else:
        assert (await client.response())[0] == 403
        assert rig.stats.upstream_created == 0
    client.send(GET.replace(b"/a", b"/no"))
    assert (await client.response())[0] == 403


async def test_a_client_that_leaves_cancels_the_cold_decision(rig: Rig) -> None:
    client = await rig.client(GET.replace(b"/a", b"/cold"))
    await rig.becomes(lambda: len(rig.authorizer.decided) == 1)
    await asyncio.sleep(0)
    client.reset()
    await rig.becomes(lambda: rig.authorizer.cancelled == 1)
    assert rig.stats.client_aborts == 1


async def test_a_defect_while_deciding_is_no_permit(rig: Rig) -> None:
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: heard.append(context["message"])
    )
    client = await rig.client(GET.replace(b"/a", b"/broken"))
    rig.authorizer.warm.set()
    assert (await client.response())[0] == 500
    assert heard == ["deciding failed"]
    assert rig.stats.upstream_created == 0


# -- hard to fool


async def seen_by(upstream: Peer, seen: list[str]) -> None:
    """Answer every whole request on this connection and write it down."""
    data = b""
    try:
        while True:
            raw = await upstream.reader.readuntil(b"\r\n\r\n")
            head = parse_request_head(raw, 200)
            body, payload = body_of(head.block), b""
            data = b""
            done = body is None
            while body is not None and not done:
                more, data, done = body.feed(await upstream.reader.read(1))
                payload += more
            assert data == b""
            query = "" if head.query is None else "?" + head.query.decode()
            seen.append(
                f"{head.method} {head.path}{query} {head.block.host} {payload.decode('latin-1')}"
            )
            upstream.send(OK)
    except (asyncio.IncompleteReadError, ConnectionError):
        assert not data


def statuses(data: bytes) -> list[int]:
    """The statuses of pipelined responses with content-length."""
    out = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        length = next(int(x[15:]) for x in lines if x.startswith(b"content-length"))
        out.append(int(lines[0][9:12]))
        data = data[length:]
    return out


@pytest.mark.parametrize(("raw", "outcome"), [pytest.param(r, o, id=n) for n, r, o in RAW])
async def test_the_upstream_sees_exactly_what_it_should(
    rig: Rig, raw: bytes, outcome: Outcome
) -> None:
    seen: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def serve() -> None:
        while True:
            tasks.append(asyncio.ensure_future(seen_by(await rig.upstream.accepted.get(), seen)))

    serving = asyncio.ensure_future(serve())
    client = await rig.client(raw)
    client.half_close()
    answers = statuses(await client.rest())
    serving.cancel()
    await rig.proxy.close()
    await asyncio.gather(*tasks)
    mine = f"127.0.0.1:{rig.upstream.port}"
    expected = [part for part in outcome if isinstance(part, str)]
    listed = []
    for part in expected:
        method, target, host, body = part.split(" ", 3)
        host = mine.split(":")[0] if host == "upstream" else host.removesuffix(":80")
        listed.append(f"{method} {target} {host} {body}")
    assert seen == listed
    refused = [part for part in outcome if isinstance(part, int)]
    # A stream cut short is refused as such once its end is known.
    assert answers in ([200] * len(listed) + refused, [200] * len(listed) + [*refused, 400])
    assert sum(rig.stats.bad_requests.values()) >= len(refused)


async def test_a_bad_request_says_why_and_closes(rig: Rig) -> None:
    client = await rig.client(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + GET)
    head = await client.head()
    assert b"\r\nconnection: close\r\n" in head
    body = json.loads(await client.rest())
    assert (body["code"], body["detail"]) == ("bad_request", "header name is not a token")
    assert rig.stats.bad_requests == {"header name is not a token": 1}
    assert rig.stats.upstream_created == 0
    assert not rig.authorizer.decided


@pytest.mark.parametrize(
    "lines", [(b"Content-Length: 10",), (b"Transfer-Encoding: chunked",)], ids=["cl", "chunked"]
)
async def test_a_body_that_ends_early_never_looks_whole(rig: Rig, lines: tuple[bytes]) -> None:
    first = b"5\r\nhello\r\n" if b"chunked" in lines[0] else b"hello"
    client = await rig.client(post(b"/p", *lines, body=first))
    upstream = await rig.upstream.accept()
    await upstream.head()
    assert await upstream.exactly(len(first)) == first
    client.half_close()
    assert (await client.response())[0] == 400
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(1)
    assert rig.authorizer.done == [("/p", 400)]


async def test_a_bad_chunk_after_the_head_aborts_the_upstream(rig: Rig) -> None:
    client = await rig.client(post(b"/p", b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    assert await upstream.until(b"x\r\n") == b"1\r\nx\r\n"
    client.send(b"zz\r\n")
    assert (await client.response())[0] == 400
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(1)


async def test_a_bad_chunk_after_the_response_began_breaks_it_off(rig: Rig) -> None:
    client = await rig.client(post(b"/p", b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    await client.until(b"ab")
    client.send(b"zz\r\n")
    with pytest.raises(ConnectionError):
        await client.rest()


# -- bodies


async def test_a_body_with_length_and_one_in_chunks(rig: Rig) -> None:
    client = await rig.client(post(b"/p", b"Content-Length: 6", body=b"abc"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    assert await upstream.exactly(3) == b"abc"
    client.send(b"def")
    assert await upstream.exactly(3) == b"def"
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    client.send(post(b"/p", b"Transfer-Encoding: chunked", body=b"3;x=y\r\nabc\r\n"))
    await upstream.head()
    assert await upstream.exactly(8) == b"3\r\nabc\r\n"
    client.send(b"1\r\nd\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert await upstream.exactly(11) == b"1\r\nd\r\n0\r\n\r\n"
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.stats.upstream_created == 1


async def test_a_long_body_both_ways(rig: Rig) -> None:
    size = 8 * MIB
    client = await rig.client(post(b"/p", b"Content-Length: %d" % size))
    upstream = await rig.upstream.accept()
    await upstream.head()

    async def echo() -> None:
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        left = size
        while left:
            data = await upstream.reader.read(65536)
            left -= len(data)
            upstream.send(b"%x\r\n%b\r\n" % (len(data), data))
            await upstream.writer.drain()
        upstream.send(b"0\r\n\r\n")

    async def write() -> None:
        for number in range(size // 65536):
            client.send(bytes([number % 256]) * 65536)
            await client.writer.drain()

    async def read() -> bytes:
        out = b""
        while True:
            length = int(await client.reader.readuntil(b"\r\n"), 16)
            data = await client.reader.readexactly(length + 2)
            if not length:
                return out
            out += data[:-2]

    echoing = asyncio.ensure_future(echo())
    writing = asyncio.ensure_future(write())
    await client.head()
    received = await soon(read())
    assert received == b"".join(bytes([n % 256]) * 65536 for n in range(size // 65536))
    await echoing
    await writing


@pytest.mark.limits(buffer_high=65536, buffer_low=16384)
async def test_an_upstream_that_does_not_read_stops_the_client(rig: Rig) -> None:
    client = await rig.client(post(b"/p", b"Content-Length: %d" % (64 * MIB)))
    upstream = await rig.upstream.accept()
    upstream.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def flood() -> None:
        for _ in range(64):
            client.send(bytes(MIB))
            await client.writer.drain()

    flooding = asyncio.ensure_future(flood())
    # Nothing but the kernel's buffers and ours can take it: the client gets stuck.
    received = -1
    while received != rig.stats.bytes_received:
        received = rig.stats.bytes_received
        for _ in range(200):
            await asyncio.sleep(0)
    assert not flooding.done()
    assert received < 32 * MIB
    upstream.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await upstream.head()
    left = 64 * MIB
    while left:
        left -= len(await soon(upstream.reader.read(MIB)))
    await flooding
    upstream.send(OK)
    assert await client.response() == (200, b"ok")


@pytest.mark.limits(buffer_high=65536, buffer_low=16384)
async def test_a_client_that_does_not_read_stops_the_upstream(rig: Rig) -> None:
    client = await rig.client(GET, buffer=16384)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))

    async def flood() -> None:
        for _ in range(64):
            upstream.send(bytes(MIB))
            await upstream.writer.drain()

    flooding = asyncio.ensure_future(flood())
    sent = -1
    while sent != rig.stats.bytes_sent:
        sent = rig.stats.bytes_sent
        for _ in range(200):
            await asyncio.sleep(0)
    assert not flooding.done()
    assert sent < 32 * MIB
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await client.head()
    left = 64 * MIB
    while left:
        left -= len(await soon(client.reader.read(MIB)))
    await flooding
    client.send(GET)
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")


@pytest.mark.parametrize(
    ("request_line", "response", "seen"),
    [
        (
            b"HEAD /a HTTP/1.1",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        ),
        (b"GET /a HTTP/1.1", b"HTTP/1.1 204 Gone\r\n\r\n", b"HTTP/1.1 204 Gone\r\n\r\n"),
        (
            b"GET /a HTTP/1.1",
            b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 304 Same\r\ncontent-length: 5\r\n\r\n",
        ),
        (
            b"GET /a HTTP/1.1",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            b"GET /a HTTP/1.1",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nT: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
    ],
)
async def test_responses_leave_the_connections_usable(
    rig: Rig, request_line: bytes, response: bytes, seen: bytes
) -> None:
    request = request_line + b"\r\nHost: a.example\r\n\r\n"
    client, upstream, _ = await exchange(rig, request, response)
    assert await client.exactly(len(seen)) == seen
    client.send(GET)
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")


async def test_a_response_delimited_by_close(rig: Rig) -> None:
    client, upstream, _ = await exchange(rig, GET, b"HTTP/1.0 200 OK\r\n\r\nab")
    assert await client.until(b"ab\r\n") == (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
    )
    upstream.send(b"c")
    assert await client.exactly(6) == b"1\r\nc\r\n"
    upstream.close()
    assert await client.exactly(5) == b"0\r\n\r\n"
    client.send(GET)
    second = await rig.upstream.accept()
    await second.head()
    second.send(OK)
    assert await client.response() == (200, b"ok")


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    ],
)
async def test_a_response_that_ends_early_never_looks_whole(rig: Rig, response: bytes) -> None:
    client, upstream, _ = await exchange(rig, GET, response)
    await client.until(b"ab")
    upstream.close()
    with pytest.raises(ConnectionError):
        await client.rest()
    assert rig.stats.upstream_errors == {"closed": 1}


async def test_a_reset_of_a_close_delimited_response_is_no_end(rig: Rig) -> None:
    request = b"GET /a HTTP/1.0\r\n\r\n"
    client, upstream, _ = await exchange(rig, request, b"HTTP/1.1 200 OK\r\n\r\nab")
    assert await client.until(b"ab") == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nab"
    upstream.reset()
    with pytest.raises(ConnectionError):
        await client.rest()


# -- versions, pipelining, persistence


async def test_1_0_clients(rig: Rig) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    client, upstream, _ = await exchange(
        rig, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", OK
    )
    assert await client.until(b"ok") == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"
    )
    client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    await upstream.head()
    upstream.send(b"HTTP/1.1 103 Early\r\n\r\n" + chunked)
    assert await client.rest() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"


async def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    client = await rig.client(GET + GET.replace(b"/a", b"/no") + GET.replace(b"/a", b"/b"))
    upstream = await rig.upstream.accept()
    assert (await upstream.head()).startswith(b"GET /a ")
    upstream.send(OK)
    assert [(await client.response())[0] for _ in range(2)] == [200, 403]
    assert (await upstream.head()).startswith(b"GET /b ")
    upstream.send(OK)
    assert await client.response() == (200, b"ok")


async def test_many_pipelined_refusals(rig: Rig) -> None:
    client = await rig.client(GET.replace(b"/a", b"/no") * 500)
    for _ in range(500):
        assert (await client.response())[0] == 403
    client.half_close()
    assert await client.rest() == b""


@pytest.mark.limits(pipelined=4096)
async def test_what_is_read_ahead_is_bounded(rig: Rig) -> None:
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()

    async def flood() -> None:
        for _ in range(64):
            client.send(GET.replace(b"/a", b"/no") * 30_000)
            await client.writer.drain()

    flooding = asyncio.ensure_future(flood())
    received = -1
    while received != rig.stats.bytes_received:
        received = rig.stats.bytes_received
        for _ in range(200):
            await asyncio.sleep(0)
    assert received < MIB
    assert not flooding.done()
    flooding.cancel()


@pytest.mark.parametrize("mark", [b"", b"Connection: close\r\n"])
async def test_a_half_closed_client_gets_its_answer(rig: Rig, mark: bytes) -> None:
    client = await rig.client(GET[:-2] + mark + b"\r\n")
    client.half_close()
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(OK)
    assert (await client.rest()).endswith(b"\r\n\r\nok")


async def test_close_when_the_client_says_so(rig: Rig) -> None:
    client, _, _ = await exchange(rig, GET[:-2] + b"Connection: close\r\n\r\n", OK)
    assert await client.rest() == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    )


async def test_an_options_request_without_hops_left_ends_here(rig: Rig) -> None:
    """RFC 9110 section 7.6.2; the permit comes first."""
    asked = GET.replace(b"GET", b"OPTIONS", 1)[:-2] + b"Max-Forwards: 0\r\n"
    client = await rig.client(asked + b"\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 204 No Content\r\n")
    client.send(asked.replace(b" /", b" /no", 1) + b"Connection: close\r\n\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert [status for _, status in rig.authorizer.done] == [204, 403]
    assert rig.upstream.peers == []


async def test_a_half_sent_head_and_a_goodbye(rig: Rig) -> None:
    client = await rig.client(GET[:-5])
    client.half_close()
    assert await client.rest() == b""


# -- interim and early responses


async def test_100_continue_comes_after_the_permit(rig: Rig) -> None:
    client = await rig.client(post(b"/p", b"Content-Length: 2", b"Expect: 100-continue"))
    upstream = await rig.upstream.accept()
    assert b"expect" not in await upstream.head()
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hi")
    assert await upstream.exactly(2) == b"hi"
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert await client.response() == (200, b"ok")


async def test_no_100_for_who_did_not_wait_or_is_refused(rig: Rig) -> None:
    lines = (b"Content-Length: 2", b"Expect: 100-continue")
    client, _, _ = await exchange(rig, post(b"/p", *lines, body=b"hi"), OK)
    assert await client.response() == (200, b"ok")
    client.send(post(b"/no", *lines))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nconnection: close\r\n" in head  # whether the body follows nobody knows


async def test_103_is_passed_on(rig: Rig) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\nX-Sidecar-Y: 1\r\n\r\n"
    client, _, _ = await exchange(rig, GET, hint + hint + OK)
    for _ in range(2):
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nlink: </s>\r\n\r\n"
    assert await client.response() == (200, b"ok")


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 103 Hint\r\n\r\n" * 17,
    ],
)
async def test_interim_responses_that_must_not_be(rig: Rig, response: bytes) -> None:
    request = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    client, _, head = await exchange(rig, request, response)
    assert b"upgrade" not in head.lower()
    assert b"HTTP/1.1 502 " in await client.until(b"502 Bad Gateway\r\n")


async def test_an_early_response_ends_the_upload(rig: Rig) -> None:
    client = await rig.client(post(b"/p", b"Content-Length: 1000000", body=b"x"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    head = await client.head()
    assert head == b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\n"
    assert await client.exactly(2) == b"no"
    client.send(bytes(100_000))  # still read, and dropped, so that the answer is not lost
    assert await client.rest() == b""
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(100_000)
    assert rig.stats.upstream_open == 0


# -- refusals with bodies


async def test_a_short_refused_body_is_drained(rig: Rig) -> None:
    client = await rig.client(post(b"/no", b"Content-Length: 4", body=b"bo"))
    assert (await client.response())[0] == 403
    client.send(b"dy" + GET.replace(b"/a", b"/no"))
    assert (await client.response())[0] == 403
    client.send(post(b"/no", b"Transfer-Encoding: chunked", body=b"1\r\nx"))
    assert (await client.response())[0] == 403
    client.send(b"\r\n0\r\n\r\n" + GET.replace(b"/a", b"/no"))
    assert (await client.response())[0] == 403


async def test_a_long_refused_body_ends_the_connection(rig: Rig) -> None:
    client = await rig.client(post(b"/no", b"Content-Length: 100000000"))
    client.send(bytes(100_000))
    assert b"\r\nconnection: close\r\n" in await client.head()
    assert json.loads(await client.rest())["status"] == 403


@pytest.mark.limits(drain=1000, linger_bytes=100_000)
async def test_an_endless_refused_body_is_cut_off(rig: Rig) -> None:
    client = await rig.client(post(b"/no", b"Transfer-Encoding: chunked"))
    assert (await client.response())[0] == 403

    async def flood() -> None:
        while True:
            client.send(b"1000\r\n" + bytes(4096) + b"\r\n")
            await client.writer.drain()

    with pytest.raises(ConnectionError):
        await soon(flood())
    assert rig.stats.connections_open == 0


# -- those who leave, and those who take their time


async def test_a_client_that_leaves_ends_the_exchange(rig: Rig) -> None:
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    client.reset()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(1)
    assert rig.authorizer.done == [("/a", 0)]
    assert (rig.stats.client_aborts, rig.stats.upstream_open) == (1, 0)


async def test_idle_clients_are_closed(rig: Rig) -> None:
    silent = await rig.client()
    client, _, _ = await exchange(rig, GET, OK)
    await client.response()
    rig.pass_time(70)
    assert rig.stats.connections_open == 2
    rig.pass_time(10)
    assert await client.rest() == b""
    assert await silent.rest() == b""
    assert rig.stats.timeouts == {"idle": 2}


@pytest.mark.parametrize("start", [b"G", b"\r\n", GET[:-2]])
async def test_a_head_that_does_not_come(rig: Rig, start: bytes) -> None:
    client = await rig.client(start)
    await rig.becomes(lambda: rig.stats.bytes_received == len(start))
    rig.pass_time(10)
    client.send(b"")
    rig.pass_time(10)
    assert (await client.response())[0] == 408
    assert rig.stats.timeouts == {"header": 1}


async def test_trailers_are_kept_apart_both_ways(rig: Rig) -> None:
    rig.proxy._read = frozenset
    body = b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nAuthorization: Bearer x\r\n\r\n"
    asked = post(b"/p", b"Transfer-Encoding: chunked", b"TE: trailers", body=body)
    client = await rig.client(asked)
    upstream = await rig.upstream.accept()
    head = await upstream.head()
    assert b"x-sum" not in head
    assert await upstream.until(b"\r\n\r\n") == b"2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.send(answer + b"2\r\nok\r\n0\r\nX-Sum: 2\r\nSet-Cookie: a=b\r\n\r\n")
    assert b"x-sum" not in await client.head()
    assert await client.until(b"\r\n\r\n") == b"2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n"
    # In pieces, and for a client that did not ask for trailers.
    client.send(post(b"/p", b"Transfer-Encoding: chunked"))
    await upstream.head()
    client.send(body[:20])
    await upstream.until(b"hi\r\n")
    client.send(body[20:])
    assert await upstream.until(b"\r\n\r\n") == b"0\r\nx-sum: 1\r\n\r\n"
    upstream.send(answer)
    await client.head()
    upstream.send(b"2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n")
    assert await client.until(b"\r\n\r\n") == b"2\r\nok\r\n0\r\n\r\n"


async def test_connection_takes_trailers_away_too(rig: Rig) -> None:
    rig.proxy._read = frozenset
    body = b"0\r\nX-Hop: 1\r\nX-Sum: 2\r\n\r\n"
    await rig.client(
        post(b"/p", b"Transfer-Encoding: chunked", b"Connection: X-Hop", b"X-Hop: 0", body=body)
    )
    upstream = await rig.upstream.accept()
    assert b"x-hop" not in await upstream.head()
    assert await upstream.until(b"\r\n\r\n") == b"0\r\nx-sum: 2\r\n\r\n"


async def test_a_body_that_does_not_come(rig: Rig) -> None:
    request = post(b"/p", b"Content-Length: 4", body=b"bo")
    client = await rig.client(request)
    upstream = await rig.upstream.accept()
    await upstream.head()
    rig.pass_time(10)
    client.send(b"d")
    await rig.becomes(lambda: rig.stats.bytes_received == len(request) + 1)
    assert rig.stats.timeouts == {}
    rig.pass_time(1)
    assert (await client.response())[0] == 408
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(5)
    assert rig.stats.timeouts == {"body": 1}


@pytest.mark.limits(body_rate=100, body_window=10.0)
async def test_a_body_that_comes_too_slowly(rig: Rig) -> None:
    """Fast enough over each window is enough; a byte now and then is not."""
    client = await rig.client(post(b"/p", b"Content-Length: 100000"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    for _ in range(3):
        client.send(b"x" * 1000)
        await upstream.exactly(1000)
        rig.pass_time(11)
    assert rig.stats.timeouts == {}
    client.send(b"x" * 999)
    await upstream.exactly(999)
    rig.pass_time(11)
    assert (await client.response())[0] == 408
    assert rig.stats.timeouts == {"body": 1}


@pytest.mark.limits(total=30.0)
async def test_an_exchange_that_takes_longer_than_any_may(rig: Rig) -> None:
    waiting = await rig.client(GET)
    await (await rig.upstream.accept()).head()
    begun = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    await begun.until(b"ab")
    cold = await rig.client(GET.replace(b"/a", b"/cold"))
    await rig.becomes(lambda: len(rig.authorizer.decided) == 3)
    rig.pass_time(30)
    assert rig.stats.timeouts == {}
    rig.pass_time(1)
    assert (await waiting.response())[0] == 504
    with pytest.raises(ConnectionError):
        await begun.rest()
    assert (await cold.response())[0] == 504
    assert rig.stats.timeouts == {"total": 3}
    assert rig.stats.in_flight == 0


@pytest.mark.limits(in_flight=2)
async def test_more_in_flight_than_may_be_is_shed(rig: Rig) -> None:
    first, cold = await rig.client(GET), await rig.client(GET.replace(b"/a", b"/cold"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    await rig.becomes(lambda: rig.stats.in_flight == 2)
    third = await rig.client(GET)
    head = await third.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in head
    assert rig.stats.shed == 1
    assert len(rig.authorizer.decided) == 2  # not even decided
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (await first.response())[0] == 200
    third.send(GET)  # the shed client was told to come again, on the same connection
    await upstream.head()
    cold.reset()
    await rig.becomes(lambda: rig.stats.in_flight == 1)


async def test_a_client_that_takes_nothing_is_cut_off(rig: Rig) -> None:
    client = await rig.client(GET, buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
    upstream.send(bytes(64 * MIB))
    sent = -1
    while sent != rig.stats.bytes_sent:
        sent = rig.stats.bytes_sent
        for _ in range(200):
            await asyncio.sleep(0)
    rig.pass_time(61)  # seen: so many bytes wait
    assert rig.stats.connections_open == 1
    rig.pass_time(61)  # still as many
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    assert rig.stats.timeouts == {"send": 1}
    assert rig.authorizer.done == [("/a", 0)]


async def test_who_lingers_too_long_is_cut_off(rig: Rig) -> None:
    client = await rig.client(b"BAD\r\n\r\n")
    assert (await client.response())[0] == 400
    assert rig.stats.connections_open == 1
    rig.pass_time(6)
    await rig.becomes(lambda: rig.stats.connections_open == 0)


# -- limits and drain


@pytest.mark.limits(connections=1)
async def test_one_connection_too_many(rig: Rig) -> None:
    first = await rig.client(GET.replace(b"/a", b"/no"))
    assert (await first.response())[0] == 403
    second = await rig.client(GET)
    head = await second.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in head
    assert json.loads(await second.rest())["code"] == "unavailable"
    assert rig.stats.connections_refused == 1
    second.close()
    await rig.becomes(lambda: rig.stats.connections_open == 1)
    first.send(GET.replace(b"/a", b"/no"))
    assert (await first.response())[0] == 403


@pytest.mark.limits(connections=0, connections_told=0)
async def test_far_too_many_connections(rig: Rig) -> None:
    client = await rig.client()
    with contextlib.suppress(ConnectionError):
        assert await client.rest() == b""
    assert (rig.stats.connections_refused, rig.stats.connections_open) == (1, 0)


async def test_drain_finishes_what_is_under_way(rig: Rig) -> None:
    idle = await rig.client(GET.replace(b"/a", b"/no"))
    await idle.response()
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    draining = asyncio.ensure_future(rig.proxy.drain(60))
    assert await idle.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await rig.client()
    assert not draining.done()
    upstream.send(OK)
    assert b"\r\nconnection: close\r\n" in await client.head()
    assert await client.rest() == b"ok"
    client.close()
    assert await soon(draining)


async def test_drain_gives_up_in_the_end(rig: Rig) -> None:
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    assert not await rig.proxy.drain(0)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.exactly(1)


async def test_drain_with_nobody_there(rig: Rig) -> None:
    assert await rig.proxy.drain(60)


async def test_a_taken_port_says_what_to_do(rig: Rig) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Misuse, match=f"cannot listen on 127.0.0.1:{port}.*another address"):
            await rig.proxy.listen("127.0.0.1", port)


async def test_rules_name_what_callers_may_not_send(rig: Rig) -> None:
    rules = frozenset({"x-tier"})
    proxy = Proxy(rig.authorizer, rig.pool, strip=lambda: rules)
    assert proxy.names(ANYBODY)[b"x-tier"] == b""
    assert proxy.names(ANYBODY) is proxy.names(ANYBODY)
    rules = frozenset({"x-level"})
    assert proxy.names(ANYBODY)[b"x-level"] == b""
    assert proxy.names(ANYBODY)[b"x-tier"] == b"x-tier: "


async def test_a_credential_stays_here_where_it_admitted(rig: Rig) -> None:
    places: tuple[Location, ...]
    places = (Location(b"authorization"), Location(b"x-key"), Location(b"sid", cookie=True))
    proxy = Proxy(rig.authorizer, rig.pool, remove=lambda: places)
    bare = proxy.names(ALICE)
    assert bare is proxy.names(ALICE)
    assert [bare[name] for name in (b"authorization", b"x-key", b"dpop")] == [b"", b"", b""]
    assert bare[b"cookie"] == b"cookie: "
    assert bare.cookies == {b"sid"}
    # Of a caller that nobody knows nothing was taken for a credential.
    assert proxy.names(ANYBODY)[b"authorization"] == b"authorization: "
    places = (Location(b"x-key"),)
    assert proxy.names(ALICE)[b"authorization"] == b"authorization: "


async def test_an_assertion_goes_with_the_request(rig: Rig) -> None:
    rig.authorizer.asserted = b"x-sidecar-assertion: a.b.c\r\n"
    client = await rig.client(b"GET /a HTTP/1.1\r\nHost: h\r\nX-Sidecar-Assertion: mine\r\n\r\n")
    upstream = await rig.upstream.accept()
    head = await upstream.head()
    assert head.count(b"x-sidecar-assertion: a.b.c\r\n") == 1
    assert b"mine" not in head
    client.close()
