"""What the kernel says of where a connection was going, and which addresses are ours."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from sidecar.edge.original import is_own, original_destination, parse_ipv4, parse_ipv6, sockaddr

FOUR = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(8080), bytes([10, 0, 0, 7]))
SIX = struct.pack(
    "=HHI16sI", socket.AF_INET6, socket.htons(443), 9, socket.inet_pton(socket.AF_INET6, "fd00::7"),
    0,
)  # fmt: skip


class Accepted:
    """A socket whose options are `known`, by level."""

    def __init__(self, family: int, name: str, known: dict[int, bytes]) -> None:
        self.family = family
        self._name = name
        self._known = known

    def getsockname(self) -> tuple[str, int]:
        return self._name, 7400

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert option == 80
        if level not in self._known:
            raise OSError(errno.ENOENT, "not tracked")
        return self._known[level][:size]


BOTH = {socket.SOL_IP: FOUR, socket.IPPROTO_IPV6: SIX}


@pytest.mark.parametrize(
    ("family", "name", "found"),
    [
        (socket.AF_INET, "10.0.0.7", ("10.0.0.7", 8080)),
        (socket.AF_INET6, "fd00::7", ("fd00::7", 443)),
        (socket.AF_INET6, "::ffff:10.0.0.7", ("10.0.0.7", 8080)),  # IPv4 on a dual-stack socket
    ],
)
def test_each_family_is_asked_in_its_way(family: int, name: str, found: tuple[str, int]) -> None:
    assert original_destination(Accepted(family, name, BOTH)) == found
    assert original_destination(Accepted(family, name, {})) is None


def test_a_zone_stays() -> None:
    data = SIX[:8] + socket.inet_pton(socket.AF_INET6, "fe80::1") + struct.pack("=I", 3)
    assert parse_ipv6(data) == ("fe80::1%3", 443)
    assert sockaddr("fe80::1%3", 443) == (socket.AF_INET6, ("fe80::1", 443, 0, 3))
    assert sockaddr("fd00::7", 443) == (socket.AF_INET6, ("fd00::7", 443, 0, 0))
    assert sockaddr("10.0.0.7", 80) == (socket.AF_INET, ("10.0.0.7", 80))


@pytest.mark.parametrize("data", [b"", FOUR[:-1], FOUR + b"x", SIX, bytes(16)])
def test_what_is_no_ipv4_address(data: bytes) -> None:
    assert parse_ipv4(data) is None


@pytest.mark.parametrize("data", [b"", SIX[:-1], SIX + b"x", FOUR, bytes(28)])
def test_what_is_no_ipv6_address(data: bytes) -> None:
    assert parse_ipv6(data) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_that_nobody_redirected(host: str) -> None:
    """Linux may know nothing, or say where it went."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]),
        server.accept()[0] as accepted,
    ):
        assert original_destination(accepted) in (None, accepted.getsockname()[:2])


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True),
        ("192.0.2.1", False), ("2001:db8::1", False), ("fe80::1", False), ("fe80::1%4000", False),
        ("0.0.0.0", False), ("::", False), ("224.0.0.1", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_ours(host: str, own: bool) -> None:
    assert is_own(host) is own
