"""A proxy on loopback between a scripted upstream and raw clients; every test runs on both loops.

Time is `rig.clock`: it stands still unless a test moves it. `soon` bounds every wait, so that a
defect fails a test instead of hanging it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pytest
import pytest_asyncio
import uvloop

from sidecar.decide.challenge import Answer
from sidecar.decide.outcomes import Code, Identity, NeedBody, Permit, Refuse
from sidecar.decide.request import Request, Unread
from sidecar.edge.address import Address
from sidecar.edge.decision import Decision
from sidecar.edge.evidence import ReadBody
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.proxy import Proxy
from sidecar.edge.sweeper import Sweeper
from sidecar.edge.upstream import Connect, UpstreamPool

T = TypeVar("T")

TRACE = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limits(**bounds): the proxy's Limits in this test")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def soon(awaitable: Awaitable[T]) -> T:
    """What happens at once, or the test fails."""
    async with asyncio.timeout(5):
        return await awaitable


def _decision(outcome: Permit | Refuse) -> Decision:
    return Decision(outcome, "f" * 32, TRACE, 0.0, "v1")


class Authorizer:
    """Refuses `/no…`, is slow with `/cold…`, fails at `/broken…`, permits the rest; `/read…` once it
    has read the body, of which `limit` bytes may come, into `bodies`, and refuses one with `no` in it.

    `expires` is when its permits do; `reviewed` is what it says on second thoughts, by path, where
    that is something else: None is said after `warm`.
    """

    def __init__(self) -> None:
        self.expires = float("inf")
        self.permit: Permit | None = None  # instead of the usual one
        self.reviewed: dict[str, Permit | Refuse | None] = {}
        self.changed: list[Callable[[], None]] = []
        self.withdrawals: list[Callable[[], None]] = []
        self.revoked: set[str] = set()  # subjects
        self.decided: list[Request] = []
        self.done: list[tuple[str, int]] = []
        self.asserted = b""
        self.warm = asyncio.Event()
        self.cancelled = 0
        self.limit = 64
        self.optional = False
        self.bodies: list[bytes | Unread] = []

    def decide(self, request: Request) -> Decision | None:
        self.decided.append(request)
        if request.path.startswith(("/cold", "/broken", "/read")):
            return None
        return self._decision(request)

    def assertion(self, permit: Permit) -> bytes:
        return self.asserted

    def published(self, request: Request) -> Answer | None:
        return None

    def preflight(self, request: Request) -> Answer | None:
        return None

    async def resolve(self, request: Request, body: ReadBody) -> Decision:
        if request.path.startswith("/read"):
            return await self._read(request, body)
        try:
            await self.warm.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if request.path.startswith("/broken"):
            raise RuntimeError("a defect")
        return self._decision(request)

    async def _read(self, request: Request, body: ReadBody) -> Decision:
        try:
            read = await body(NeedBody(self.limit, self.optional))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.bodies.append(read)
        if isinstance(read, Unread) and not self.optional:
            code = {413: Code.TOO_LARGE, 503: Code.UNAVAILABLE}[read.status]
            return _decision(Refuse(code, read.reason))
        if isinstance(read, bytes) and b"no" in read:
            return _decision(Refuse(Code.DENIED, "no"))
        return self._decision(request)

    def _decision(self, request: Request) -> Decision:
        if request.path.startswith(("/no", "/cold/no")):
            return _decision(Refuse(Code.DENIED, "no"))
        permit = self.permit or Permit("r", Identity("iss", "alice"), expires=self.expires)
        return _decision(permit)

    def watch(self, changed: Callable[[], None]) -> None:
        self.changed.append(changed)

    def watch_withdrawals(self, changed: Callable[[], None]) -> None:
        self.withdrawals.append(changed)

    def withdrawn(self, permit: Permit) -> bool:
        return permit.identity is not None and permit.identity.subject in self.revoked

    def doubtful(self, permit: Permit) -> bool:
        return False

    def revoke(self, subject: str) -> None:
        self.revoked.add(subject)
        for changed in self.withdrawals:
            changed()

    def review(self, request: Request) -> Permit | Refuse | None:
        if request.path in self.reviewed:
            return self.reviewed[request.path]
        return self._decision(request).outcome

    async def reconsider(self, request: Request) -> Permit | Refuse:
        await self.warm.wait()
        return self.review(request) or Refuse(Code.UNAVAILABLE, "facts_incomplete")

    def finished(
        self, request: Request, decision: Any, status: int, upstream_seconds: float
    ) -> None:
        self.done.append((request.path, status))


class Peer:
    """One raw connection, from whichever side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def flush(self) -> None:
        await soon(self.writer.drain())

    async def until(self, mark: bytes) -> bytes:
        return await soon(self.reader.readuntil(mark))

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        return await soon(self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """Everything up to the end; a reset raises ConnectionError."""
        return await soon(self.reader.read(-1))

    async def response(self) -> tuple[int, bytes]:
        """Status and body of a response with content-length."""
        head = await self.head()
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")
        )
        return int(head[9:12]), await self.exactly(length)

    def half_close(self) -> None:
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Upstream:
    """A server that does what the test does with each connection it accepts."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.peers: list[Peer] = []
        self.server: asyncio.Server | None = None
        self.port = 0

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", port, ssl=tls)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.accepted.put_nowait(peer)

    async def accept(self) -> Peer:
        return await soon(self.accepted.get())

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for peer in self.peers:
            peer.writer.transport.abort()


class Rig:
    """Everything a test needs, wired."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.wall = 0.0
        self.upstream = Upstream()
        self.authorizer = Authorizer()
        self.clients: list[Peer] = []
        self.stats = ProxyStats()
        self.sweeper = Sweeper(clock=lambda: self.time, date=lambda: b"")
        self.proxy: Proxy
        self.pool: UpstreamPool
        self.port = 0

    async def start(
        self, *, connect: Connect | None = None, more: dict[str, Any] | None = None, **limits: Any
    ) -> None:
        """`connect` leads to the upstream in another way; `more` goes to the Proxy."""
        if not self.upstream.port:
            await self.upstream.start()
        bounds = Limits(**limits)
        address = Address("127.0.0.1", self.upstream.port)
        self.pool = UpstreamPool(address, bounds, self.sweeper, self.stats, connect)
        self.proxy = Proxy(self.authorizer, self.pool, clock=lambda: self.wall, **(more or {}))
        ((_, self.port),) = await self.proxy.listen("127.0.0.1", 0)

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.wall += seconds
        self.sweeper.tick()

    async def client(
        self, data: bytes = b"", buffer: int | None = None, tls: ssl.SSLContext | None = None
    ) -> Peer:
        sock = socket.socket()
        sock.setblocking(False)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        name = "localhost" if tls is not None else None
        reader, writer = await soon(
            asyncio.open_connection(sock=sock, limit=1 << 20, ssl=tls, server_hostname=name)
        )
        peer = Peer(reader, writer)
        self.clients.append(peer)
        peer.send(data)
        return peer

    async def becomes(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until `condition` holds."""

        async def turn() -> None:
            while not condition():  # noqa: ASYNC110  (nobody would set the event)
                await asyncio.sleep(0)

        await soon(turn())

    async def stop(self) -> None:
        for client in self.clients:
            client.writer.transport.abort()
        await self.proxy.close()
        await self.upstream.stop()
        await asyncio.sleep(0)


@pytest_asyncio.fixture
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A proxy under the limits of the `limits` marker."""
    marker = request.node.get_closest_marker("limits")
    rig = Rig()
    await rig.start(**(marker.kwargs if marker else {}))
    yield rig
    await rig.stop()
