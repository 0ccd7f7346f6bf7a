"""Messages between the supervisor and one worker: frames over a socket pair.

A frame is four bytes of length, big-endian, and that many bytes of MessagePack, which must decode
to one of the messages expected. Anything else ends the channel, and with it the worker. Nothing is
queued: a sender waits until the socket has taken what it sent, one sender after the other.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Generic, TypeVar

import msgspec

from sidecar.errors import ChannelBroken

MAX_FRAME: Final = 65 * 1024 * 1024  # bytes: the largest document, 64 MiB, and what goes with it
_HEADER: Final = 4
_READ: Final = 256 * 1024  # bytes read ahead

Received = TypeVar("Received")


class Channel(Generic[Received]):
    """One end. Both ends are used from their own event loop only."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[Received],
        most: int = MAX_FRAME,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._most = most
        self._turn = asyncio.Lock()

    @classmethod
    async def over(
        cls,
        end: socket.socket,
        decoder: msgspec.msgpack.Decoder[Received],
        most: int = MAX_FRAME,
    ) -> Channel[Received]:
        """Takes over one end of a pair of stream sockets."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=_READ)
        return cls(reader, writer, decoder, most)

    async def send(self, message: msgspec.Struct) -> None:
        """Send one message, after those before it. Raises ChannelBroken."""
        frame = self._encoder.encode(message)
        if len(frame) > self._most:
            raise ChannelBroken(f"a {type(message).__name__} of {len(frame)} bytes is too long")
        async with self._turn:
            if self._writer.is_closing():
                raise ChannelBroken("the other process has gone")
            try:
                self._writer.write(len(frame).to_bytes(_HEADER, "big") + frame)
                await self._writer.drain()
            except (OSError, RuntimeError) as error:  # uvloop says RuntimeError once it is closed
                raise ChannelBroken(f"the other process has gone: {error}") from None

    async def receive(self) -> Received | None:
        """The next message; None when the other process has gone. Raises ChannelBroken."""
        try:
            header = await self._reader.readexactly(_HEADER)
            length = int.from_bytes(header, "big")
            if length > self._most:
                raise ChannelBroken(f"a message of {length} bytes is too long")
            frame = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            if not error.partial and error.expected == _HEADER:
                return None
            raise ChannelBroken("the other process has gone within a message") from None
        except OSError:
            return None
        try:
            return self._decoder.decode(frame)
        except msgspec.DecodeError as error:
            raise ChannelBroken(f"not a message: {error}") from None

    def close(self) -> None:
        """End it, whatever was not sent yet."""
        self._writer.transport.abort()
