"""A credential that is withdrawn ends what is under way: streams, uploads, tunnels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from sidecar.decide.outcomes import Identity, Permit
from sidecar.edge import withdrawals
from sidecar.edge.withdrawals import UnderWay, Withdrawals

from .conftest import Rig
from .raw_requests import websocket
from .test_tunnel import close_of, ended, tunnel

GET = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"


async def test_a_long_response_is_cut_so_that_nobody_takes_it_for_whole(rig: Rig) -> None:
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(ENDLESS)
    await client.until(b"first\r\n")
    rig.authorizer.revoke("alice")
    with pytest.raises(ConnectionError):
        await client.rest()
    assert await upstream.rest() == b""
    assert rig.proxy.withdrawals.ended == 1
    assert rig.authorizer.done == [("/x", 200)]  # what it was told
    assert rig.stats.in_flight == 0


async def test_what_has_not_begun_to_answer_is_answered_401(rig: Rig) -> None:
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    rig.authorizer.revoke("alice")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b'error="invalid_token"' in head
    assert b'"code":"invalid_token"' in await client.rest()
    assert await upstream.rest() == b""
    assert rig.authorizer.done == [("/x", 401)]


async def test_an_upload_never_becomes_a_whole_request(rig: Rig) -> None:
    client = await rig.client(b"PUT /x HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nhalf.")
    upstream = await rig.upstream.accept()
    await upstream.head()
    assert await upstream.exactly(5) == b"half."
    rig.authorizer.revoke("alice")
    assert (await client.head()).startswith(b"HTTP/1.1 401 ")
    assert await upstream.rest() == b""


async def test_a_tunnel_is_told_why(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    rig.authorizer.revoke("alice")
    assert await close_of(client) == (1008, "credential withdrawn")
    assert await close_of(upstream) == (1008, "credential withdrawn")
    client.close()
    upstream.close()
    await ended(rig)
    assert rig.stats.tunnels_cut == {"revoked": 1}


async def test_a_handshake_under_way_never_becomes_a_tunnel(rig: Rig) -> None:
    client = await rig.client(websocket())
    upstream = await rig.upstream.accept()
    await upstream.head()
    rig.authorizer.revoke("alice")
    assert (await client.head()).startswith(b"HTTP/1.1 401 ")
    assert rig.stats.tunnels == 0


async def test_others_and_idle_connections_go_on(rig: Rig) -> None:
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    idle = await rig.client()
    await rig.becomes(lambda: rig.stats.connections_open == 2)
    rig.authorizer.revoke("mallory")
    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert await client.response() == (200, b"ok")
    rig.authorizer.revoke("alice")
    idle.send(b"GET /no HTTP/1.1\r\nhost: h\r\n\r\n")
    assert (await idle.response())[0] == 403
    assert rig.proxy.withdrawals.ended == 0


class Open:
    """What is under way, of somebody."""

    def __init__(self, name: str) -> None:
        self.permit: Permit | None = Permit("r", Identity("iss", name))
        self.withdrawn = False
        self.looked_at = 0
        self.doubted = False

    def permitted(self) -> Permit | None:
        self.looked_at += 1
        return None if self.withdrawn else self.permit

    def withdraw(self) -> None:
        self.withdrawn = True

    def doubt(self) -> None:
        self.doubted = True


async def test_thousands_are_looked_at_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawals, "SLICE", 0.0)
    opened = [Open("alice" if place % 2 else "bob") for place in range(10)]
    opened[3].permit = None

    def everyone() -> Iterable[UnderWay]:
        return opened

    def alices(permit: Permit) -> bool:
        return permit.identity is not None and permit.identity.subject == "alice"

    def bobs(permit: Permit) -> bool:
        return not alices(permit)

    looking = Withdrawals(alices, bobs, everyone)
    looking.begin()
    assert not any(each.withdrawn for each in opened[1:])
    looking.begin()  # once more, and not both at a time
    looking.begin()
    for _ in range(25):
        await asyncio.sleep(0)
    assert opened[1].looked_at == 2
    assert [each.withdrawn for each in opened] == [
        bool(place % 2) and place != 3 for place in range(10)
    ]
    assert looking.ended == 4
    assert [each.doubted for each in opened] == [not place % 2 for place in range(10)]
