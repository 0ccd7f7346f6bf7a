"""Credentials that did not stand, by the address they came from: the next one of an address that
brought too many is not looked at, so that guessing costs nobody a signature check."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address
from typing import Final

from sidecar.decide.rates import Rate

ADDRESSES: Final = 4096  # that are remembered; then whoever failed longest ago is forgotten
RATE: Final = Rate.filling(0.1, 100)  # ten a second, 100 at once


class Attempts:
    """`wait` before a credential is checked, `failed` when it did not stand."""

    def __init__(self, rate: Rate = RATE, most: int = ADDRESSES) -> None:
        self._rate = rate
        self._most = most
        self._due: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def wait(self, address: str, now: float) -> float:
        """Seconds until another is looked at; 0 or less: at once."""
        due = self._due.get(_network(address))
        return 0.0 if due is None else self._rate.wait(due, now)

    def failed(self, address: str, now: float) -> None:
        """Counts one."""
        network = _network(address)
        self._due[network] = self._rate.after(self._due.get(network, 0.0), now)
        self._due.move_to_end(network)
        if len(self._due) > self._most:
            self._due.popitem(last=False)


def _network(address: str) -> str:
    """What counts as one client: an IPv4 address, the /64 of an IPv6 address (RFC 6177)."""
    try:
        return IPv6Address(address.strip("[]")).packed[:8].hex()
    except ValueError:
        return address
