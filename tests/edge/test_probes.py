"""Probes of a service, as a kubelet would do them, and what is told of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from msgspec.structs import replace

from sidecar.edge import probes
from sidecar.edge.pages import PageServer
from sidecar.edge.probes import Grpc, Http, Probe, Probes, Tcp
from tests.certificates import Authority

from .conftest import Peer, soon

HERE = "127.0.0.1"


@asynccontextmanager
async def service(
    handle: Callable[[Peer], Awaitable[None]], host: str = HERE, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A service that does what the test does with each connection; yields its port."""
    handling: set[asyncio.Task[Any]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.add(task)
        try:
            await handle(Peer(reader, writer))
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, host, 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in handling:
        task.cancel()
    await asyncio.gather(*handling, return_exceptions=True)


def answering(data: bytes, heads: list[bytes] | None = None) -> Callable[[Peer], Awaitable[None]]:
    async def handle(peer: Peer) -> None:
        head = await peer.head()
        if heads is not None:
            heads.append(head)
        peer.send(data)
        await peer.flush()

    return handle


async def asked(probe: Probe, here: str = HERE) -> tuple[int, bytes]:
    """What `/probe/it` says; the usual second may be too short for a busy machine."""
    made = Probes({"it": replace(probe, timeout=30) if probe.timeout == 1 else probe})
    answer = await soon(made.pages()["/probe/it"](here, []))
    assert (b"cache-control", b"no-store") in answer.headers
    [(labels, count)] = made.counts.items()
    assert (labels, count) == (("it", "success" if answer.status == 200 else "failure"), 1)
    await made.close()
    return answer.status, answer.body


# -- http


@pytest.mark.parametrize(
    ("status", "well"),
    [(200, True), (204, True), (302, True), (399, True), (400, False), (404, False), (503, False)],
)
async def test_what_is_success_over_http(status: int, well: bool) -> None:
    data = b"HTTP/1.1 %d X\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n" % status
    async with service(answering(data)) as port:
        found = await asked(Probe(http=Http(port)))
    assert found == ((200, b"ok\n") if well else (503, b"failed: it answered %d\n" % status))


async def test_the_request_is_a_kubelets() -> None:
    heads: list[bytes] = []
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", heads)
    async with service(answer) as port:
        await asked(Probe(http=Http(port, "/live?a=%2F&b")))
        await asked(
            Probe(http=Http(port, headers={"Host": "bank.example", "User-Agent": "x", "X-A": "b"}))
        )
        await asked(Probe(http=Http(port, "live")))  # as Kubernetes lets it be written
        await asked(Probe(http=Http(port, "@192.0.2.1/")))
    first, second, *bare = (head.decode().lower().split("\r\n") for head in heads)
    assert [head[0] for head in bare] == ["get /live http/1.1", "get /@192.0.2.1/ http/1.1"]
    assert first[0] == "get /live?a=%2f&b http/1.1"
    assert sorted(first[1:-2]) == [
        "accept: */*", "connection: close", f"host: {HERE}:{port}", "user-agent: kube-probe/sidecar",
    ]  # fmt: skip
    assert sorted(second[1:-2]) == [
        "accept: */*", "connection: close", "host: bank.example", "user-agent: x", "x-a: b",
    ]  # fmt: skip


async def test_it_goes_where_it_was_asked_unless_it_names_a_host() -> None:
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with service(answer, "::1") as port:
        assert (await asked(Probe(http=Http(port)), "::1"))[0] == 200
        assert (await asked(Probe(tcp=Tcp(port)), "::1"))[0] == 200
        assert (await asked(Probe(http=Http(port)), HERE))[0] == 503
        assert (await asked(Probe(http=Http(port, host="::1")), HERE))[0] == 200
        assert (await asked(Probe(tcp=Tcp(port, "::1")), HERE))[0] == 200


async def test_nothing_of_the_answer_comes_back() -> None:
    body = b"password"
    data = b"HTTP/1.1 500 password\r\nSet-Cookie: password\r\nContent-Length: 8\r\n\r\n" + body
    async with service(answering(data)) as port:
        assert b"password" not in (await asked(Probe(http=Http(port))))[1]


async def test_a_body_without_an_end_is_not_waited_for() -> None:
    async def endless(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            peer.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await peer.flush()
            await asyncio.sleep(0)

    async with service(endless) as port:
        assert await asked(Probe(http=Http(port), timeout=60)) == (200, b"ok\n")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 20000000 OK\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_no_http(data: bytes) -> None:
    async with service(answering(data)) as port:
        status, body = await asked(Probe(http=Http(port)))
    assert (status, body) == (503, b"failed: no sound HTTP answer\n")


async def test_silence() -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    async with service(silent) as port:
        for probe in (
            Probe(http=Http(port), timeout=0.05), Probe(grpc=Grpc(port), timeout=0.05),
        ):  # fmt: skip
            assert await asked(probe) == (503, b"failed: no answer within 0.05 s\n")


async def test_nobody_there() -> None:
    async with service(answering(b"")) as port:
        pass
    said = (503, b"failed: no connection: Connection refused\n")
    assert await asked(Probe(tcp=Tcp(port))) == said
    assert await asked(Probe(http=Http(port))) == said
    assert await asked(Probe(grpc=Grpc(port))) == (503, b"failed: gRPC UNAVAILABLE\n")


async def test_https_is_not_verified(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().issue("other.example").write(tmp_path, "other"))
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with service(answer, tls=context) as port:
        assert (await asked(Probe(http=Http(port, scheme="HTTPS"))))[0] == 200
        assert (await asked(Probe(http=Http(port))))[0] == 503


# -- grpc


@asynccontextmanager
async def grpc_service() -> AsyncIterator[int]:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # stubs lack it
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await servicer.set("sick", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"{HERE}:0")
    await server.start()
    yield port
    await server.stop(0)


async def test_grpc() -> None:
    async with grpc_service() as port:
        assert await asked(Probe(grpc=Grpc(port))) == (200, b"ok\n")
        assert await asked(Probe(grpc=Grpc(port, "sick"))) == (
            503, b"failed: not serving\n",
        )  # fmt: skip
        assert await asked(Probe(grpc=Grpc(port, "other"))) == (
            503, b"failed: gRPC NOT_FOUND\n",
        )  # fmt: skip


# -- together


class Slow:
    """A service that answers when it is told to."""

    def __init__(self) -> None:
        self.connections = 0
        self.go = asyncio.Event()

    async def handle(self, peer: Peer) -> None:
        self.connections += 1
        await peer.head()
        await self.go.wait()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await peer.flush()


async def turns(condition: Callable[[], bool]) -> None:
    async def turn() -> None:
        while not condition():  # noqa: ASYNC110  (nobody would set the event)
            await asyncio.sleep(0)

    await soon(turn())


async def test_however_many_ask_the_service_is_asked_once_at_a_time() -> None:
    slow = Slow()
    async with service(slow.handle) as port:
        made = Probes({"it": Probe(http=Http(port), timeout=60)})
        page = made.pages()["/probe/it"]
        asking = [asyncio.ensure_future(page(HERE, [])) for _ in range(50)]
        await turns(lambda: slow.connections == 1)
        asking[0].cancel()  # one who leaves takes nothing from the others
        slow.go.set()
        answers = await soon(asyncio.gather(*asking[1:]))
        assert {answer.status for answer in answers} == {200}
        assert slow.connections == 1
        assert (await soon(page(HERE, []))).status == 200  # the next is a new one
        assert slow.connections == 2
    assert made.counts == {("it", "success"): 2}


async def test_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "AT_ONCE", 2)
    slow = Slow()
    async with service(slow.handle) as port:
        probe = Probe(http=Http(port), timeout=60)
        made = Probes({"a": probe, "b": probe, "c": probe})
        pages = made.pages()
        asking = [asyncio.ensure_future(pages[f"/probe/{name}"](HERE, [])) for name in "ab"]
        await turns(lambda: slow.connections == 2)
        crowded = await soon(pages["/probe/c"](HERE, []))
        assert (crowded.status, crowded.body) == (503, b"failed: too many probes are under way\n")
        slow.go.set()
        await soon(asyncio.gather(*asking))
        assert (await soon(pages["/probe/c"](HERE, []))).status == 200
    assert made.counts[("c", "crowded")] == 1


async def test_a_hook_is_for_who_shows_its_key() -> None:
    """The health port is open to all who reach the pod; `/stop` is not theirs to ask for."""
    heads: list[bytes] = []
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", heads)
    async with service(answer) as port:
        made = Probes({"it": Probe(http=Http(port, "/stop"), timeout=30, key="secret")})
        server = PageServer({}, made.pages())
        _, own = await server.start(HERE, 0)
        found = []
        for line in ("", "probe-key: secre\r\n", "probe-key: \xe9\r\n", "probe-key: secret\r\n"):
            peer = Peer(*await asyncio.open_connection(HERE, own))
            peer.send(f"GET /probe/it HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode("latin-1"))
            found.append((await peer.response())[0])
            peer.close()
        await server.close()
    assert found == [403, 403, 403, 200]
    assert len(heads) == 1
    assert b"probe-key" not in heads[0]
    assert made.counts == {("it", "forbidden"): 3, ("it", "success"): 1}


async def test_at_the_end_nothing_is_left_under_way() -> None:
    slow = Slow()
    async with service(slow.handle) as port:
        made = Probes({"it": Probe(http=Http(port), timeout=60)})
        asking = asyncio.ensure_future(made.pages()["/probe/it"](HERE, []))
        await turns(lambda: slow.connections == 1)
        await soon(made.close())
        assert (await soon(asking)).body == b"failed: it was ended\n"


async def test_the_page_is_told_where_it_was_asked() -> None:
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with service(answer) as port:
        made = Probes({"it": Probe(http=Http(port), timeout=30)})
        server = PageServer({}, made.pages())
        _, own = await server.start("::", 0)
        found = {}
        for host in (HERE, "::1"):
            for method in ("GET", "POST"):
                peer = Peer(*await asyncio.open_connection(host, own))
                peer.send(f"{method} /probe/it HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                found[host, method] = await peer.response()
                peer.close()
        peer = Peer(*await asyncio.open_connection(HERE, own))
        peer.send(b"GET /probe/other HTTP/1.1\r\nHost: a\r\n\r\n")
        status, body = await peer.response()
        peer.close()
        await server.close()
    assert found[HERE, "GET"] == (200, b"ok\n")
    assert found["::1", "GET"][0] == 503  # where the service does not listen
    assert found[HERE, "POST"][0] == 405
    assert status == 404
    assert b"/probe/it" in body


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (Probe(http=Http(80, "/x", "HTTPS", {"Authorization": "s"}, "h"), timeout=2.5),
         "GET https://h:80/x within 2.5 s"),
        (Probe(tcp=Tcp(9)), "TCP *:9 within 1 s"),
        (Probe(grpc=Grpc(9, "a.B")), "gRPC *:9 a.B within 1 s"),
    ],
)  # fmt: skip
def test_what_people_see_of_it(probe: Probe, said: str) -> None:
    assert str(probe) == said
