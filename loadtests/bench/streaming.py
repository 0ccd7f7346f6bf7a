"""One GiB down and up through a proxy, by a client that is never what the transfer waits for."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtests.bench.contest import Ground, Proxy, Sample, started
from loadtests.bench.peers import Peer
from loadtests.bench.proc import processor_seconds
from loadtests.bench.processes import on_core
from loadtests.bench.upstream import STREAM, sink

_PIECE: Final = 1 << 20
_TIMEOUT: Final = 120.0
Transfer = Callable[[int], float]
"""Port to seconds."""
_HEAD: Final = re.compile(rb"HTTP/1\.1 200 .*\r\ncontent-length: *(\d+)\r\n", re.I | re.S)


class TransferFailed(Exception):
    """Not all of it arrived."""


def download(port: int, path: str, token: str) -> float:
    """Seconds. Raises TransferFailed. The kernel drops the bytes (MSG_TRUNC, tcp(7))."""
    with _connection(port) as connection:
        began = time.monotonic()
        connection.sendall(_request("GET", path, token))
        left, early = _answer(connection)
        left -= len(early)
        buffer = bytearray(_PIECE)
        while left > 0:
            got = connection.recv_into(buffer, min(_PIECE, left), socket.MSG_TRUNC)
            if not got:
                raise TransferFailed(f"{left} bytes of {path} did not arrive")
            left -= got
        return time.monotonic() - began


def upload(port: int, path: str, token: str, file: Path) -> float:
    """Seconds until the upstream said that it has it all. Raises TransferFailed."""
    size = file.stat().st_size
    with _connection(port) as connection, file.open("rb") as source:
        began = time.monotonic()
        connection.sendall(_request("POST", path, token, size))
        connection.sendfile(source)
        length, body = _answer(connection)
        while len(body) < length:
            piece = connection.recv(length - len(body))
            if not piece:
                raise TransferFailed("the answer to the upload was cut")
            body += piece
        if body != b"%d" % size:
            raise TransferFailed(f"the upstream has {body!r} of {size} bytes")
        return time.monotonic() - began


def compare(ground: Ground, peers: dict[str, Peer], count: int) -> dict[str, list[Sample]]:
    """By direction; a sample's rate is bytes per second, its processor time that of a MiB."""
    found: dict[str, list[Sample]] = {}
    token = ground.tokens[0]
    with started(ground, peers) as proxies:
        found["down"] = _rounds(ground, proxies, count, lambda p: download(p, "/api/stream", token))
    source = ground.folder / "source"
    with source.open("wb") as file:
        file.truncate(STREAM)  # sparse
    with (
        sink(ground.folder, ground.load_core) as port,
        started(ground, peers, upstream=port) as proxies,
    ):
        found["up"] = _rounds(ground, proxies, count, lambda p: upload(p, "/upload", token, source))
    return found


def _rounds(
    ground: Ground, proxies: Sequence[Proxy], count: int, transfer: Transfer
) -> list[Sample]:
    """After one transfer each that is not counted: on a machine with other work the first second
    of a proxy that was idle until then goes to moving that work off its core."""
    samples = []
    for proxy in proxies:
        transfer(proxy.port)
    for number in range(count):
        first = number % len(proxies)
        for proxy in [*proxies[first:], *proxies[:first]]:
            before = processor_seconds(proxy.process.pid)
            try:
                with on_core(ground.load_core):
                    seconds = transfer(proxy.port)
            except (OSError, TransferFailed) as error:
                raise TransferFailed(f"{proxy.name}: {error}\n{proxy.process.said}") from None
            used = (processor_seconds(proxy.process.pid) - before) * 1e6 / (STREAM >> 20)
            latency = seconds * 1e6
            samples.append(Sample(proxy.name, number, used, STREAM / seconds, latency, latency, 1))
    return samples


def _connection(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)


def _request(method: str, path: str, token: str, length: int | None = None) -> bytes:
    declared = "" if length is None else f"content-length: {length}\r\n"
    fields = f"host: bench\r\nauthorization: Bearer {token}\r\n{declared}"
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode()


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    """The declared length of a 200's body, and what came of it with the head."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            raise TransferFailed(f"closed after {head[:200]!r}")
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    declared = _HEAD.match(head + b"\r\n")
    if declared is None:
        raise TransferFailed(f"answered {head[:200]!r}")
    return int(declared.group(1)), body
