"""Tickets: what a person is asked for, and whose answer it will be, sealed for the pages that ask.

A ticket opens once its namespace is known, which stands before it; each namespace's sidecars have a
secret of their own, so that none can speak for the customers of another. It lives for minutes. That
it is answered once is for whoever answers it to see to, by its `id`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.errors import SealBroken
from sidecar.facts.sealed import seal, unseal

USE: Final = "ticket"
SECONDS: Final = 600.0  # that one lives
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Asked:
    """A purpose (`namespace/name`) and the version whose words the person reads; for a transaction
    its digest and what it is about."""

    purpose: str
    version: int
    binding: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a ticket holds. `kind` is that of the plan, or `privacy`; `attributes` are
    `namespace/name`; `back` is where a browser was, empty for others."""

    id: str
    kind: str
    customer: str
    purposes: tuple[Asked, ...] = ()
    attributes: tuple[str, ...] = ()
    back: str = ""
    decision: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The text, as it stands in an address; until when it opens (seconds since the epoch)."""

    text: str
    id: str
    expires: float


@dataclass(frozen=True, slots=True)
class Opened:
    """A ticket that opened: of whose sidecars it is, and what they wrote."""

    namespace: str
    contents: Contents
    expires: float


def make(secret: bytes, namespace: str, contents: Contents, now: float) -> Ticket:
    """Raises ValueError for more than an address can bear."""
    members = {
        "i": contents.id,
        "k": contents.kind,
        "c": contents.customer,
        "p": [
            [each.purpose, each.version, each.binding, each.values] for each in contents.purposes
        ],
        "a": list(contents.attributes),
        "b": contents.back,
        "d": contents.decision,
        "s": contents.service,
    }
    sealed = seal(secret, USE, members, now=now, seconds=SECONDS)
    return Ticket(f"{namespace}.{sealed}", contents.id, now + SECONDS)


def open_(text: str, secret: Callable[[str], bytes], now: float) -> Opened:
    """`secret(namespace)` is what its sidecars seal with. Raises SealBroken."""
    namespace, _, sealed = text.rpartition(".")
    if not _NAMESPACE.fullmatch(namespace):
        raise SealBroken("not one of ours")
    members = unseal(secret(namespace), USE, sealed, now=now)
    try:
        contents = Contents(
            id=str(members["i"]),
            kind=str(members["k"]),
            customer=str(members["c"]),
            purposes=tuple([Asked(str(p), int(v), str(b), dict(s)) for p, v, b, s in members["p"]]),
            attributes=tuple([str(each) for each in members["a"]]),
            back=str(members["b"]),
            decision=str(members["d"]),
            service=str(members["s"]),
        )
    except (KeyError, TypeError, ValueError):
        raise SealBroken("not one of ours") from None
    return Opened(namespace, contents, float(members["exp"]))
