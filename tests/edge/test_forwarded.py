from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from sidecar.edge.forwarded import (
    MAX_HOPS,
    NOBODY,
    Claims,
    Origin,
    TrustedProxies,
    element_address,
    network,
)

from .conftest import Rig

OURS = TrustedProxies([network("10.0.0.0/8"), network("fd00::/8")])
PEER = "10.0.0.1"


@pytest.mark.parametrize(
    ("chain", "address", "sent"),
    [
        (b"", PEER, "10.0.0.1"),
        (b"192.0.2.1", "192.0.2.1", "192.0.2.1, 10.0.0.1"),
        (b"6.6.6.6, 192.0.2.1", "192.0.2.1", "192.0.2.1, 10.0.0.1"),
        (b"6.6.6.6,192.0.2.1 , 10.0.0.2", "192.0.2.1", "192.0.2.1, 10.0.0.2, 10.0.0.1"),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
        (b"2001:DB8::0:1", "2001:db8::1", "2001:db8::1, 10.0.0.1"),
        (b"192.0.2.1:4711", "192.0.2.1", "192.0.2.1, 10.0.0.1"),
        (b"192.0.2.1, [fd00::1]:80", "192.0.2.1", "192.0.2.1, fd00::1, 10.0.0.1"),
        # Nothing is believed that hangs on a bad element.
        (b"192.0.2.1, unknown", PEER, "10.0.0.1"),
        (b"192.0.2.1, unknown, 10.0.0.2", "10.0.0.2", "10.0.0.2, 10.0.0.1"),
        (b"192.0.2.1,, 10.0.0.2", "10.0.0.2", "10.0.0.2, 10.0.0.1"),
        (b"192.0.2.1,", PEER, "10.0.0.1"),
    ],
)
def test_the_chain_is_walked_from_the_right(chain: bytes, address: str, sent: str) -> None:
    assert OURS.origin(PEER, "http", Claims(chain)) == Origin(address, "http", sent)


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        (b"https", "https"), (b"HTTP", "http"), (b"", "http"), (b"https,http", "http"),
        (b"wss", "http"), (b"https, https", "http"), (b"http\xff", "http"),
    ],
)  # fmt: skip
def test_one_scheme_is_believed(said: bytes, scheme: str) -> None:
    assert OURS.origin(PEER, "http", Claims(b"", said)).scheme == scheme


def test_lines_are_one_list_but_two_schemes_are_none() -> None:
    said = Claims().with_chain(b"192.0.2.1").with_scheme(b"https").with_chain(b"10.0.0.2")
    assert said == Claims(b"192.0.2.1,10.0.0.2", b"https")
    twice = said.with_scheme(b"https")
    assert OURS.origin(PEER, "http", twice).scheme == "http"


def test_hops_are_bounded() -> None:
    chain = b",".join([b"192.0.2.1"] + [b"10.0.0.2"] * 100)
    origin = OURS.origin(PEER, "http", Claims(chain))
    assert origin.address == "10.0.0.2"
    assert len(origin.chain.split(", ")) == MAX_HOPS + 1


@pytest.mark.parametrize(
    "element",
    [
        b"", b"unknown", b"_hidden", b"1.2.3", b"1.2.3.4.5", b"01.2.3.4", b"1.2.3.4:", b"1.2.3.4:x",
        b"1.2.3.4:123456", b"1.2.3.4:65536", b":80", b"[1.2.3.4]:80", b"[::1", b"::1]:80", b"[::1]x",
        b"[::1]:", b"[]", b"fe80::1%eth0", b"[fe80::1%1]:80", b"::1:2:3:4:5:6:7:8:9", b"\xff",
        b"\xd9\xa1.2.3.4", b'"1.2.3.4"', b"1.2.3.4 5", b"1.2.3.4/8", b"localhost", b"[::1]:\xb2",
    ],
)  # fmt: skip
def test_no_address(element: bytes) -> None:
    assert element_address(element) is None


@pytest.mark.parametrize(
    ("element", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"), (b"192.0.2.1:1", "192.0.2.1"), (b"::1", "::1"),
        (b"[2001:DB8:0::1]", "2001:db8::1"), (b"[::1]:65535", "::1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"), (b"[::ffff:192.0.2.1]:80", "192.0.2.1"),
    ],
)  # fmt: skip
def test_addresses(element: bytes, address: str) -> None:
    assert element_address(element) == address


@pytest.mark.parametrize("peer", ["", "192.0.2.1", "fe80::1%eth0", "10.0.0.1 ", "name"])
def test_peers_not_trusted(peer: str) -> None:
    assert not OURS.trust(peer)


def test_trust() -> None:
    assert OURS.trust("10.255.0.1")
    assert OURS.trust("fd00::1")
    assert not NOBODY.trust("127.0.0.1")
    assert TrustedProxies([network("192.0.2.1")]).trust("192.0.2.1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"), ("x", "is no CIDR"), ("10.0.0.0/33", "is no CIDR"),
        ("0.0.0.0/0", "is everybody"), ("::/0", "is everybody"), ("", "is no CIDR"),
        ("::ffff:10.0.0.0/104", "write IPv4 networks as such"), ("10.0.0.0/8 ", "is no CIDR"),
    ],
)  # fmt: skip
def test_bad_networks(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        network(text)


@given(st.lists(st.binary(max_size=20), max_size=40), st.binary(max_size=8))
def test_whatever_they_say_is_a_chain_of_addresses(elements: list[bytes], scheme: bytes) -> None:
    origin = OURS.origin(PEER, "http", Claims(b",".join(elements), scheme))
    hops = origin.chain.split(", ")
    assert hops[-1] == PEER
    assert hops[0] == origin.address
    assert [str(ip_address(hop)) for hop in hops] == hops
    assert all(OURS.trust(hop) for hop in hops[1:])
    assert origin.scheme in ("http", "https")


@given(
    st.lists(st.ip_addresses().map(str), max_size=4), st.ip_addresses(network="192.0.2.0/24"),
    st.lists(st.ip_addresses(network="10.0.0.0/8").map(str), max_size=4),
)  # fmt: skip
def test_callers_cannot_put_themselves_elsewhere(
    made_up: list[str], client: object, proxies: list[str]
) -> None:
    """What stands left of the first address that no proxy of ours has makes no difference."""
    chain = ",".join([*made_up, str(client), *proxies]).encode()
    origin = OURS.origin(PEER, "http", Claims(chain))
    assert origin.address == str(client)
    assert origin.chain == ", ".join([str(client), *proxies, PEER])


# -- through the proxy


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.start(more={"trusted": TrustedProxies([network("127.0.0.0/8")])})
    yield rig
    await rig.stop()


SAID = (
    b"GET /a HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 6.6.6.6\r\n"
    b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
    b"Forwarded: for=6.6.6.6\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_trusted_proxy_is_believed(rig: Rig) -> None:
    client = await rig.client()
    client.send(SAID)
    upstream = await rig.upstream.accept()
    for _ in range(3):  # the lines are remembered, and with them what they claim
        head = await upstream.head()
        assert b"\r\nx-forwarded-for: 192.0.2.1, 127.0.0.1\r\n" in head
        assert b"\r\nx-forwarded-proto: https\r\n" in head
        assert b"\r\nx-forwarded-host: a.example\r\n" in head
        assert b"6.6.6.6" not in head
        assert b"evil" not in head
        upstream.send(OK)
        assert await client.response() == (200, b"ok")
        client.send(SAID)
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    seen = [(each.address, each.scheme) for each in rig.authorizer.decided]
    assert seen == [("192.0.2.1", "https")] * 4
    assert not any(name.startswith(b"x-f") for name, _ in rig.authorizer.decided[0].headers)
    client.send(b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert b"\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n" in await upstream.head()


async def test_nobody_is_by_default() -> None:
    rig = Rig()
    await rig.start()
    try:
        await rig.client(SAID)
        head = await (await rig.upstream.accept()).head()
        assert b"\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n" in head
        assert b"192.0.2.1" not in head
        seen = rig.authorizer.decided[0]
        assert (seen.address, seen.scheme) == ("127.0.0.1", "http")
    finally:
        await rig.stop()
