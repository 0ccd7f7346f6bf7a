"""TLS over a byte transport: one connection's handshake, records and end; alike on every loop.

The loops' own TLS (`ssl=`) is not used. It cannot end one side and read on, which a refusal during
an upload needs; it does not say why a handshake failed; asyncio 3.11 shows an end without
close_notify as a rightful one, and uvloop 0.23 drops what came before it while reading was paused.
Here everything that arrived is decrypted and handed over before anything else happens, and all
that is written is encrypted at once, so that buffers, their limits and their back-pressure are
those of the transport below.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

_RECORD: Final = 16 * 1024  # RFC 8446 section 5.1: no record holds more plain text

_UNREAD: Final = 1024 * 1024  # bytes; more than back-pressure lets those above us write ahead
_NOBODY: Final = asyncio.Protocol()

Told = Callable[["TlsConnection", OSError | None], None]
"""Hears once how the handshake ended: None, or why it failed."""


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """The protocol of the transport below, and the transport of the protocol above.

    `app` hears of the connection once the handshake is done. An end of the stream without
    close_notify (RFC 8446 section 6.1) is an end like any other from a client, whose requests say
    how long they are; from a server it is a loss, since a cut response could look whole.
    """

    __slots__ = (
        "_app", "_connected", "_ended", "_error", "_incoming", "_outgoing", "_peer_ended",
        "_server_side", "_tcp", "_tls", "_told", "deadline", "lost",
    )  # fmt: skip

    _tcp: asyncio.Transport

    def __init__(
        self,
        context: ssl.SSLContext,
        app: asyncio.Protocol,
        told: Told,
        *,
        server_side: bool,
        server_name: str | None = None,
    ) -> None:
        """`server_name` is the name to ask for and to verify, on the client side."""
        super().__init__()
        self.deadline = 0.0  # of the handshake, for whoever watches it
        self.lost: Callable[[TlsConnection], None] | None = None  # called at the very end
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        self._server_side = server_side
        self._app = app
        self._told: Told | None = told
        self._connected = False  # `app` knows of the connection
        self._ended = False  # close_notify was sent
        self._peer_ended = False  # no more comes
        self._error: OSError | None = None

    # -- asyncio.Protocol, for the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio says BaseTransport; that of a stream can write.
        self._tcp = transport  # type: ignore[assignment]
        self._handshake()

    def data_received(self, data: bytes) -> None:
        if self._peer_ended or self._tcp.is_closing():
            return  # RFC 8446 section 6.1: what comes behind a closure alert is ignored
        self._incoming.write(data)
        if self._told is None:
            self._read()
        else:
            self._handshake()

    def eof_received(self) -> bool:
        """The stream below is over. True: closing it is up to us."""
        if not self._connected:
            self._settle(ConnectionResetError("the peer left during the handshake"))
            self._tcp.close()
        elif not self._peer_ended:
            if self._server_side:
                self._peer_over()
            else:
                self._error = ConnectionAbortedError("ended without close_notify")
                self._tcp.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(ConnectionResetError("the peer left during the handshake"))
        if self.lost is not None:
            self.lost(self)
        if self._connected:
            self._connected = False
            app, self._app = self._app, _NOBODY  # a circle would keep OpenSSL's memory for long
            app.connection_lost(self._error or exc)

    def pause_writing(self) -> None:
        if self._connected:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        if self._connected:
            self._app.resume_writing()

    # -- asyncio.Transport, for the protocol above

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if self._connected:
            # asyncio says BaseProtocol; ours are of streams.
            self._app = protocol  # type: ignore[assignment]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended or self._tcp.is_closing() or not data:
            return
        try:
            sent = self._tls.write(data)
            while sent < len(data):
                sent += self._tls.write(data[sent:])
        except OSError as error:
            self._break(error)
            return
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """End our side: close_notify, and the end of the stream below. Reading goes on."""
        if not self._tcp.is_closing():
            self._say_over()
            self._end_stream()

    def close(self) -> None:
        if not self._tcp.is_closing():
            if self._connected:
                self._say_over()
            self._tcp.close()

    def abort(self) -> None:
        self._tcp.abort()

    def is_closing(self) -> bool:
        return self._tcp.is_closing()

    def pause_reading(self) -> None:
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        self._tcp.resume_reading()

    def is_reading(self) -> bool:
        return self._tcp.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._tcp.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._tcp.get_write_buffer_limits()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, or what the transport below knows (`socket`, `peername`)."""
        return self._tls if name == "ssl_object" else self._tcp.get_extra_info(name, default)

    # -- within

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except OSError as error:  # ssl.SSLError is one
            self._fail(error)
            return
        self._flush()
        self._settle(None)
        if not self._tcp.is_closing():
            self._connected = True
            self._app.connection_made(self)
            self._read()  # a client's first request often comes with the end of its handshake

    def _settle(self, error: OSError | None) -> None:
        """Say how the handshake ended, unless that was said."""
        told, self._told = self._told, None
        if told is not None:
            told(self, error)

    def _fail(self, error: OSError) -> None:
        """The handshake failed, and an alert says so.

        A client has often sent its first request already. Were that left unread, the alert would
        be lost to a reset, so it is read and dropped until the client ends or is ended.
        """
        self._settle(error)
        self._flush()
        if self._server_side and not self._tcp.is_closing():
            self._peer_ended = True
            self._end_stream()
        else:
            self._tcp.close()

    def _read(self) -> None:
        pieces: list[bytes] = []
        error: OSError | None = None
        over = False
        try:
            while self._incoming.pending or self._tls.pending():
                piece = self._tls.read(_RECORD)
                if not piece:
                    over = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            over = True
        except OSError as found:
            error = found
        if self._outgoing.pending and not self._ended:
            self._flush()  # the answer to a key update
            if self._tcp.get_write_buffer_size() > _UNREAD:
                error = ConnectionAbortedError("key updates, and nobody reads the answers")
        if pieces:
            self._app.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if error is not None:
            self._break(error)
        elif over:
            self._peer_over()

    def _peer_over(self) -> None:
        self._peer_ended = True
        if self._connected and not self._tcp.is_closing() and not self._app.eof_received():
            self.close()

    def _break(self, error: OSError) -> None:
        """What came was no TLS: nothing of the connection can be believed any more."""
        self._error = error
        self._flush()
        self._tcp.abort()

    def _say_over(self) -> None:
        if not self._ended:
            self._ended = True
            # Sends ours; that the peer's has not come is no error. Nothing waits to be read here,
            # which OpenSSL would take amiss: `_read` leaves nothing.
            with suppress(OSError):
                self._tls.unwrap()
            self._flush()

    def _end_stream(self) -> None:
        with suppress(OSError):  # asyncio raises where the peer has reset it meanwhile
            self._tcp.write_eof()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._tcp.is_closing():
            self._tcp.write(data)
