"""Which control plane a command talks to, how it knows it, and what it shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TIMEOUT: Final = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Server:
    """`address` is HOST:PORT, `timeout` is in seconds, for each call. With `ca` it is spoken to by
    TLS. `cert` and `key` are what a client shows there, `token_file` holds what it says, read for
    each call."""

    address: str
    ca: Path | None = None
    token_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    timeout: float = TIMEOUT

    def mistakes(self) -> Iterator[str]:
        """What does not go together: above all, a token never goes over the network as it is."""
        from sidecar.facts.signing import is_loopback

        if (self.cert is None) != (self.key is None):
            yield "--server-cert, --server-key: one is of no use without the other"
        if self.ca is not None:
            return
        if self.cert is not None:
            yield "--server-cert: it is shown with TLS only; give --server-ca FILE"
        if self.token_file is not None and not is_loopback(self.address):
            yield (
                f"--server-token-file: without TLS anybody on the way to {self.address} could take "
                "the token; give --server-ca FILE"
            )
