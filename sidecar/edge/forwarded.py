"""Whose word on where a request came from is believed: `x-forwarded-for` of trusted proxies. Pure.

A chain of proxies reads from the right: the peer is who connected to us, the last element is who
connected to the peer, and so on. It is believed for as long as each speaker is trusted; the first
who is not is the client. What no trusted proxy vouches for is neither believed nor passed on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

MAX_HOPS: Final = 32  # elements believed of one chain
_KEPT: Final = 4096  # chains, and addresses, whose meaning is remembered
_LONGEST_KEPT: Final = 512  # bytes
_MAPPED: Final = IPv6Network("::ffff:0:0/96")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Origin:
    """`address` is the client's, `scheme` what it spoke, `chain` the x-forwarded-for to send."""

    address: str
    scheme: str
    chain: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What a request's lines say: the whole chain, and the protocol; empty where they do not."""

    chain: bytes = b""
    scheme: bytes = b""

    def with_chain(self, value: bytes) -> Claims:
        """With one more `x-forwarded-for` line: all of them together are one list."""
        return Claims(self.chain + b"," + value if self.chain else value, self.scheme)

    def with_scheme(self, value: bytes) -> Claims:
        """With one more `x-forwarded-proto` line: two of them are no protocol."""
        return Claims(self.chain, self.scheme + b"," + value if self.scheme else value)


def network(text: str) -> Network:
    """A CIDR, or one address. Raises ValueError with what to write instead."""
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no CIDR, such as 10.0.0.0/8 or fd00::/8") from None
    if str(found.network_address) != str(ip_address(text.partition("/")[0])):
        raise ValueError(f"{text!r} has bits behind its prefix; write {found}")
    if found.prefixlen == 0:
        raise ValueError(f"{text!r} is everybody; name the networks of your own proxies")
    if isinstance(found, IPv6Network) and found.overlaps(_MAPPED):
        raise ValueError(f"{text!r}: write IPv4 networks as such, like 10.0.0.0/8")
    return found


class TrustedProxies:
    """The networks whose proxies are believed."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._known: dict[str, bool] = {}
        self._origins: dict[tuple[str, str, Claims], Origin] = {}

    def trust(self, address: str) -> bool:
        """Whether the proxy at `address` is believed; never one without an IP address."""
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            known = self._look_up(address)
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[address] = known
        return known

    def origin(self, peer: str, scheme: str, said: Claims) -> Origin:
        """Where a request came from that the trusted `peer` brought over `scheme`."""
        key = (peer, scheme, said)
        found = self._origins.get(key)
        if found is None:
            found = self._read(peer, scheme, said)
            if len(said.chain) + len(said.scheme) <= _LONGEST_KEPT:
                if len(self._origins) >= _KEPT:
                    self._origins.clear()
                self._origins[key] = found
        return found

    def _read(self, peer: str, scheme: str, said: Claims) -> Origin:
        believed = [peer]
        for element in reversed(said.chain.rsplit(b",", MAX_HOPS)[-MAX_HOPS:]):
            address = element_address(element.strip(b" \t"))
            if address is None:
                break  # whatever stands further left hangs on this
            believed.append(address)
            if not self.trust(address):
                break
        spoken = said.scheme.lower()
        if spoken in (b"http", b"https"):
            scheme = spoken.decode("ascii")
        return Origin(believed[-1], scheme, ", ".join(reversed(believed)))

    def _look_up(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


NOBODY: Final = TrustedProxies(())


def element_address(element: bytes) -> str | None:
    """The address in one element of a chain, in its usual spelling; None where there is none.

    As proxies write it: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`,
    `[2001:db8::1]:4711`. An IPv4 address in IPv6 clothes becomes IPv4.
    """
    try:
        text = element.decode("ascii")
    except UnicodeDecodeError:
        return None
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text or (port and not _port(port)):
            return None
    elif text.count(":") == 1:
        text, colon, port = text.partition(":")
        if not _port(colon + port):
            return None
    if "%" in text:  # a zone says nothing to anyone else
        return None
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(found)


def _port(text: str) -> bool:
    """Whether it is `:` and a port."""
    digits = text[1:]
    return text[:1] == ":" and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535
