"""WebSocket tunnels between raw peers: what passes, what ends them, and how the ends look."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from websockets.frames import Close

from sidecar.decide.outcomes import Code, Identity, Permit, Refuse
from sidecar.decide.request import Request
from sidecar.decide.tokens import Verified
from sidecar.edge.address import Address, tls_connect
from sidecar.edge.certificates import ClientFiles, ServerFiles, load
from sidecar.edge.handshakes import Handshakes
from sidecar.edge.tunnel import Side, Tunnel
from tests.certificates import Authority

from .conftest import Peer, Rig, soon
from .raw_requests import websocket
from .test_websocket import ACCEPT, answered, frame

MIB = 1024 * 1024
HELLO = frame(5, mask=True)  # of a client
WORLD = frame(7)  # of a server
ALICE = Identity("iss", "alice")


async def tunnel(
    rig: Rig, request: bytes = b"", response: bytes = b"", tls: ssl.SSLContext | None = None
) -> tuple[Peer, Peer]:
    """Client and upstream, once both have agreed."""
    client = await rig.client(request or websocket(), tls=tls)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(response or answered())
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    await rig.becomes(lambda: rig.stats.tunnels == 1)
    return client, upstream


async def close_of(peer: Peer) -> tuple[int, str]:
    """The next frame of ours, which must be a close frame, masked for an upstream."""
    first, second = await peer.exactly(2)
    assert first == 0x88
    mask = await peer.exactly(4) if second & 0x80 else b"\0" * 4
    payload = await peer.exactly(second & 0x7F)
    found = Close.parse(bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload)))
    return found.code, found.reason


async def ended(rig: Rig) -> None:
    await rig.becomes(lambda: rig.stats.tunnels_open == 0)
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    assert rig.authorizer.done == [("/ws", 101)]
    assert rig.stats.in_flight == 0
    assert rig.stats.upstream_open == 0


# -- the handshake


async def test_a_tunnel_carries_bytes_both_ways(rig: Rig) -> None:
    lines = (b"Sec-WebSocket-Protocol: chat", b"Sec-WebSocket-Extensions: permessage-deflate")
    client = await rig.client(websocket(*lines, Connection=b"keep-alive, Upgrade"))
    upstream = await rig.upstream.accept()
    assert await upstream.head() == (
        b"GET /ws HTTP/1.1\r\nhost: a.example\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n"
        b"sec-websocket-extensions: permessage-deflate\r\nconnection: upgrade\r\n"
        b"upgrade: websocket\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n"
        b"x-forwarded-host: a.example\r\nx-sidecar-subject: alice\r\nx-sidecar-issuer: iss\r\n"
        b"x-sidecar-decision: " + b"f" * 32 + b"\r\ntraceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16
        + b"-00\r\n\r\n"
    )  # fmt: skip
    assert rig.stats.in_flight == 1
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")
    upstream.send(answered(b"Sec-WebSocket-Protocol: chat", b"X-Mine: 1") + WORLD)
    assert (await client.head()).startswith(b"HTTP/1.1 103 ")
    assert await client.head() == (
        b"HTTP/1.1 101 Switching\r\nsec-websocket-accept: " + ACCEPT + b"\r\n"
        b"sec-websocket-protocol: chat\r\nx-mine: 1\r\n"
        b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    assert await client.exactly(len(WORLD)) == WORLD
    client.send(HELLO)
    assert await upstream.exactly(len(HELLO)) == HELLO
    # Neither in flight nor of the pool: a tunnel must starve nobody.
    assert (rig.stats.in_flight, rig.stats.upstream_open, rig.stats.tunnels_open) == (0, 0, 1)
    assert rig.authorizer.done == []
    upstream.close()
    assert await client.rest() == b""
    client.close()
    await ended(rig)
    assert rig.stats.tunnels_cut == {}


@pytest.mark.parametrize(
    "response",
    [
        answered(Sec_WebSocket_Accept=b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        answered(b"Content-Length: 0"),
        answered(b"Sec-WebSocket-Protocol: chat"),
        answered(Upgrade=b"h2c"),
    ],
    ids=["accept", "length", "protocol", "upgrade"],
)
async def test_an_incorrect_101_is_a_bad_gateway(rig: Rig, response: bytes) -> None:
    client = await rig.client(websocket() + HELLO)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(response)
    assert (await client.response())[0] == 502
    assert await client.rest() == b""
    with pytest.raises((ConnectionError, AssertionError)):
        assert await upstream.rest() != b""  # nothing of what came early
    assert rig.stats.upstream_errors == {"bad_response": 1}
    assert (rig.stats.tunnels, rig.authorizer.done) == (0, [("/ws", 502)])


async def test_a_101_to_an_ordinary_request_is_a_bad_gateway(rig: Rig) -> None:
    client = await rig.client(websocket(Sec_WebSocket_Version=b"8"))
    upstream = await rig.upstream.accept()
    assert b"upgrade" not in (await upstream.head()).lower()
    upstream.send(answered())
    assert (await client.response())[0] == 502


@pytest.mark.parametrize("early", [b"", HELLO, b"GET /2 HTTP/1.1\r\nHost: a.example\r\n\r\n"])
async def test_another_answer_is_the_last_of_its_connection(rig: Rig, early: bytes) -> None:
    client = await rig.client(websocket())
    upstream = await rig.upstream.accept()
    await upstream.head()
    client.send(early)
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert b"\r\nconnection: close\r\n" in await client.head()
    client.send(early)
    assert await client.rest() == b"ok"
    client.send(early)
    client.close()
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    assert rig.stats.requests == 1
    assert rig.stats.upstream_idle == 1  # the upstream did nothing wrong


@pytest.mark.parametrize("path", [b"/no", b"/cold/no"])
async def test_what_comes_behind_a_refused_handshake_is_no_request(rig: Rig, path: bytes) -> None:
    client = await rig.client(websocket(target=path) + websocket(target=b"/2"))
    rig.authorizer.warm.set()
    status, body = await client.response()
    assert (status, json.loads(body)["code"]) == (403, "denied")
    assert await client.rest() == b""
    assert rig.stats.requests == 1
    assert rig.stats.upstream_created == 0


@pytest.mark.limits(pipelined=1000)
@pytest.mark.parametrize("path", [b"/ws", b"/cold"])
async def test_early_bytes_wait_for_the_101(rig: Rig, path: bytes) -> None:
    early = os.urandom(8 * MIB)
    client = await rig.client(websocket(target=path) + early)
    await rig.becomes(lambda: rig.stats.requests == 1)
    await asyncio.sleep(0.05)
    assert rig.stats.bytes_received < MIB  # the rest waits outside
    rig.authorizer.warm.set()
    upstream = await rig.upstream.accept()
    await upstream.head()
    client.half_close()
    await asyncio.sleep(0.05)
    upstream.send(answered())
    assert await upstream.exactly(len(early)) == early
    assert await upstream.rest() == b""
    await client.head()
    upstream.send(WORLD)
    assert await client.exactly(len(WORLD)) == WORLD
    upstream.close()
    assert await client.rest() == b""


async def test_a_client_that_ended_early_still_gets_its_tunnel(rig: Rig) -> None:
    client = await rig.client(websocket() + HELLO)
    client.half_close()
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(answered() + WORLD)
    assert await upstream.rest() == HELLO
    await client.head()
    assert await client.exactly(len(WORLD)) == WORLD
    upstream.close()
    assert await client.rest() == b""
    await ended(rig)


@pytest.mark.limits(tunnels=1)
async def test_beyond_the_bound_there_is_no_room(rig: Rig) -> None:
    late = await rig.client(websocket())
    late_upstream = await rig.upstream.accept()
    await late_upstream.head()
    await tunnel(rig)
    for client in (late, await rig.client(websocket())):
        late_upstream.send(answered())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in head
    assert (rig.stats.tunnels, rig.stats.tunnels_refused) == (1, 2)
    assert rig.stats.in_flight == 0
    refused = await rig.client(websocket(target=b"/no"))
    assert (await refused.response())[0] == 403


# -- passing bytes


@pytest.mark.limits(total=5.0, idle=5.0)
async def test_no_time_out_of_requests_ends_a_tunnel(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    rig.pass_time(3000)
    client.send(HELLO)
    assert await upstream.exactly(len(HELLO)) == HELLO
    rig.pass_time(3000)
    upstream.send(WORLD)
    assert await client.exactly(len(WORLD)) == WORLD
    assert rig.stats.timeouts == {}


@pytest.mark.parametrize("down", [True, False])
async def test_who_does_not_keep_up_is_waited_for(rig: Rig, down: bool) -> None:
    client, upstream = await tunnel(rig)
    giver, taker = (upstream, client) if down else (client, upstream)
    giver.writer.transport.set_write_buffer_limits(1024)
    block = frame(MIB, mask=not down)
    taker.reader._transport.pause_reading()  # type: ignore[attr-defined]
    sent = 0

    async def fill() -> None:
        nonlocal sent
        while True:
            giver.send(block)
            await giver.writer.drain()
            sent += 1

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fill(), 1)
    assert 0 < sent < 32
    other = frame(100, mask=down)
    taker.send(other)  # the other direction goes on
    assert await giver.exactly(len(other)) == other
    for _ in range(3):
        rig.pass_time(61)
        taker.reader._transport.resume_reading()  # type: ignore[attr-defined]
        await taker.exactly(MIB // 2)
    got = 3 * (MIB // 2)
    total = (sent + 1) * len(block)
    while got < total:
        got += len(await soon(taker.reader.read(MIB)))
    assert rig.stats.timeouts == {}


async def test_who_takes_nothing_at_all_is_reset(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    upstream.send(frame(32 * MIB))
    await rig.becomes(lambda: rig.stats.bytes_sent > MIB // 4)
    await asyncio.sleep(0.2)
    for _ in range(3):
        rig.pass_time(61)
    await ended(rig)
    assert rig.stats.timeouts == {"send": 1}


async def test_each_direction_ends_on_its_own(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    client.send(HELLO)
    client.half_close()
    assert await upstream.rest() == HELLO
    upstream.send(WORLD)
    assert await client.exactly(len(WORLD)) == WORLD
    upstream.send(WORLD)
    upstream.half_close()
    assert await client.rest() == WORLD
    await ended(rig)


async def test_a_server_that_ends_first_still_hears_the_client(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    upstream.send(WORLD)
    upstream.half_close()
    assert await client.rest() == WORLD
    client.send(HELLO)
    assert await upstream.exactly(len(HELLO)) == HELLO
    client.close()
    assert await upstream.rest() == b""
    await ended(rig)


async def test_half_a_tunnel_has_less_patience(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    upstream.half_close()
    assert await client.rest() == b""
    rig.pass_time(70)
    assert rig.stats.tunnels_open == 1
    rig.pass_time(10)
    assert await close_of(upstream) == (1001, "idle for too long")
    client.close()
    await ended(rig)


@pytest.mark.parametrize("whose", ["client", "upstream"])
async def test_a_reset_ends_the_other_side(rig: Rig, whose: str) -> None:
    client, upstream = await tunnel(rig)
    gone, other = (client, upstream) if whose == "client" else (upstream, client)
    gone.reset()
    assert await other.rest() == b""
    await ended(rig)


# -- cuts


async def both_close(rig: Rig, client: Peer, upstream: Peer, *told: int | str) -> None:
    """Both are told, answer as they should, and see the end."""
    assert await close_of(client) == told
    assert await close_of(upstream) == told
    assert rig.stats.tunnels_open == 1
    client.send(HELLO)  # on its way before it knew: not passed on
    client.send(frame(2, opcode=8, mask=True) + b"nothing")
    upstream.send(WORLD + frame(2, opcode=8))
    assert await client.rest() == b""
    assert await upstream.rest() == b""
    await ended(rig)
    assert rig.stats.timeouts == {}


async def test_an_expired_token_ends_it(rig: Rig) -> None:
    rig.authorizer.expires = 100.0
    client, upstream = await tunnel(rig)
    rig.pass_time(99)
    client.send(HELLO)
    assert await upstream.exactly(len(HELLO)) == HELLO
    rig.pass_time(1)
    await both_close(rig, client, upstream, 1008, "token expired")
    assert rig.stats.tunnels_cut == {"expired": 1}


async def test_a_policy_that_no_longer_permits_ends_it(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    (changed,) = rig.authorizer.changed
    changed()
    await asyncio.sleep(0.01)
    assert rig.stats.tunnels_cut == {}
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    changed()
    await both_close(rig, client, upstream, 1008, "no longer permitted")
    assert rig.stats.tunnels_cut == {"policy": 1}


async def test_a_policy_that_changed_during_the_handshake_counts(rig: Rig) -> None:
    rig.authorizer.reviewed["/ws"] = Refuse(Code.INVALID_TOKEN, "revoked")
    client, upstream = await tunnel(rig)
    await both_close(rig, client, upstream, 1008, "no longer permitted")


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.TOO_MANY_REQUESTS])
async def test_what_cannot_be_decided_stays_and_is_looked_at_again(rig: Rig, code: Code) -> None:
    client, upstream = await tunnel(rig)
    rig.authorizer.reviewed["/ws"] = Refuse(code, "for_now")
    rig.authorizer.changed[0]()
    await asyncio.sleep(0.01)
    rig.pass_time(11)
    await asyncio.sleep(0.01)
    assert rig.stats.tunnels_cut == {}
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    rig.pass_time(11)
    await both_close(rig, client, upstream, 1008, "no longer permitted")


async def test_facts_that_are_missing_are_fetched(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    rig.authorizer.reviewed["/ws"] = None
    rig.authorizer.changed[0]()
    await asyncio.sleep(0.01)
    assert rig.stats.tunnels_cut == {}
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    rig.authorizer.warm.set()
    await both_close(rig, client, upstream, 1008, "no longer permitted")


async def test_a_defect_while_deciding_again_is_heard_of_and_not_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: heard.append(context["message"])
    )

    async def broken(request: Request) -> Permit | Refuse:
        raise RuntimeError("a defect")

    client, upstream = await tunnel(rig)
    monkeypatch.setattr(rig.authorizer, "reconsider", broken)
    rig.authorizer.reviewed["/ws"] = None
    rig.authorizer.changed[0]()
    await rig.becomes(lambda: heard == ["reviewing tunnels failed"])
    assert rig.stats.tunnels_cut == {}
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    rig.pass_time(11)
    await both_close(rig, client, upstream, 1008, "no longer permitted")


@pytest.mark.parametrize(
    ("permit", "until"),
    [
        (Permit("r", ALICE, expires=500.0), 500),
        (Permit("other", None), 100),  # whom the upstream was told of ends with the token
        (Permit("", ALICE, observed=Refuse(Code.DENIED, "no")), None),
    ],
    ids=["same identity", "nobody", "observed"],
)
async def test_another_permit_lasts_its_own_time(
    rig: Rig, permit: Permit, until: int | None
) -> None:
    rig.authorizer.expires = 100.0
    await tunnel(rig)
    rig.authorizer.reviewed["/ws"] = permit
    rig.authorizer.changed[0]()
    await asyncio.sleep(0.01)
    rig.pass_time((until or 3000) - 1)
    assert rig.stats.tunnels_cut == {}
    if until:
        rig.pass_time(1)
        assert rig.stats.tunnels_cut == {"expired": 1}


def opaque(expires: float, ends: float) -> Permit:
    """A permit by what an issuer said of an opaque token: believed for a while, asked again."""
    verified = Verified(ALICE, {}, frozenset(), expires, None, 0, ends=ends)
    return Permit("r", ALICE, expires=expires, verified=verified)


async def test_an_opaque_token_is_asked_about_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.authorizer, "permit", opaque(30.0, 100.0))
    await tunnel(rig)
    asked: list[str] = []

    async def ask(request: Request) -> Permit | Refuse:
        asked.append(request.path)
        return opaque(60.0, 100.0)

    monkeypatch.setattr(rig.authorizer, "reconsider", ask)
    rig.authorizer.reviewed["/ws"] = None
    rig.pass_time(30)
    await rig.becomes(lambda: asked == ["/ws"])
    (held,) = rig.proxy.tunnels.all()
    await rig.becomes(lambda: held.expires == 60.0)
    rig.pass_time(29)
    assert asked == ["/ws"]
    rig.pass_time(1)
    await rig.becomes(lambda: len(asked) == 2)
    assert rig.stats.tunnels_cut == {}


async def test_and_ends_when_it_is_not_active_any_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.authorizer, "permit", opaque(30.0, 100.0))
    client, upstream = await tunnel(rig)
    rig.authorizer.reviewed["/ws"] = Refuse(Code.INVALID_TOKEN, "introspection_inactive")
    rig.pass_time(30)
    await both_close(rig, client, upstream, 1008, "token expired")


@pytest.mark.parametrize("ends", [35.0, float("inf")])
async def test_where_nobody_can_say_it_goes_on_for_a_moment_and_not_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, ends: float
) -> None:
    monkeypatch.setattr(rig.authorizer, "permit", opaque(30.0, ends))
    client, upstream = await tunnel(rig)
    rig.authorizer.reviewed["/ws"] = Refuse(Code.UNAVAILABLE, "introspection_unavailable")
    rig.pass_time(30)
    rig.pass_time(4)
    assert rig.stats.tunnels_cut == {}
    rig.pass_time(6)
    await both_close(rig, client, upstream, 1008, "token expired")


async def test_expiry_ends_nothing_where_refusals_are_only_logged(rig: Rig) -> None:
    rig.authorizer.expires = 100.0
    await tunnel(rig)
    rig.authorizer.reviewed["/ws"] = Permit("", None, observed=Refuse(Code.INVALID_TOKEN, "old"))
    rig.pass_time(200)
    assert rig.stats.tunnels_cut == {}


@pytest.mark.parametrize("down", [True, False])
async def test_a_cut_waits_for_the_end_of_a_frame(rig: Rig, down: bool) -> None:
    client, upstream = await tunnel(rig)
    giver, taker = (upstream, client) if down else (client, upstream)
    whole = frame(100_000, mask=not down)
    giver.send(whole[:3])  # within its header
    assert await taker.exactly(3) == whole[:3]
    rig.authorizer.expires = 0.0
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    rig.authorizer.changed[0]()
    told = (1008, "no longer permitted")
    assert await close_of(giver) == told  # nothing is under way there
    giver.send(whole[3:-1])
    assert await taker.exactly(len(whole) - 4) == whole[3:-1]
    giver.send(whole[-1:] + whole)  # the second is too late
    assert await taker.exactly(1) == whole[-1:]
    assert await close_of(taker) == told
    taker.send(frame(2, opcode=8, mask=down))
    giver.send(frame(2, opcode=8, mask=not down))
    assert await taker.rest() == b""
    assert await giver.rest() == b""
    await ended(rig)


async def test_a_frame_that_never_ends_is_reset(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    upstream.send(WORLD[:4])
    assert await client.exactly(4) == WORLD[:4]
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    rig.authorizer.changed[0]()
    assert (await close_of(upstream))[0] == 1008
    rig.pass_time(6)
    with pytest.raises(ConnectionError):
        await client.rest()
    assert await upstream.rest() == b""  # it was told all
    await ended(rig)


async def test_a_frame_that_the_client_does_not_take_is_reset(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    upstream.send(frame(32 * MIB))
    await rig.becomes(lambda: rig.stats.bytes_sent > MIB // 4)
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    rig.authorizer.changed[0]()
    assert (await close_of(upstream))[0] == 1008
    rig.pass_time(6)
    await ended(rig)


async def test_who_does_not_answer_is_closed(rig: Rig) -> None:
    rig.authorizer.expires = 100.0
    client, upstream = await tunnel(rig)
    rig.pass_time(100)
    assert (await close_of(client))[0] == (await close_of(upstream))[0] == 1008
    client.send(HELLO * 3)
    rig.pass_time(3)
    assert rig.stats.tunnels_open == 1
    rig.pass_time(3)
    await ended(rig)


@pytest.mark.parametrize("both", [True, False])
async def test_who_has_closed_is_not_spoken_for(rig: Rig, both: bool) -> None:
    rig.authorizer.expires = 100.0
    client, upstream = await tunnel(rig)
    bye = frame(2, opcode=8)
    upstream.send(bye)
    assert await client.exactly(len(bye)) == bye
    if both:
        answer = frame(2, opcode=8, mask=True)
        client.send(answer)
        assert await upstream.exactly(len(answer)) == answer
    rig.pass_time(100)
    if not both:
        assert (await close_of(upstream))[0] == 1008  # for the client that is late
        client.send(frame(2, opcode=8, mask=True))
    assert await upstream.rest() == b""
    assert await client.rest() == b""
    await ended(rig)


async def test_where_no_frame_can_be_told_the_end_comes_plainly(rig: Rig) -> None:
    rig.authorizer.expires = 100.0
    client, upstream = await tunnel(rig)
    odd = b"\x82\x7f\xff" + bytes(100)
    upstream.send(odd)
    assert await client.exactly(len(odd)) == odd  # passed on: the client has its own opinion
    rig.pass_time(100)
    assert (await close_of(upstream))[0] == 1008
    assert await client.rest() == b""
    upstream.send(frame(2, opcode=8))
    assert await upstream.rest() == b""
    await ended(rig)


async def test_a_client_that_has_ended_is_told_and_closed(rig: Rig) -> None:
    rig.authorizer.expires = 50.0
    client, upstream = await tunnel(rig)
    client.half_close()
    assert await upstream.rest() == b""
    rig.pass_time(50)
    assert await close_of(client) == (1008, "token expired")
    assert await client.rest() == b""
    await ended(rig)


@pytest.mark.parametrize("whose", ["client", "upstream"])
async def test_who_leaves_during_a_cut(rig: Rig, whose: str) -> None:
    rig.authorizer.expires = 100.0
    client, upstream = await tunnel(rig)
    rig.pass_time(100)
    gone, other = (client, upstream) if whose == "client" else (upstream, client)
    assert (await close_of(gone))[0] == 1008
    gone.reset()
    assert (await close_of(other))[0] == 1008
    other.send(frame(2, opcode=8, mask=whose == "upstream"))
    assert await other.rest() == b""
    await ended(rig)


async def test_silence_ends_it(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    rig.pass_time(3599)
    assert rig.stats.tunnels_cut == {}
    rig.pass_time(2)
    await both_close(rig, client, upstream, 1001, "idle for too long")
    assert rig.stats.tunnels_cut == {"idle": 1}


async def test_a_drain_says_going_away(rig: Rig) -> None:
    client, upstream = await tunnel(rig)
    late = await rig.client(websocket(target=b"/late"))
    late_upstream = await rig.upstream.accept()
    await late_upstream.head()
    draining = asyncio.ensure_future(rig.proxy.drain(60))
    await asyncio.sleep(0)
    late_upstream.send(answered())
    await late.head()
    for one, other in ((client, upstream), (late, late_upstream)):
        assert await close_of(one) == (1001, "going away")
        assert await close_of(other) == (1001, "going away")
        one.send(frame(2, opcode=8, mask=True))
        other.send(frame(2, opcode=8))
        assert await one.rest() == b""
    assert await soon(draining)
    assert rig.stats.tunnels_cut == {"drain": 2}
    assert rig.authorizer.done == [("/ws", 101), ("/late", 101)]


async def test_a_drain_ends_those_that_do_not_answer(rig: Rig) -> None:
    _, upstream = await tunnel(rig)
    assert not await rig.proxy.drain(0.05)
    assert (await close_of(upstream))[0] == 1001
    await rig.proxy.close()
    assert await upstream.rest() == b""
    await rig.becomes(lambda: rig.authorizer.done == [("/ws", 101)])


@pytest.mark.limits(connections=5000)
async def test_many_are_looked_at_in_slices(rig: Rig) -> None:
    peers = []
    for _ in range(100):
        client = await rig.client(websocket())
        upstream = await rig.upstream.accept()
        await upstream.head()
        upstream.send(answered())
        await client.head()
        peers.append(client)
    await rig.becomes(lambda: rig.stats.tunnels_open == 100)
    rig.authorizer.reviewed["/ws"] = Refuse(Code.DENIED, "no_rule")
    rig.authorizer.changed[0]()
    rig.authorizer.changed[0]()  # another snapshot before the first was through
    for client in peers:
        assert (await close_of(client))[0] == 1008
    assert rig.stats.tunnels_cut == {"policy": 100}


# -- TLS


@pytest_asyncio.fixture
async def tls_rig(tmp_path: Path) -> AsyncIterator[tuple[Rig, ssl.SSLContext]]:
    """TLS on both sides, and a client's context."""
    rig, authority = Rig(), Authority()
    certificate, key = authority.issue().write(tmp_path, "server")
    context = load(ServerFiles(certificate, key)).context
    await rig.upstream.start(tls=context)
    trusting = load(ClientFiles(authority.write(tmp_path, "ca"))).context
    address = Address("127.0.0.1", rig.upstream.port, tls=True)
    await rig.start(
        connect=tls_connect(address, lambda: trusting, "localhost"),
        more={"handshakes": Handshakes(lambda: context)},
    )
    yield rig, authority.client_context(None)
    await rig.stop()


async def test_a_tunnel_through_tls_is_cut_alike(tls_rig: tuple[Rig, ssl.SSLContext]) -> None:
    rig, context = tls_rig
    rig.authorizer.expires = 100.0
    client, upstream = await tunnel(rig, request=websocket() + HELLO, tls=context)
    assert await upstream.exactly(len(HELLO)) == HELLO
    big = frame(3 * MIB)
    upstream.send(big)
    assert await client.exactly(len(big)) == big
    rig.pass_time(100)
    await both_close(rig, client, upstream, 1008, "token expired")


async def test_a_server_that_ends_without_close_notify(
    tls_rig: tuple[Rig, ssl.SSLContext],
) -> None:
    rig, context = tls_rig
    client, upstream = await tunnel(rig, tls=context)
    upstream.send(WORLD)
    assert await client.exactly(len(WORLD)) == WORLD
    upstream.reset()
    assert await client.rest() == b""
    await ended(rig)


async def test_what_is_left_of_a_tunnel_needs_no_collector(rig: Rig) -> None:
    """Full collections wait for pauses, and tunnels are heavy."""
    gc.collect()
    gc.disable()
    try:
        client, upstream = await tunnel(rig)
        assert [each for each in gc.get_objects() if isinstance(each, Tunnel | Side)]
        client.close()
        upstream.close()
        await ended(rig)
        await rig.becomes(
            lambda: not [each for each in gc.get_objects() if isinstance(each, Tunnel | Side)]
        )
    finally:
        gc.enable()
