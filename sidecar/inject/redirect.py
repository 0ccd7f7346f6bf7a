"""The packet filter's rules that lead all inbound TCP of a pod to the sidecar. PURE: text to text.

What comes is the nat table as `iptables-save` prints it, what goes is for `iptables-restore
--noflush`, which takes all of it or nothing: one COMMIT for each family. Everything stands in a
chain of our own, so that it can be found again:

    PREROUTING  what comes from outside                                   -> SIDECAR_INBOUND
    OUTPUT      what a process in the pod sends to the pod's own address,
                loopback addresses and the sidecar itself excepted        -> SIDECAR_INBOUND
    SIDECAR_INBOUND   the traffic port, the health port, excluded ports   -> as they are
                      everything else                                     -> the traffic port

The second hook is why the sidecar has a user of its own: it connects to the pod's address too, and
would meet itself. Not covered, since these rules are about TCP between addresses: UDP (HTTP/3) and
SCTP; loopback (127.0.0.0/8, ::1), by which containers of one pod talk to each other and `kubectl
port-forward` to them; connections that stood before the rules did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.inject.terms import HEALTH, TRAFFIC, USER

CHAIN: Final = "SIDECAR_INBOUND"


@dataclass(frozen=True, slots=True)
class Family:
    """One of the two, which have tables of their own."""

    name: str
    program: str  # `-restore` and `-save` come behind it
    loopback: str


IPV4: Final = Family("IPv4", "iptables", "127.0.0.0/8")
IPV6: Final = Family("IPv6", "ip6tables", "::1/128")


@dataclass(frozen=True, slots=True)
class Redirect:
    """What leads where. `user` is the id whose connections are the sidecar's own."""

    to: int = TRAFFIC
    exclude: frozenset[int] = frozenset()
    user: int = USER

    @property
    def excepted(self) -> tuple[int, ...]:
        """Ports that stay as they are, in order."""
        return tuple(sorted({self.to, HEALTH, *self.exclude}))


def install(redirect: Redirect, family: Family, saved: str = "") -> str:
    """The text that sets the rules, whatever there was of ours before: all of it, half, nothing.

    The hooks come first in their chains: nobody else's rule takes a connection away before.
    """
    ports = "".join(
        f"-A {CHAIN} -p tcp -m tcp --dport {port} -j RETURN\n" for port in redirect.excepted
    )
    others = f"-o lo -p tcp -m owner ! --uid-owner {redirect.user}"
    return (
        "*nat\n"
        f":{CHAIN} - [0:0]\n"  # made, or emptied
        f"{_unhooked(saved)}"
        f"{ports}"
        f"-A {CHAIN} -p tcp -j REDIRECT --to-ports {redirect.to}\n"
        f"-I PREROUTING 1 -p tcp -j {CHAIN}\n"
        f"-I OUTPUT 1 ! -d {family.loopback} {others} -j {CHAIN}\n"
        "COMMIT\n"
    )


def remove(saved: str) -> str:
    """The text that leaves no trace of ours; empty where there is none."""
    hooks = _unhooked(saved)
    if not hooks and not any(_declares(line) for line in _nat(saved)):
        return ""
    # Declared, so that it can be removed whatever state it is in.
    return f"*nat\n:{CHAIN} - [0:0]\n{hooks}-X {CHAIN}\nCOMMIT\n"


def _unhooked(saved: str) -> str:
    """A deletion for each rule that leads to our chain, however it came to be."""
    return "".join(
        f"-D {line[3:]}\n"
        for line in _nat(saved)
        if line.startswith("-A ") and f" -j {CHAIN} " in f"{line} "
    )


def _declares(line: str) -> bool:
    return line.startswith(f":{CHAIN} ")


def _nat(saved: str) -> Iterable[str]:
    """The lines of the nat table."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table == "nat":
            yield line.strip()
