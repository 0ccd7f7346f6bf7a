"""Callers of every kind, one connection each, and what each must be answered.

Those that keep their connection are wrk's part; these come, ask, and go, politely or not.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtests.bench.mint import Mint

_TIMEOUT: Final = 20.0
_BODY: Final = 256 * 1024
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unexpected(Exception):
    """An answer that is not the one due."""


@dataclass(slots=True)
class Tally:
    """How often each kind called, and what went wrong: an example of each kind's failures."""

    calls: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def called(self, kind: str) -> None:
        self.calls[kind] = self.calls.get(kind, 0) + 1

    def failed(self, kind: str, why: str) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1
        self.examples.setdefault(kind, why)


class Callers:
    """`kinds` by name; each call is one connection to `port`."""

    def __init__(self, port: int, mint: Mint, tokens: Sequence[str]) -> None:
        self._port = port
        self._tokens = tokens
        self._expired = mint.expired()
        self._without_scope = mint.without_scope()
        self._random = random.Random(7)
        self.tally = Tally()
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "one request": self.one_request,
            "connection: close": self.closing,
            "pipelined": self.pipelined,
            "upload": self.upload,
            "chunked upload": self.chunked_upload,
            "no token": lambda: self._refused(None, 401),
            "tampered token": lambda: self._refused(self._tampered(), 401),
            "expired token": lambda: self._refused(self._expired, 401),
            "no scope": lambda: self._refused(self._without_scope, 403),
            "malformed": self.malformed,
            "cut in the head": self.cut_in_head,
            "cut in the upload": self.cut_in_upload,
            "cut in the answer": self.cut_in_answer,
        }

    async def call(self, kind: str) -> None:
        """One call, counted."""
        self.tally.called(kind)
        try:
            await asyncio.wait_for(self.kinds[kind](), _TIMEOUT)
        except (Unexpected, OSError, EOFError, TimeoutError, ValueError) as error:
            self.tally.failed(kind, f"{type(error).__name__}: {error}")

    async def one_request(self) -> None:
        reader, writer = await self._open()
        writer.write(self._head("GET", "/api/small/7", self._token()) + b"\r\n")
        await _expect(reader, 200)
        await _close(writer)

    async def closing(self) -> None:
        reader, writer = await self._open()
        writer.write(
            self._head("GET", "/api/large/7", self._token()) + b"connection: close\r\n\r\n"
        )
        await _expect(reader, 200)
        if await reader.read(1):
            raise Unexpected("more than one answer")
        await _close(writer)

    async def pipelined(self) -> None:
        reader, writer = await self._open()
        good = self._head("GET", "/api/small/7", self._token()) + b"\r\n"
        refused = self._head("GET", "/api/small/7", None) + b"\r\n"
        writer.write(good + refused + good)
        for status in (200, 401, 200):
            await _expect(reader, status)
        await _close(writer)

    async def upload(self) -> None:
        reader, writer = await self._open()
        head = self._head("POST", "/upload", self._token())
        writer.write(head + b"content-length: %d\r\n\r\n" % _BODY + bytes(_BODY))
        await writer.drain()
        if await _expect(reader, 200) != b"%d" % _BODY:
            raise Unexpected("the upstream has another length")
        await _close(writer)

    async def chunked_upload(self) -> None:
        reader, writer = await self._open()
        writer.write(
            self._head("POST", "/upload", self._token()) + b"transfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(8):
            writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        if await _expect(reader, 200) != b"%d" % (8 * 0x1000):
            raise Unexpected("the upstream has another length")
        await _close(writer)

    async def malformed(self) -> None:
        """Refused with 400, and the connection closed."""
        reader, writer = await self._open()
        head = self._head("POST", "/upload", self._token())
        writer.write(head + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        await _expect(reader, 400)
        if await reader.read(1):
            raise Unexpected("more after a 400")
        await _close(writer)

    async def cut_in_head(self) -> None:
        _, writer = await self._open()
        writer.write(self._head("GET", "/api/small/7", self._token()))
        await writer.drain()
        self._leave(writer)

    async def cut_in_upload(self) -> None:
        _, writer = await self._open()
        head = self._head("POST", "/upload", self._token())
        writer.write(head + b"content-length: %d\r\n\r\n" % _BODY + bytes(_BODY // 2))
        await writer.drain()
        self._leave(writer)

    async def cut_in_answer(self) -> None:
        reader, writer = await self._open()
        writer.write(self._head("GET", "/api/large/7", self._token()) + b"\r\n")
        await reader.readexactly(self._random.choice((1, 100, 20_000)))
        self._leave(writer)

    async def _refused(self, token: str | None, status: int) -> None:
        reader, writer = await self._open()
        writer.write(self._head("GET", "/api/small/7", token) + b"\r\n")
        await _expect(reader, status)
        await _close(writer)

    def _token(self) -> str:
        return self._random.choice(self._tokens)

    def _tampered(self) -> str:
        """Never the same twice, so that what is remembered of bad ones shows."""
        signed, _, signature = self._token().rpartition(".")
        wrong = "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz", k=40))
        return f"{signed}.{wrong}{signature[40:]}"

    def _head(self, method: str, path: str, token: str | None) -> bytes:
        """Without the empty line."""
        credential = "" if token is None else f"authorization: Bearer {token}\r\n"
        return f"{method} {path} HTTP/1.1\r\nhost: soak\r\n{credential}".encode()

    async def _open(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self._port)

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        """Without a word: half of them end the connection, half reset it."""
        if self._random.random() < 0.5:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def _expect(reader: asyncio.StreamReader, status: int) -> bytes:
    """The body of the next answer. Raises Unexpected."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, *fields = head[:-4].split(b"\r\n")
    found = int(line.split()[1])
    length = next(
        (int(f.partition(b":")[2]) for f in fields if f.lower().startswith(b"content-length:")),
        None,
    )
    if length is None:
        raise Unexpected(f"no length in {head!r}")
    body = await reader.readexactly(length)
    if found != status:
        raise Unexpected(f"{found}, not {status}: {body[:300]!r}")
    return body


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()
