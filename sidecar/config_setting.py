"""One setting and what the commonest of them hold. Part of `config`, which alone reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

EVERYWHERE: Final = frozenset(["0.0.0.0", "::"])  # noqa: S104 - told apart, not listened at


@dataclass(frozen=True, slots=True)
class Address:
    """HOST:PORT."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: `key` is its name in the file, `--key` its flag, `SIDECAR_KEY` its variable."""

    key: str
    read: Callable[[str], Any]
    metavar: str
    help: str
    default: str | None = None
    repeated: bool = False
    bare: str | None = None  # what the flag means without a value

    @property
    def attribute(self) -> str:
        return self.key.replace("-", "_")


def address(text: str) -> Address:
    """Raises ValueError with what was expected."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, [::1]:7400")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:7400")
    return Address(host, int(port))
