"""Bodies that are decided on: held within bounds, passed on as they came, or refused before anything
goes upstream."""

from __future__ import annotations

import pytest

from sidecar.decide.request import CROWDED, TOO_LARGE

from .conftest import Peer, Rig
from .test_proxy import GET, OK, post

JSON = b'{"amount": 7}'


def upload(body: bytes, *lines: bytes, target: bytes = b"/read") -> bytes:
    return post(target, b"Content-Length: %d" % len(body), *lines, body=body)


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
    return post(b"/read", b"Transfer-Encoding: chunked", body=body + b"0\r\n" + trailers + b"\r\n")


async def forwarded(rig: Rig, client: Peer, body: bytes) -> Peer:
    """The upstream gets the very bytes, and answers."""
    upstream = await rig.upstream.accept()
    head = await upstream.head()
    assert b"content-length: %d\r\n" % len(body) in head
    assert await upstream.exactly(len(body)) == body
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    return upstream


async def settled(rig: Rig) -> None:
    await rig.becomes(lambda: not rig.stats.bodies_held and not rig.stats.in_flight)


async def test_a_body_that_came_with_its_head(rig: Rig) -> None:
    client = await rig.client(upload(JSON))
    await forwarded(rig, client, JSON)
    assert rig.authorizer.bodies == [JSON]
    await settled(rig)


async def test_a_body_that_comes_in_pieces_is_whole_before_anything_goes_on(rig: Rig) -> None:
    request = upload(JSON)
    client = await rig.client(request[:-8])
    await rig.becomes(lambda: rig.stats.bodies_held > 0)
    client.send(request[-8:-3])
    await rig.becomes(lambda: rig.stats.bodies_held == len(JSON) - 3)
    assert rig.upstream.peers == []
    client.send(request[-3:])
    await forwarded(rig, client, JSON)
    await settled(rig)


async def test_chunks_are_read_as_one_and_go_on_with_their_trailers(rig: Rig) -> None:
    client = await rig.client(chunked(b'{"am', b'ount": 7}', trailers=b"X-Sum: 1\r\n"))
    upstream = await rig.upstream.accept()
    assert b"transfer-encoding: chunked\r\n" in await upstream.head()
    sent = await upstream.until(b"\r\n0\r\n")
    assert sent == b"d\r\n" + JSON + b"\r\n0\r\n"
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.authorizer.bodies == [JSON]


async def test_it_is_held_until_nobody_needs_it_any_more(rig: Rig) -> None:
    request = upload(JSON)
    client = await rig.client(request[:-3])
    await rig.becomes(lambda: rig.stats.bodies_held > 0)
    client.send(request[-3:])
    upstream = await rig.upstream.accept()
    await upstream.head()
    assert await upstream.exactly(len(JSON)) == JSON
    assert rig.stats.bodies_held == len(JSON)  # it may have to be sent again
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    await client.head()
    assert rig.stats.bodies_held == 0
    upstream.send(b"ok")
    await settled(rig)


async def test_no_body_at_all(rig: Rig) -> None:
    client = await rig.client(post(b"/read"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.authorizer.bodies == [b""]


async def test_it_is_asked_for_where_it_is_expected(rig: Rig) -> None:
    client = await rig.client(upload(b"", b"Expect: 100-continue").replace(b": 0", b": 13"))
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(JSON)
    await forwarded(rig, client, JSON)
    assert rig.authorizer.bodies == [JSON]


async def test_what_is_refused_by_it_is_nobodys_business(rig: Rig) -> None:
    client = await rig.client(upload(b"no") + GET)
    status, _ = await client.response()
    assert status == 403
    upstream = await rig.upstream.accept()  # the next one; the connection goes on
    assert (await upstream.head()).startswith(b"GET /a ")
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    await settled(rig)


@pytest.mark.parametrize("said", [True, False], ids=["its length says so", "it turns out so"])
async def test_more_than_may_be(rig: Rig, said: bool) -> None:
    body = b"x" * 65
    request = upload(body) if said else chunked(b"x" * 40, b"x" * 25)
    client = await rig.client(request)
    status, _ = await client.response()
    assert status == 413
    assert rig.authorizer.bodies == [TOO_LARGE]
    assert rig.upstream.peers == []
    await settled(rig)


async def test_to_the_byte(rig: Rig) -> None:
    client = await rig.client(upload(b"x" * 64))
    await forwarded(rig, client, b"x" * 64)


@pytest.mark.limits(bodies_held=100)
async def test_more_than_may_be_held_of_all(rig: Rig) -> None:
    first = await rig.client(upload(b"x" * 60)[:-1])
    await rig.becomes(lambda: rig.stats.bodies_held == 59)
    second = await rig.client(upload(b"x" * 60)[:-1])
    status, _ = await second.response()
    assert status == 503
    assert (rig.authorizer.bodies, rig.stats.bodies_refused) == ([CROWDED], 1)
    first.send(b"x")
    await forwarded(rig, first, b"x" * 60)
    await settled(rig)


async def test_what_only_a_shadow_reads_goes_on_whatever_its_size(rig: Rig) -> None:
    rig.authorizer.optional = True
    body = b"x" * 1000
    client = await rig.client(chunked(b"x" * 40, b"x" * 60, b"x" * 900))
    upstream = await rig.upstream.accept()
    await upstream.head()
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += await upstream.until(b"\r\n")
    assert received.count(b"x") == len(body)
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.authorizer.bodies == [TOO_LARGE]
    await settled(rig)


async def test_a_stream_is_not_kept_from_its_service_for_a_shadow(rig: Rig) -> None:
    rig.authorizer.optional = True
    client = await rig.client(post(b"/read", b"Transfer-Encoding: chunked", body=b"2\r\nhi\r\n"))
    upstream = await rig.upstream.accept()  # though more may come
    await upstream.head()
    assert await upstream.until(b"hi\r\n") == b"2\r\nhi\r\n"
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n")
    assert await client.until(b"yes\r\n")
    client.send(b"0\r\n\r\n")
    upstream.send(b"0\r\n\r\n")
    assert await client.until(b"0\r\n\r\n")
    await settled(rig)


async def test_a_long_one_with_its_length_too(rig: Rig) -> None:
    rig.authorizer.optional = True
    body = b"x" * 5000
    request = upload(body)
    client = await rig.client(request[:-4000])
    upstream = await rig.upstream.accept()
    await upstream.head()
    client.send(request[-4000:])
    assert await upstream.exactly(len(body)) == body
    upstream.send(OK)
    assert await client.response() == (200, b"ok")


@pytest.mark.parametrize(
    "rest", [b"zz\r\n", b"5\r\nhelloX", b"-1\r\n"], ids=["no size", "no end", "a sign"]
)
async def test_a_body_that_is_none(rig: Rig, rest: bytes) -> None:
    client = await rig.client(post(b"/read", b"Transfer-Encoding: chunked"))
    await rig.becomes(lambda: rig.stats.in_flight == 1)
    client.send(b"2\r\nhi\r\n" + rest)
    assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    assert rig.upstream.peers == []
    assert rig.authorizer.cancelled == 1
    await settled(rig)


async def test_a_body_that_ends_early(rig: Rig) -> None:
    client = await rig.client(upload(JSON)[:-1])
    await rig.becomes(lambda: rig.stats.bodies_held > 0)
    client.half_close()
    assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    assert rig.upstream.peers == []
    await settled(rig)


async def test_a_client_that_leaves_is_let_go(rig: Rig) -> None:
    client = await rig.client(upload(JSON)[:-1])
    await rig.becomes(lambda: rig.stats.bodies_held > 0)
    client.reset()
    await settled(rig)
    await rig.becomes(lambda: rig.authorizer.cancelled == 1)
    assert rig.stats.client_aborts == 1


async def test_a_body_that_does_not_come(rig: Rig) -> None:
    client = await rig.client(upload(JSON)[:-1])
    await rig.becomes(lambda: rig.stats.bodies_held > 0)
    rig.pass_time(11)
    assert (await client.head()).startswith(b"HTTP/1.1 408 ")
    assert rig.upstream.peers == []
    await settled(rig)


async def test_pipelined_requests_wait_for_it(rig: Rig) -> None:
    client = await rig.client(upload(JSON)[:-1])
    await rig.becomes(lambda: rig.stats.bodies_held > 0)
    client.send(JSON[-1:] + upload(b"no"))
    await forwarded(rig, client, JSON)
    status, _ = await client.response()
    assert status == 403
    assert rig.authorizer.bodies == [JSON, b"no"]
