"""TLS handshakes of clients: bounded in number and time, counted, and said why they fail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from sidecar.edge.sweeper import Sweeper
from sidecar.edge.tls import TlsConnection

SECONDS: Final = 10.0  # for a whole handshake

_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "CERTIFICATE_VERIFY_FAILED": "bad_certificate",
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "NO_SHARED_CIPHER": "cipher",
    "HTTP_REQUEST": "plain_http",
}


class Handshakes:
    """Those under way at one listener, and what became of the others."""

    def __init__(self, context: Callable[[], ssl.SSLContext], *, seconds: float = SECONDS) -> None:
        """`context` gives the one of the moment: each handshake is done with one alone."""
        self.completed = 0
        self.failures: dict[str, int] = {}  # by reason: few, and ours
        self._context = context
        self._seconds = seconds
        self._open: dict[TlsConnection, str] = {}  # with why it is being ended, if it is

    def __len__(self) -> int:
        """How many are under way, or have failed and are being told so."""
        return len(self._open)

    def begin(
        self, app: Callable[[], asyncio.Protocol], sweeper: Sweeper, *, crowded: bool
    ) -> asyncio.Protocol:
        """The protocol of a connection just accepted; `crowded`: there is no room even for one."""
        if crowded:
            return _Crowded()
        connection = TlsConnection(self._context(), app(), self._settled, server_side=True)
        connection.lost = self._lost
        connection.deadline = sweeper.after(self._seconds)
        self._open[connection] = ""
        return connection

    def sweep(self, now: float) -> None:
        """End what is overdue."""
        self._end([each for each in self._open if each.deadline <= now], "timeout")

    def abort(self) -> None:
        """End all of them: none has sent a request yet."""
        self._end(list(self._open), "draining")

    def _end(self, connections: list[TlsConnection], why: str) -> None:
        for connection in connections:
            self._open[connection] = self._open[connection] or why
            connection.abort()

    def _settled(self, connection: TlsConnection, error: OSError | None) -> None:
        if error is None:
            self.completed += 1
            self._open.pop(connection, None)
            return
        why = self._open.get(connection) or reason(error)
        self._open[connection] = why
        self.failures[why] = self.failures.get(why, 0) + 1

    def _lost(self, connection: TlsConnection) -> None:
        self._open.pop(connection, None)


class _Crowded(asyncio.Protocol):
    """Ends what it is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Likewise: it is one that writes.
        transport.abort()  # type: ignore[attr-defined]


def reason(error: OSError) -> str:
    """Why a handshake failed, as one of a few words."""
    if not isinstance(error, ssl.SSLError):
        return "closed"
    name = error.reason or ""
    if "ALERT" in name:
        return "alert"  # the client does not want ours: an unknown CA, another name
    return _REASONS.get(name, "protocol")
