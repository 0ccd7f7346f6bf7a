"""A pool for each address that callers were going to, bounded; and who is refused one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sidecar.edge.destinations import Destinations
from sidecar.edge.limits import Limits
from sidecar.edge.original import Accepted
from sidecar.edge.proxy import Proxy

from .conftest import Peer, Rig, Upstream, soon

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
OWN = 7402
MOST = 2


class Redirected(Rig):
    """A proxy before several upstreams. Connections to it are taken for redirected from `wanted`;
    those to `behind`, a second port of it, from `wanted_behind`."""

    def __init__(self) -> None:
        super().__init__()
        self.upstreams: list[Upstream] = []
        self.wanted: tuple[str, int] | None = None
        self.wanted_behind: tuple[str, int] | None = None
        self.behind = 0
        self.own = {"127.0.0.1"}
        self.destinations = Destinations(
            Limits(), self.sweeper, self.stats, own_ports=frozenset((OWN,)), most=MOST,
            original=self._original, own=lambda host: host in self.own,
        )  # fmt: skip

    def _original(self, accepted: Accepted) -> tuple[str, int] | None:
        return self.wanted_behind if accepted.getsockname()[1] == self.behind else self.wanted

    async def begin(self) -> None:
        for _ in range(3):
            self.upstreams.append(Upstream())
            await self.upstreams[-1].start()
        self.proxy = Proxy(self.authorizer, self.destinations, clock=lambda: self.wall)
        ((_, self.port),) = await self.proxy.listen("127.0.0.1", 0)
        ((_, self.behind),) = await self.proxy.listen("127.0.0.1", 0)

    async def end(self) -> None:
        for each in self.upstreams:
            await each.stop()
        await self.stop()

    async def to(self, which: int, data: bytes = GET) -> Peer:
        """A client that was going to this upstream."""
        self.wanted = ("127.0.0.1", self.upstreams[which].port)
        return await self.client(data)

    async def served(self, which: int) -> tuple[Peer, Peer]:
        """A client, and its connection to an upstream that it did not share before."""
        client = await self.to(which)
        upstream = await self.upstreams[which].accept()
        await upstream.head()
        upstream.send(OK)
        assert await client.response() == (200, b"ok")
        return client, upstream

    async def gone(self, client: Peer) -> None:
        before = self.stats.connections_open
        client.reset()
        await self.becomes(lambda: self.stats.connections_open == before - 1)


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Redirected]:
    rig = Redirected()
    await rig.begin()
    yield rig
    await rig.end()


async def test_each_to_where_it_was_going(rig: Redirected) -> None:
    clients = [(await rig.served(which)) for which in (0, 1)]
    for client, upstream in reversed(clients):  # whoever came last
        client.send(GET)
        await upstream.head()
        upstream.send(OK)
        assert await client.response() == (200, b"ok")
    assert rig.stats.destinations == 2
    assert (rig.stats.upstream_created, rig.stats.upstream_reused) == (2, 2)


async def test_callers_of_one_address_share_its_connections(rig: Redirected) -> None:
    first, upstream = await rig.served(0)
    await rig.gone(first)
    second = await rig.to(0)
    await upstream.head()
    upstream.send(OK)
    assert await second.response() == (200, b"ok")
    assert (rig.stats.destinations, rig.stats.upstream_reused) == (1, 1)


async def test_a_request_without_a_host_is_given_that_of_its_destination(rig: Redirected) -> None:
    for which in (0, 1):
        await rig.to(which, b"GET / HTTP/1.0\r\n\r\n")
        head = await (await rig.upstreams[which].accept()).head()
        assert f"host: 127.0.0.1:{rig.upstreams[which].port}\r\n".encode() in head.lower()


async def test_gauges_are_of_all_pools(rig: Redirected) -> None:
    (one, first), (_, second) = await rig.served(0), await rig.served(1)
    assert (rig.stats.upstream_open, rig.stats.upstream_idle) == (2, 2)
    one.send(GET)
    await first.head()
    assert (rig.stats.upstream_open, rig.stats.upstream_idle) == (2, 1)
    first.send(OK)
    await one.response()
    second.close()
    await rig.becomes(lambda: rig.stats.upstream_open == 1)
    assert rig.stats.upstream_idle == 1
    rig.pass_time(10)  # nobody uses the other
    await rig.becomes(lambda: rig.stats.upstream_open == 0)
    assert rig.stats.upstream_idle == 0


async def test_at_the_bound_the_one_chosen_longest_ago_makes_room(rig: Redirected) -> None:
    one, first = await rig.served(0)
    await rig.served(1)
    await rig.gone(one)
    again = await rig.to(0)
    await first.head()
    first.send(OK)
    await again.response()
    await rig.served(2)
    assert (rig.stats.destinations, rig.stats.destinations_closed) == (MOST, 1)
    assert (rig.stats.upstream_open, rig.stats.upstream_idle) == (2, 2)  # those of 0 and 2
    kept = await rig.to(0)
    await first.head()
    first.send(OK)
    assert await kept.response() == (200, b"ok")


async def test_a_client_whose_pool_made_room_gets_another(rig: Redirected) -> None:
    client, _ = await rig.served(0)
    await rig.served(1)
    watching = len(rig.sweeper._sweeps)
    await rig.served(2)
    assert rig.stats.destinations_closed == 1
    assert len(rig.sweeper._sweeps) == watching  # nothing of what was closed is left
    client.send(GET)
    upstream = await rig.upstreams[0].accept()
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert (rig.stats.destinations, rig.stats.destinations_closed) == (MOST, 2)


async def test_where_requests_are_under_way_nothing_is_closed(rig: Redirected) -> None:
    waiting = []
    for which in (0, 1):
        client = await rig.to(which)
        upstream = await rig.upstreams[which].accept()
        await upstream.head()
        waiting.append((client, upstream))
    refused = await rig.to(2)
    status, body = await refused.response()
    assert status == 503
    assert b"as many addresses as it may" in body
    assert rig.stats.destinations_refused == {"too_many": 1}
    assert rig.authorizer.done == [("/a", 503)]
    for client, upstream in waiting:
        upstream.send(OK)
        assert await client.response() == (200, b"ok")
    refused.send(GET)  # it may try again
    upstream = await rig.upstreams[2].accept()
    await upstream.head()
    upstream.send(OK)
    assert await refused.response() == (200, b"ok")
    assert rig.stats.destinations_closed == 1


async def test_who_is_not_permitted_takes_no_room(rig: Redirected) -> None:
    rig.own.add("127.0.0.2")
    for port in range(1, 2 * MOST):
        rig.wanted = ("127.0.0.2", port)
        client = await rig.client(b"GET /no HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert (await client.response())[0] == 403
    assert rig.stats.destinations == 0


async def test_what_waits_for_a_connection_is_in_use(
    rig: Redirected, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = asyncio.Semaphore(0)

    async def never(*_: object) -> None:
        waits.release()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(rig.destinations, "_connect", never)
    for which in (0, 1):
        await rig.to(which)
        await soon(waits.acquire())
    assert (await (await rig.to(2)).response())[0] == 503
    rig.pass_time(6)  # longer than `connect`
    await rig.becomes(lambda: rig.stats.upstream_open == 0)
    await rig.to(2)
    await rig.becomes(lambda: rig.stats.destinations_closed == 1)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (None, "not_redirected"),
        (("127.0.0.1", 0), "not_redirected"),  # 0 stands for the listener's own port
        (("127.0.0.1", OWN), "own_port"),
        (("192.0.2.1", 80), "not_local"),
    ],
)
async def test_who_is_refused(
    rig: Redirected, caplog: pytest.LogCaptureFixture, wanted: tuple[str, int] | None, reason: str
) -> None:
    rig.wanted = (wanted[0], wanted[1] or rig.port) if wanted is not None else None
    for _ in range(2):
        client = await rig.client(GET)
        status, body = await client.response()
        assert status == 421
        assert b'"code":"misdirected_request"' in body.replace(b" ", b"")
        assert await client.rest() == b""
    assert rig.stats.destinations_refused == {reason: 2}
    assert caplog.text.count(reason) == 1  # once, whoever knocks
    assert (rig.authorizer.decided, rig.stats.destinations) == ([], 0)


async def test_what_comes_from_ourselves_goes_in_no_circle(rig: Redirected) -> None:
    """The packet filter, as it were, sends what we dial back to us, at the port `behind`."""
    rig.wanted = ("127.0.0.1", rig.behind)
    rig.wanted_behind = ("127.0.0.1", rig.upstreams[0].port)
    client = await rig.client(GET)
    assert (await client.response())[0] == 421
    assert rig.stats.destinations_refused == {"loop": 1}
    assert len(rig.authorizer.decided) == 1
    stranger = await asyncio.open_connection("127.0.0.1", rig.behind)
    peer = Peer(*stranger)
    rig.clients.append(peer)
    peer.send(GET)
    upstream = await rig.upstreams[0].accept()
    await upstream.head()  # another process of this host may


async def test_nobody_there(rig: Redirected) -> None:
    await rig.upstreams[0].stop()
    client = await rig.to(0)
    assert (await client.response())[0] == 502
    assert rig.stats.upstream_errors == {"connect": 1}
    await rig.becomes(lambda: rig.stats.upstream_open == 0)


async def test_the_end_is_the_end_of_all(rig: Redirected) -> None:
    await rig.served(0)
    await rig.served(1)
    await rig.proxy.close()
    assert (rig.stats.destinations, rig.stats.upstream_open, rig.stats.upstream_idle) == (0, 0, 0)
