"""TLS at the traffic listener, with the clients of the standard library on the other side."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from sidecar.edge.certificates import ServerFiles
from sidecar.edge.handshakes import Handshakes
from sidecar.edge.rotation import Rotation
from tests.certificates import Authority

from .conftest import Peer, Rig, soon

T = TypeVar("T")

GET = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1024 * 1024
BOTH = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


class TlsRig(Rig):
    """A rig whose listener speaks TLS with files that a test may change."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.authority = Authority()
        self.callers = Authority("callers")
        self.rotation: Rotation
        self.handshakes: Handshakes
        self.server_name: str | None = "localhost"

    async def serve(self, *, mutual: bool = False, optional: bool = False, **limits: Any) -> None:
        files = ServerFiles(
            *self.authority.issue().write(self.folder, "server"),
            self.callers.write(self.folder, "callers") if mutual else None,
            optional,
        )
        self.rotation = Rotation("client", files)
        self.rotation.load()
        self.handshakes = Handshakes(lambda: self.rotation.context)
        await self.start(more={"handshakes": self.handshakes}, **limits)

    def trusting(self, callers: Authority | None = None) -> ssl.SSLContext:
        """A client's context, with a certificate of `callers`."""
        pair = None
        if callers is not None:
            pair = callers.issue("caller").write(self.folder, "caller")
        return self.authority.client_context(pair)

    def connect(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Blocking:
        return Blocking(self.port, context, session, self.server_name)


class Blocking:
    """A blocking client, to be used in a thread; it tells a rightful end from a cut one."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        session: ssl.SSLSession | None,
        server_name: str | None,
    ) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=5)
        try:
            self.sock = context.wrap_socket(
                raw, server_hostname=server_name, suppress_ragged_eofs=False, session=session
            )
        except OSError:
            raw.close()
            raise

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def all(self) -> bytes:
        """Up to close_notify; raises ssl.SSLError where the end comes without."""
        found = b""
        with suppress(ssl.SSLZeroReturnError):  # how it is said to who said so first
            while data := self.sock.recv(65536):
                found += data
        return found

    def close_notify(self) -> None:
        """Say that no more will be sent, and go on reading."""
        self.sock.settimeout(0.0)
        with suppress(ssl.SSLWantReadError):
            self.sock._sslobj.shutdown()  # type: ignore[attr-defined]  # unwrap() would wait
        self.sock.settimeout(5)

    def raw(self, data: bytes) -> None:
        """Past TLS."""
        with socket.socket(fileno=os.dup(self.sock.fileno())) as below:
            below.sendall(data)


async def off(work: Callable[[], T]) -> T:
    """In a thread, so that the proxy's loop turns meanwhile."""
    return await soon(asyncio.to_thread(work))


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[TlsRig]:
    rig = TlsRig(tmp_path)
    yield rig
    await rig.stop()


@BOTH
async def test_a_request_over_tls(rig: TlsRig, version: ssl.TLSVersion) -> None:
    await rig.serve()
    context = rig.trusting()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = await rig.client(GET, tls=context)
    assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    upstream = await rig.upstream.accept()
    assert b"\r\nx-forwarded-proto: https\r\n" in await upstream.head()
    assert rig.authorizer.decided[0].scheme == "https"
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    client.send(GET)
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert (rig.handshakes.completed, len(rig.handshakes), rig.handshakes.failures) == (1, 0, {})
    assert (rig.stats.accepted, rig.stats.connections_open) == (1, 1)


async def test_the_request_may_come_with_the_end_of_the_handshake(rig: TlsRig) -> None:
    await rig.serve()
    client, tls, _, outgoing = await by_hand(rig, rig.trusting())
    tls.write(GET.replace(b"/a", b"/no"))
    client.send(outgoing.read())  # Finished and the request in one piece
    await rig.becomes(lambda: rig.authorizer.done == [("/no", 403)])


async def by_hand(
    rig: TlsRig, context: ssl.SSLContext
) -> tuple[Peer, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A client whose records a test cuts as it likes; the handshake's last ones are not sent."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    client = await rig.client()
    while True:
        try:
            tls.do_handshake()
            return client, tls, incoming, outgoing
        except ssl.SSLWantReadError:
            client.send(outgoing.read())
            incoming.write(await soon(client.reader.read(65536)))


# -- who is refused


async def test_old_versions_are_refused(rig: TlsRig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.serve()
    context = rig.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        await rig.client(tls=context)
    assert rig.handshakes.failures == {"version": 1}
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_weak_ciphers_are_refused(rig: TlsRig) -> None:
    await rig.serve()
    context = rig.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA")
    with pytest.raises(ssl.SSLError):
        await rig.client(tls=context)
    assert rig.handshakes.failures == {"cipher": 1}


async def test_plain_http_just_ends(rig: TlsRig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.serve()
    client = await rig.client(GET)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.head()
    assert rig.handshakes.failures == {"plain_http": 1}
    assert rig.stats.upstream_created == 0
    assert not caplog.records


@pytest.mark.parametrize("junk", [b"\0" * 4096, b"\x16\x03\x01\xff\xff" + b"x" * 70000, b"\x15"])
async def test_junk_is_no_handshake(
    rig: TlsRig, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.serve()
    client = await rig.client(junk)
    client.half_close()
    await rig.becomes(lambda: sum(rig.handshakes.failures.values()) == 1)
    await rig.becomes(lambda: len(rig.handshakes) == 0)
    assert not caplog.records


async def test_a_client_that_does_not_trust_us_is_counted(rig: TlsRig) -> None:
    await rig.serve()
    with pytest.raises(ssl.SSLCertVerificationError):
        await off(lambda: rig.connect(rig.callers.client_context()))
    await rig.becomes(lambda: rig.handshakes.failures == {"alert": 1})


@BOTH
async def test_a_client_certificate_is_required(rig: TlsRig, version: ssl.TLSVersion) -> None:
    await rig.serve(mutual=True)

    def asked(context: ssl.SSLContext) -> bytes:
        context.minimum_version = context.maximum_version = version
        with rig.connect(context) as client:
            client.sock.sendall(GET.replace(b"/a", b"/no"))
            return client.sock.recv(12)

    assert await off(lambda: asked(rig.trusting(rig.callers))) == b"HTTP/1.1 403"
    for callers in (None, rig.authority):
        with pytest.raises(ssl.SSLError, match="alert"):  # never a reset
            await off(lambda callers=callers: asked(rig.trusting(callers)))  # type: ignore[misc]
    await rig.becomes(
        lambda: rig.handshakes.failures == {"no_certificate": 1, "bad_certificate": 1}
    )
    expired = rig.trusting()
    expired.load_cert_chain(*rig.callers.issue(since=-90).write(rig.folder, "expired"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await off(lambda: asked(expired))
    assert len(rig.authorizer.decided) == 1


@BOTH
async def test_verified_clients_resume_under_tls_1_2_only(
    rig: TlsRig, version: ssl.TLSVersion
) -> None:
    await rig.serve(mutual=True)
    context = rig.trusting(rig.callers)
    context.minimum_version = context.maximum_version = version

    def asked(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with rig.connect(context, session) as client:
            client.sock.sendall(GET.replace(b"/a", b"/no"))
            client.sock.recv(12)
            return client.sock.session, bool(client.sock.session_reused)

    session, _ = await off(lambda: asked(None))
    _, reused = await off(lambda: asked(session))
    assert reused is (version is ssl.TLSVersion.TLSv1_2)


async def test_an_optional_client_certificate_must_be_good(rig: TlsRig) -> None:
    await rig.serve(mutual=True, optional=True)

    def asked(callers: Authority | None) -> bytes:
        with rig.connect(rig.trusting(callers)) as client:
            client.sock.sendall(GET.replace(b"/a", b"/no"))
            return client.sock.recv(12)

    assert await off(lambda: asked(None)) == b"HTTP/1.1 403"
    assert await off(lambda: asked(rig.callers)) == b"HTTP/1.1 403"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await off(lambda: asked(rig.authority))


# -- bounds


async def test_a_handshake_has_its_time(rig: TlsRig) -> None:
    await rig.serve()
    client = await rig.client()
    await rig.becomes(lambda: len(rig.handshakes) == 1)
    rig.pass_time(9)
    assert len(rig.handshakes) == 1
    rig.pass_time(2)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.head()
    assert rig.handshakes.failures == {"timeout": 1}


async def test_handshakes_count_as_connections(rig: TlsRig) -> None:
    await rig.serve(connections=1, connections_told=1)
    await rig.client()
    await rig.client()
    await rig.becomes(lambda: len(rig.handshakes) == 2)
    third = await rig.client()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await third.head()
    assert (rig.stats.accepted, rig.stats.connections_refused) == (1, 1)


async def test_one_client_too_many_is_told_so(rig: TlsRig) -> None:
    await rig.serve(connections=1)
    await rig.client(tls=rig.trusting())
    second = await rig.client(GET, tls=rig.trusting())
    assert (await second.response())[0] == 503


async def test_a_stop_ends_handshakes(rig: TlsRig) -> None:
    await rig.serve()
    await rig.client()
    await rig.becomes(lambda: len(rig.handshakes) == 1)
    assert await soon(rig.proxy.drain(5))
    await rig.becomes(lambda: len(rig.handshakes) == 0)


# -- how connections end


@BOTH
async def test_half_closed_clients_are_answered(rig: TlsRig, version: ssl.TLSVersion) -> None:
    await rig.serve()
    context = rig.trusting()
    context.minimum_version = context.maximum_version = version

    def ask() -> bytes:
        with rig.connect(context) as client:
            client.sock.sendall(GET)
            client.close_notify()
            said.set()
            return client.all()

    said = threading.Event()
    asking = asyncio.create_task(off(ask))
    upstream = await rig.upstream.accept()
    await upstream.head()
    await off(lambda: said.wait(5))
    upstream.send(OK)
    assert (await asking).endswith(b"ok")
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    assert rig.stats.client_aborts == 0


@BOTH
async def test_a_refused_upload_can_read_its_answer(rig: TlsRig, version: ssl.TLSVersion) -> None:
    """Our side ends with close_notify while the client still sends: nothing is reset."""
    await rig.serve()
    context = rig.trusting()
    context.minimum_version = context.maximum_version = version
    head = b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (8 * MIB)

    def upload() -> bytes:
        with rig.connect(context) as client:
            client.sock.sendall(head)
            answer = client.all()
            for _ in range(8):
                client.sock.sendall(b"x" * MIB)
            return answer

    assert (await off(upload)).startswith(b"HTTP/1.1 403 ")
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    assert rig.stats.timeouts == {}


@pytest.mark.parametrize("cut", [1, 5, 6, 1000])
async def test_a_refusal_in_the_middle_of_a_record(rig: TlsRig, cut: int) -> None:
    """OpenSSL reads when it says close_notify; what is half here then must not trouble it."""
    await rig.serve()
    context = rig.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    client, tls, incoming, outgoing = await by_hand(rig, context)
    tls.write(b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 800000\r\n\r\n")
    first = outgoing.read()
    tls.write(b"x" * 4000)
    second = outgoing.read()
    client.send(first + second[:cut])
    incoming.write(await client.rest())
    assert tls.read(12) == b"HTTP/1.1 403"
    client.send(second[cut:])
    for _ in range(9):
        tls.write(b"x" * 4000)
        client.send(outgoing.read())
    await rig.becomes(lambda: rig.stats.bytes_received > 40000)
    client.close()
    await rig.becomes(lambda: rig.stats.connections_open == 0)


async def test_a_body_that_ends_early_is_a_bad_request(rig: TlsRig) -> None:
    await rig.serve()

    def upload() -> bytes:
        with rig.connect(rig.trusting()) as client:
            client.sock.sendall(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            client.close_notify()
            return client.all()

    assert (await off(upload)).startswith(b"HTTP/1.1 400 ")
    assert rig.stats.bad_requests == {"body ended early": 1}


async def test_a_cut_response_is_no_whole_one(rig: TlsRig) -> None:
    await rig.serve()

    def ask() -> bytes:
        with rig.connect(rig.trusting()) as client:
            client.sock.sendall(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
            return client.all()

    asking = asyncio.create_task(off(ask))
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    upstream.close()
    with pytest.raises(OSError):  # noqa: PT011  (a reset or an end without close_notify)
        await asking


async def test_a_client_that_does_not_read_holds_the_upstream_up(rig: TlsRig) -> None:
    await rig.serve()
    size = 64 * MIB
    go = threading.Event()

    def ask() -> int:
        with rig.connect(rig.trusting()) as client:
            client.sock.sendall(GET)
            assert go.wait(5)
            received = 0
            while received < size:
                data = client.sock.recv(MIB)
                assert data
                received += len(data)
            return received

    asking = asyncio.create_task(asyncio.to_thread(ask))
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    sending = asyncio.create_task(_send(upstream.writer, size))
    (connection,) = rig.proxy._connections
    await rig.becomes(lambda: connection._full)
    held = connection._transport.get_write_buffer_size()
    assert 0 < held < MIB
    assert not sending.done()
    go.set()
    assert await soon(asking) >= size
    await sending


async def _send(writer: asyncio.StreamWriter, size: int) -> None:
    for _ in range(size // MIB):
        writer.write(b"y" * MIB)
        await writer.drain()


async def test_a_client_that_never_reads_is_reset(rig: TlsRig) -> None:
    await rig.serve()
    client = await rig.client(GET, tls=rig.trusting())
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
    sending = asyncio.create_task(_send(upstream.writer, 64 * MIB))
    (connection,) = rig.proxy._connections
    await rig.becomes(lambda: connection._full)
    for _ in range(4):
        rig.pass_time(61)
        await asyncio.sleep(0)
    await rig.becomes(lambda: rig.stats.timeouts == {"send": 1})
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_broken_records_end_the_connection(
    rig: TlsRig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.serve()

    def garble() -> bytes:
        with rig.connect(rig.trusting()) as client:
            client.sock.sendall(GET.replace(b"/a", b"/no"))
            assert client.sock.recv(12) == b"HTTP/1.1 403"
            client.raw(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            return client.all()

    with pytest.raises(OSError):  # noqa: PT011  (an alert or a reset)
        await off(garble)
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    assert not caplog.records
