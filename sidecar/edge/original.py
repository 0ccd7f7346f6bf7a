"""Where a caller connected to before `sidecar redirect`'s rules sent the connection here.

Linux tells it for connections that it has rewritten, and for some that it has not. Everything here
is about TCP sockets; addresses come as text, a zone included (`fe80::1%2`).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Final, Protocol

ORIGINAL_DESTINATION: Final = "original-destination"
"""As an upstream: wherever each caller connected to."""

_SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h, and in the same place for IPv6
_IPV4: Final = struct.Struct("=H2s4s8x")  # sockaddr_in; the port is in network order
_IPV6: Final = struct.Struct("=H2sI16sI")  # sockaddr_in6
_MAPPED: Final = "::ffff:"


class Accepted(Protocol):
    """What is asked of an accepted socket, which loops wrap each in their own way."""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""

    def getsockname(self) -> tuple[str, int]:
        """Our end."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Raises OSError."""


def original_destination(accepted: Accepted) -> tuple[str, int] | None:
    """Host and port; None where the connection is not known to have been redirected.

    An IPv4 connection to an IPv6 socket is IPv4's business, and its address is told as IPv4.
    """
    mapped = accepted.family == socket.AF_INET6 and accepted.getsockname()[0].startswith(_MAPPED)
    try:
        if accepted.family == socket.AF_INET or mapped:
            data = accepted.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _IPV4.size)
            return parse_ipv4(data)
        data = accepted.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, _IPV6.size)
        return parse_ipv6(data)
    except OSError:  # ENOENT: nobody tracks it; ENOPROTOOPT: nobody tracks anything
        return None


def parse_ipv4(data: bytes) -> tuple[str, int] | None:
    """A sockaddr_in; None where it is none."""
    if len(data) != _IPV4.size:
        return None
    family, port, host = _IPV4.unpack(data)
    if family != socket.AF_INET:
        return None
    return socket.inet_ntop(socket.AF_INET, host), int.from_bytes(port, "big")


def parse_ipv6(data: bytes) -> tuple[str, int] | None:
    """A sockaddr_in6; None where it is none."""
    if len(data) != _IPV6.size:
        return None
    family, port, _, host, zone = _IPV6.unpack(data)
    if family != socket.AF_INET6:
        return None
    text = socket.inet_ntop(socket.AF_INET6, host)
    return (f"{text}%{zone}" if zone else text), int.from_bytes(port, "big")


def sockaddr(host: str, port: int) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """The family of an address as `original_destination` tells it, and how sockets want it."""
    if ":" not in host:
        return socket.AF_INET, (host, port)
    bare, _, zone = host.partition("%")
    return socket.AF_INET6, (bare, port, 0, int(zone or 0))


def is_own(host: str) -> bool:
    """Whether connections to this address end here: only then can a socket be bound to it."""
    found = ipaddress.ip_address(host)
    if found.is_unspecified or found.is_multicast:
        return False
    family, address = sockaddr(host, 0)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
