"""TLS without sockets: however its bytes are cut, garbled or ended, the same comes out, or nothing."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.edge.certificates import ServerFiles
from sidecar.edge.tls import TlsConnection
from tests.certificates import Authority


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.over = self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.over
        self.sent += bytes(data)

    def write_eof(self) -> None:
        self.over = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0


class App(asyncio.Protocol):
    """Remembers what it hears; `stays` is what it answers to an end."""

    def __init__(self, stays: bool) -> None:
        self.heard: list[str] = []
        self.data = b""
        self.stays = stays

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return self.stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append("lost" if exc is None else type(exc).__name__)


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    authority = Authority()
    with TemporaryDirectory() as folder:
        server, _ = ServerFiles(*authority.issue().write(Path(folder), "s")).context()
    return server, authority.client_context()


class Session:
    """A client of the standard library, a server of ours, and every byte between them."""

    def __init__(self, version: ssl.TLSVersion, stays: bool = False) -> None:
        server, client = contexts()
        client.maximum_version = version
        self.wire, self.app = Wire(), App(stays)
        self.errors: list[OSError | None] = []
        self.ours = TlsConnection(
            server, self.app, lambda _, error: self.errors.append(error), server_side=True
        )
        self.ours.connection_made(self.wire)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.theirs = client.wrap_bio(self._in, self._out, server_hostname="localhost")

    def says(self) -> bytes:
        """What the client has sent meanwhile."""
        return self._out.read()

    def hears(self) -> None:
        sent, self.wire.sent = self.wire.sent, b""
        self._in.write(sent)

    def feed(self, data: bytes, cuts: list[int]) -> None:
        """Cut at these places, as far as they are in it."""
        places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
        for start, stop in pairwise(places):
            self.ours.data_received(data[start:stop])

    def shake(self, cuts: list[int]) -> None:
        for _ in range(6):
            try:
                self.theirs.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            self.feed(self.says(), cuts)
            self.hears()
            if done:
                return


VERSIONS = st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
CUTS = st.lists(st.integers(0, 70_000), max_size=8)
TEXTS = st.lists(st.binary(min_size=1, max_size=40_000), max_size=4)


@settings(max_examples=60, deadline=None)
@given(VERSIONS, CUTS, CUTS, TEXTS, st.booleans(), st.booleans())
def test_however_it_is_cut(
    version: ssl.TLSVersion,
    shaken: list[int],
    cuts: list[int],
    texts: list[bytes],
    notify: bool,
    stays: bool,
) -> None:
    session = Session(version, stays)
    session.shake(shaken)
    assert (session.errors, session.app.heard) == ([None], ["made"])
    for text in texts:
        session.theirs.write(text)
    if notify:
        with suppress(ssl.SSLWantReadError):
            session.theirs.unwrap()
    session.feed(session.says(), cuts)
    session.ours.eof_received()
    assert session.app.data == b"".join(texts)
    assert session.app.heard == ["made", "eof"]
    assert session.wire.closed is not stays
    if stays:  # half-closed: the answer still goes out
        session.ours.write(b"answer")
        session.hears()
        assert session.theirs.read(6) == b"answer"
    session.ours.connection_lost(None)
    assert session.app.heard == ["made", "eof", "lost"]


@settings(max_examples=60, deadline=None)
@given(VERSIONS, TEXTS.filter(bool), st.integers(0), st.integers(1, 255), CUTS)
def test_nothing_is_heard_from_a_garbled_byte_on(
    version: ssl.TLSVersion, texts: list[bytes], place: int, change: int, cuts: list[int]
) -> None:
    session = Session(version)
    session.shake([])
    for text in texts:
        session.theirs.write(text)
    data = bytearray(session.says())
    data[place % len(data)] ^= change
    session.feed(bytes(data), cuts)
    assert b"".join(texts).startswith(session.app.data)
    assert session.app.data != b"".join(texts)
    session.ours.eof_received()
    session.ours.connection_lost(None)
    assert session.app.heard[0] == "made"
    assert session.app.heard[-1] in ("SSLError", "lost")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000), CUTS)
def test_what_is_no_handshake_reaches_nobody(data: bytes, cuts: list[int]) -> None:
    session = Session(ssl.TLSVersion.TLSv1_3)
    session.feed(data, cuts)
    session.ours.eof_received()
    session.ours.connection_lost(None)
    assert len(session.errors) == 1
    assert session.errors[0] is not None
    assert session.app.heard == []
