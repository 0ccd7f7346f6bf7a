"""Health and admin pages: fixed paths, read only, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from sidecar.decide.challenge import Answer
from sidecar.edge import admin, pages
from sidecar.edge.pages import PageServer

from .conftest import Peer, soon

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


class Served:
    """The pages, and whoever asks for them."""

    def __init__(self) -> None:
        self.why_not = "no policy yet"
        self.go = asyncio.Event()
        self.server = PageServer(
            {
                **admin.admin_pages(
                    self.metrics, lambda: self.why_not, lambda: {"a": 1}, lambda: {"b": 2},
                    self.decisions, self.documents,
                ),
                "/slow": self.slow, "/broken": self.broken, "/large": self.large,
            }
        )  # fmt: skip
        self.port = 0
        self.clients: list[Peer] = []

    async def metrics(self) -> bytes:
        return b"a_total 1\n"

    async def decisions(self) -> list[dict[str, int]]:
        return [{"n": 1}]

    async def documents(self) -> bytes:
        return b'{"documents":[]}'

    async def slow(self) -> Answer:
        await self.go.wait()
        return Answer(200, [], b"slow")

    async def broken(self) -> Answer:
        raise RuntimeError("a defect")

    async def large(self) -> Answer:
        return Answer(200, [], b"x" * 1_000_000)

    async def client(self, data: bytes = b"") -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22))
        self.clients.append(peer)
        peer.send(data)
        return peer

    async def status(self, request: bytes) -> tuple[int, bytes]:
        return await (await self.client(request)).response()


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    found = Served()
    _, found.port = await found.server.start("127.0.0.1", 0)
    yield found
    for client in found.clients:
        client.writer.transport.abort()
    await found.server.close()
    await asyncio.sleep(0)


async def becomes(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds."""

    async def turn() -> None:
        while not condition():  # noqa: ASYNC110  (nobody would set the event)
            await asyncio.sleep(0)

    await soon(turn())


def get(path: str, method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: a\r\n\r\n".encode()


async def test_what_there_is(served: Served) -> None:
    assert await served.status(get("/healthz")) == (200, b"ok\n")
    assert await served.status(get("/readyz")) == (503, b"not ready: no policy yet\n")
    served.why_not = ""
    assert await served.status(get("/readyz")) == (200, b"ready\n")
    assert await served.status(get("/metrics")) == (200, b"a_total 1\n")
    assert await served.status(get("/snapshot?x=1")) == (200, b'{\n  "a": 1\n}\n')
    assert await served.status(get("/documents")) == (200, b'{"documents":[]}')
    assert await served.status(get("/config")) == (200, b'{\n  "b": 2\n}\n')
    assert (await served.status(get("/decisions")))[0] == 200


async def test_what_there_is_not(served: Served) -> None:
    status, body = await served.status(get("/"))
    assert status == 404
    assert b"/healthz" in body
    assert (await served.status(get("/healthz", "POST")))[0] == 405
    assert (await served.status(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"))[0] == 400


async def test_a_body_is_refused(served: Served) -> None:
    asked = b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    assert (await served.status(asked))[0] == 400
    chunked = b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    client = await served.client(chunked + GET)
    assert (await client.rest()).count(b"HTTP/1.1 ") == 1  # what follows is not read as a request


async def test_requests_one_after_the_other(served: Served) -> None:
    client = await served.client(GET + get("/slow") + get("/healthz", "HEAD") + GET[:10])
    assert await client.response() == (200, b"ok\n")
    served.go.set()
    assert await client.response() == (200, b"slow")
    assert b"content-length: 3" in await client.head()
    client.send(GET[10:])
    assert await client.response() == (200, b"ok\n")


async def test_old_clients_and_those_who_say_close(served: Served) -> None:
    for asked in (get("/healthz", version="1.0"), GET[:-2] + b"Connection: close\r\n\r\n"):
        client = await served.client(asked)
        assert (await client.rest()).endswith(b"\r\n\r\nok\n")


async def test_a_defect_is_500_and_said_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await served.status(get("/broken")))[0] == 500
    assert "a page could not be made" in caplog.text


async def test_a_client_that_takes_nothing_is_not_answered_on_and_on(served: Served) -> None:
    client = await served.client()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.send(get("/large") * 200)
    await becomes(lambda: any(each._full for each in served.server.connections))
    for _ in range(100):  # would go on answering by now
        await asyncio.sleep(0)
    [connection] = served.server.connections
    assert connection._transport.get_write_buffer_size() < 3_000_000


async def test_one_client_too_many(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody keeps a kubelet out by connecting: the oldest goes that waits for nothing."""
    monkeypatch.setattr(pages, "MAX_CONNECTIONS", 2)
    busy = await served.client(get("/slow"))
    await becomes(lambda: any(each._task for each in served.server.connections))
    idle = await served.client(GET)
    await idle.response()
    third = await served.client(GET)
    assert (await third.response())[0] == 200
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await idle.head()
    assert len(served.server.connections) == 2
    for _ in range(2):
        last = await served.client(get("/slow"))
        await becomes(lambda: all(each._task for each in served.server.connections))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await busy.head()
    assert len(served.server.connections) == 2
    last.close()


async def test_too_much_behind_a_request_under_way(served: Served) -> None:
    client = await served.client(get("/slow"))
    await becomes(lambda: any(each._task for each in served.server.connections))
    client.send(b"x" * (pages.MAX_HEAD + 1))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.head()
