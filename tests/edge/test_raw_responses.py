"""The corpus of raw upstream responses, through the proxy: whole, in two pieces, byte by byte.

After each of them another request gets its own answer: on the connections that go on, or on new
ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from sidecar.edge.upstream_connection import UpstreamConnection

from .conftest import Peer, Rig, soon
from .raw_responses import GET, HEAD, RESPONSES, Case, Cut, Outcome, Refused, Seen

NEXT = b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n"
ITS_OWN = b"HTTP/1.1 203 Next\r\ncontent-length: 4\r\n\r\nnext"
LONG = 5000  # bytes; beyond, a piece is not one byte but this many:
PIECE = 251


class Pieces(asyncio.Protocol):
    """Hands an upstream connection what arrives in pieces of `size`, one a turn of the loop."""

    def __init__(self, inner: UpstreamConnection, size: int) -> None:
        self.inner = inner
        self.size = size
        self.fed = 0
        self.meanwhile: Callable[[], object] = int  # called between reading and handing over
        self._next: deque[Callable[[], object]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), self.size):
            self._later(partial(self._feed, data[at : at + self.size]))

    def eof_received(self) -> bool:
        self._later(self._end)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(partial(self.inner.connection_lost, exc))

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def _feed(self, data: bytes) -> None:
        self.fed += len(data)
        self.meanwhile()
        self.inner.data_received(data)

    def _end(self) -> None:
        self.inner.eof_received()
        self.inner.transport.close()

    def _later(self, call: Callable[[], object]) -> None:
        self._next.append(call)
        if len(self._next) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._next[0]()
        self._next.popleft()
        if self._next:
            asyncio.get_running_loop().call_soon(self._turn)


class Client(asyncio.Protocol):
    """Keeps what comes, and how it ended: `eof`, `reset` or, not yet, nothing."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.data = b""
        self.end = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.end = "eof"

    def connection_lost(self, exc: Exception | None) -> None:
        self.end = self.end or "reset"


class Stage:
    """A rig whose upstream is read in pieces, and its clients."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.clients: list[Client] = []
        self.reading: list[Pieces] = []

    async def start(self, size: int, **limits: Any) -> None:
        async def connect(new: Callable[[], UpstreamConnection]) -> None:
            def pieces() -> Pieces:
                self.reading.append(Pieces(new(), size))
                return self.reading[-1]

            port = self.rig.upstream.port
            await asyncio.get_running_loop().create_connection(pieces, "127.0.0.1", port)

        await self.rig.start(connect=connect, **limits)

    async def client(self) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await soon(loop.create_connection(Client, "127.0.0.1", self.rig.port))
        self.clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self.clients:
            client.transport.abort()
        await self.rig.stop()


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.stop()


def unchunked(data: bytes) -> tuple[bytes, bytes, bool]:
    """Body, trailers, and whether they are whole."""
    body = b""
    while True:
        size, mark, rest = data.partition(b"\r\n")
        if not mark:
            return body + size, b"", False
        length = int(size, 16)
        if not length:
            return body, rest[:-2], rest.endswith(b"\r\n")
        body += rest[:length]
        if len(rest) < length + 2:
            return body, b"", False
        assert rest[length : length + 2] == b"\r\n"
        data = rest[length + 2 :]


def read(data: bytes, outcome: Outcome) -> tuple[bytes, bytes, bytes, bool]:
    """Head, body, trailers, and whether they are whole, of an answer with such a head."""
    if isinstance(outcome, Refused):
        cut = data.find(b"\r\n\r\n", len(outcome.first)) + 4
        return data[:cut], data[cut:], b"", cut > 3
    head, rest = data[: len(outcome.head)], data[len(outcome.head) :]
    if head.endswith(b"\r\n\r\n") and b"\r\ntransfer-encoding: chunked\r\n" in head:
        return (head, *unchunked(rest))
    return head, rest, b"", head == outcome.head


def expected(outcome: Seen | Cut) -> tuple[bytes, bytes, bytes, bool]:
    if isinstance(outcome, Cut):
        return outcome.head, outcome.body, b"", b"transfer-encoding" not in outcome.head
    return outcome.head, outcome.body, outcome.trailers, True


async def settles(stage: Stage, client: Client, outcome: Outcome) -> None:
    """Wait until the client has what it should; what it has instead is said where it has not."""
    end = ""
    if isinstance(outcome, Cut):
        end = "reset"
    elif isinstance(outcome, Refused):
        end = "eof" if outcome.reason == "bad_response" else ""
    elif not outcome.client:
        end = "eof"

    def settled() -> bool:
        if client.end != end:
            return False
        found = read(client.data, outcome)
        if isinstance(outcome, Refused):
            return found[3] and b"HTTP/1.1 502 " in found[0]
        return found == expected(outcome)

    try:
        await stage.rig.becomes(settled)
    except TimeoutError:
        found = read(client.data, outcome)
        wanted = outcome if isinstance(outcome, Refused) else expected(outcome)
        pytest.fail(f"the client has {found} {client.end!r} instead of {wanted} {end!r}")


def check_refusal(data: bytes, case: Case, outcome: Refused) -> None:
    assert data.startswith(outcome.first + b"HTTP/1.1 502 Bad Gateway\r\n")
    head, _, body = data[len(outcome.first) :].partition(b"\r\n\r\n")
    ends = outcome.reason == "bad_response" or b"HTTP/1.0" in case.request
    assert (b"\r\nconnection: close" in head) is ends
    if case.request.startswith(HEAD[:5]):
        assert body == b""
    else:
        assert b"\r\ncontent-length: %d" % len(body) in head
        assert json.loads(body)["status"] == 502


async def ends_well(stage: Stage, case: Case, outcome: Outcome, client: Client, up: Peer) -> None:
    """The outcome has come, and the next request gets its own answer."""
    rig = stage.rig
    await settles(stage, client, outcome)
    goes_on = isinstance(outcome, Seen) and outcome.client
    kept = isinstance(outcome, Seen) and outcome.upstream
    errors: dict[str, int] = {}
    if isinstance(outcome, Refused):
        check_refusal(client.data, case, outcome)
        errors = {outcome.reason: 1}
        goes_on = outcome.reason == "closed"
    elif isinstance(outcome, Cut):
        errors = {"closed" if case.ends else "bad_response": 1}
    assert rig.stats.upstream_errors == errors
    if kept:
        sent = len(case.sent + case.rest)
        await rig.becomes(lambda: stage.reading[0].fed == sent and rig.stats.upstream_idle == 1)
    else:
        await rig.becomes(lambda: rig.stats.upstream_open == 0)
    before = client.data
    asking = client if goes_on else await stage.client()
    had = len(asking.data)
    asking.transport.write(NEXT)
    if not kept:
        up = await rig.upstream.accept()
    assert (await up.head()).startswith(b"GET /next HTTP/1.1\r\n")
    up.send(ITS_OWN)
    await rig.becomes(lambda: len(asking.data) >= had + len(ITS_OWN))
    assert asking.data[had:] == ITS_OWN
    assert client.data.startswith(before)
    assert asking.end == ""
    assert rig.stats.upstream_created == (1 if kept else 2)


async def begin(stage: Stage, case: Case, size: int) -> tuple[Client, Peer]:
    await stage.start(size)
    client = await stage.client()
    client.transport.write(case.request)
    upstream = await stage.rig.upstream.accept()
    await upstream.head()
    return client, upstream


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


@each(RESPONSES)
@pytest.mark.parametrize("size", [1 << 20, 1], ids=["whole", "byte by byte"])
async def test_the_client_sees_exactly_what_it_should(stage: Stage, case: Case, size: int) -> None:
    said = case.sent + case.rest
    outcome: Outcome = case.outcome
    if case.rest and size > 1:
        outcome = Refused()  # nothing of it had gone on
    client, upstream = await begin(stage, case, PIECE if size == 1 and len(said) > LONG else size)
    upstream.send(said)
    if case.ends:
        upstream.close()
    await ends_well(stage, case, outcome, client, upstream)


@each([case for case in RESPONSES if case.rest])
async def test_what_is_wrong_later_breaks_the_answer_off(stage: Stage, case: Case) -> None:
    client, upstream = await begin(stage, case, 1 << 20)
    upstream.send(case.sent)
    outcome = case.outcome
    assert isinstance(outcome, Cut)
    await stage.rig.becomes(lambda: read(client.data, outcome) == expected(outcome))
    assert client.end == ""
    upstream.send(case.rest)
    await ends_well(stage, case, outcome, client, upstream)


async def test_bytes_out_of_turn_are_no_answer_to_who_waits_in_line(stage: Stage) -> None:
    """They wait in the kernel when the connection is free again, and somebody wants it at once."""
    await stage.start(1 << 20, upstream_connections=1)
    rig = stage.rig
    first = await stage.client()
    first.transport.write(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    second = await stage.client()
    second.transport.write(NEXT)
    await rig.becomes(lambda: rig.stats.upstream_waiting == 1)

    def more() -> None:
        os.write(upstream.writer.get_extra_info("socket").fileno(), ITS_OWN.replace(b"n", b"m"))
        taken = stage.reading[0].inner.transport.get_extra_info("socket").fileno()
        assert select.select([taken], [], [], 5)[0]

    stage.reading[0].meanwhile = more
    upstream.send(ITS_OWN)
    await rig.becomes(lambda: first.data == ITS_OWN)
    another = await rig.upstream.accept()
    assert (await another.head()).startswith(b"GET /next ")
    another.send(ITS_OWN)
    await rig.becomes(lambda: len(second.data) >= len(ITS_OWN))
    assert second.data == ITS_OWN


def test_there_are_enough_cases_and_each_is_named_once() -> None:
    assert len(RESPONSES) >= 250
    assert len({case.name for case in RESPONSES}) == len(RESPONSES)
