"""Ways to the upstream: TLS with all that can be wrong with it, and Unix sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sidecar.edge.address import Address, tls_connect
from sidecar.edge.certificates import ClientFiles
from sidecar.edge.rotation import Rotation
from tests.certificates import Authority

from .conftest import Peer, Rig, soon

GET = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1024 * 1024


class TlsUpstreamRig(Rig):
    """A rig whose upstream speaks TLS."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.authority = Authority()
        self.ours = Authority("of sidecars")
        self.rotation: Rotation

    async def serve(
        self,
        *hosts: str,
        mutual: bool = False,
        show: bool = False,
        name: str = "",
        verify: bool = True,
        **limits: Any,
    ) -> None:
        """`hosts` are in the upstream's certificate; `show` a certificate when it asks."""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*self.authority.issue("up", *hosts).write(self.folder, "upstream"))
        if mutual:
            server.verify_mode = ssl.CERT_REQUIRED
            server.load_verify_locations(cadata=self.ours.pem.decode())
        await self.upstream.start(tls=server)
        ca = self.authority.write(self.folder) if verify else None
        own = self.ours.issue("sidecar").write(self.folder, "own")
        certificate, key = own if show else (None, None)
        self.rotation = Rotation("upstream", ClientFiles(ca, certificate, key, verify))
        self.rotation.load()
        address = Address("127.0.0.1", self.upstream.port, tls=True)
        await self.start(
            connect=tls_connect(address, lambda: self.rotation.context, name), **limits
        )
        self.rotation.changed = self.pool.renew

    async def refused(self) -> dict[str, Any]:
        """What a request is answered that gets no upstream."""
        client = await self.client(GET)
        status, body = await client.response()
        assert status == 502
        found: dict[str, Any] = json.loads(body)
        return found


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[TlsUpstreamRig]:
    rig = TlsUpstreamRig(tmp_path)
    yield rig
    await rig.stop()


async def served(rig: Rig, client: Peer | None = None) -> tuple[Peer, Peer]:
    """A client and an upstream connection that have one good exchange behind them."""
    client = client or await rig.client()
    client.send(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    return client, upstream


# -- TLS


@pytest.mark.parametrize("mutual", [False, True])
async def test_a_trusted_upstream(rig: TlsUpstreamRig, mutual: bool) -> None:
    await rig.serve(mutual=mutual, show=mutual)
    client, upstream = await served(rig)
    seen = upstream.writer.get_extra_info("peercert")
    assert bool(seen) is mutual
    for method in (b"GET", b"POST"):  # a POST asks whether the connection is quiet
        client.send(GET.replace(b"GET", method))
        await upstream.head()
        upstream.send(OK)
        assert await client.response() == (200, b"ok")
    assert (rig.stats.upstream_created, rig.stats.upstream_reused) == (1, 2)


async def test_a_name_of_its_own(rig: TlsUpstreamRig) -> None:
    await rig.serve("payments.internal", name="payments.internal")
    await served(rig)


@pytest.mark.parametrize(
    ("hosts", "name"), [(("other.internal",), ""), (("127.0.0.1",), "payments.internal")]
)
async def test_another_name_is_no_upstream(
    rig: TlsUpstreamRig, hosts: tuple[str], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.serve(*hosts, name=name)
    assert "trusted connection" in (await rig.refused())["detail"]
    await rig.refused()
    assert rig.stats.upstream_errors == {"tls": 2}
    said = [each.getMessage() for each in caplog.records if each.name == "sidecar.upstream"]
    assert len(said) == 1
    assert "certificate is not valid for" in said[0] or "Hostname mismatch" in said[0]


async def test_an_unknown_ca(rig: TlsUpstreamRig) -> None:
    await rig.serve()
    Authority("another").write(rig.folder)
    await rig.rotation.check(settled=True)
    await rig.refused()
    assert rig.stats.upstream_errors == {"tls": 1}


async def test_without_verifying_anybody_will_do(rig: TlsUpstreamRig) -> None:
    await rig.serve("somebody.else", verify=False)
    await served(rig)


async def test_an_upstream_that_does_not_want_us(rig: TlsUpstreamRig) -> None:
    """Under TLS 1.3 a client learns only after its own handshake that its certificate is bad."""
    await rig.serve()
    await rig.upstream.stop()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(rig.folder / "upstream.crt", rig.folder / "upstream.key")
    server.verify_mode = ssl.CERT_REQUIRED

    def refuse() -> None:  # with an alert, which asyncio's servers do not send
        raw, _ = listening.accept()
        with server.wrap_socket(raw, True, do_handshake_on_connect=False) as tls:
            with pytest.raises(ssl.SSLError):
                tls.do_handshake()
            while socket.socket.recv(tls, 65536):  # unread, it would become a reset
                pass

    with socket.create_server(("127.0.0.1", rig.upstream.port)) as listening:
        listening.settimeout(5)
        refusing = asyncio.create_task(asyncio.to_thread(refuse))
        await rig.refused()
        await soon(refusing)
    assert rig.stats.upstream_errors == {"tls": 1}
    assert rig.stats.retries == 0


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_an_upstream_without_tls(rig: TlsUpstreamRig, answer: bytes) -> None:
    await rig.serve()
    await rig.upstream.stop()
    await rig.upstream.start(rig.upstream.port)
    refused = asyncio.create_task(rig.refused())
    upstream = await rig.upstream.accept()
    upstream.send(answer)
    upstream.close()
    await soon(refused)
    assert rig.stats.upstream_errors == {"tls": 1}


async def test_an_upstream_that_stalls_in_the_handshake(rig: TlsUpstreamRig) -> None:
    await rig.serve()
    await rig.upstream.stop()
    await rig.upstream.start(rig.upstream.port)
    client = await rig.client(GET)
    await rig.upstream.accept()
    rig.pass_time(6)
    assert (await client.response())[0] == 504
    assert rig.stats.upstream_errors == {"connect_timeout": 1}
    await rig.becomes(lambda: rig.stats.upstream_open == 0)


async def test_changed_files_are_for_new_connections(rig: TlsUpstreamRig) -> None:
    await rig.serve(mutual=True, show=True)
    idle, _ = await served(rig)
    busy = await rig.client()
    idle.send(GET)
    first = await rig.client(GET)  # the idle one is taken, so this needs another
    upstreams = rig.upstream.peers
    await rig.becomes(lambda: rig.stats.upstream_created == 2)
    await upstreams[0].head()
    rig.ours.issue("renewed").write(rig.folder, "own")
    await rig.rotation.check(settled=True)
    upstreams[0].send(OK)  # a busy one finishes
    assert await idle.response() == (200, b"ok")
    second = await rig.upstream.accept()
    await second.head()
    second.send(OK)
    assert await first.response() == (200, b"ok")
    await rig.becomes(lambda: rig.stats.upstream_open == 0)
    _, third = await served(rig, busy)
    subject = dict(part[0] for part in third.writer.get_extra_info("peercert")["subject"])
    assert subject["commonName"] == "renewed"
    idle.send(GET)
    await third.head()
    third.send(OK)
    assert await idle.response() == (200, b"ok")
    await rig.rotation.check(settled=True)  # nothing changed
    assert (rig.stats.upstream_open, rig.stats.upstream_idle) == (1, 1)


# -- where a response ends


CLOSE = b"HTTP/1.1 200 OK\r\n\r\nsome of it"


async def test_an_end_with_close_notify_is_an_end(rig: TlsUpstreamRig) -> None:
    await rig.serve()
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(CLOSE)
    upstream.close()
    assert (await client.until(b"0\r\n\r\n")).endswith(b"a\r\nsome of it\r\n0\r\n\r\n")


async def test_an_end_without_close_notify_is_a_loss(rig: TlsUpstreamRig) -> None:
    await rig.serve()
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(CLOSE)
    await client.until(b"some of it\r\n")
    upstream.writer.transport.abort()
    with pytest.raises(ConnectionError):
        await client.rest()
    assert rig.stats.upstream_errors == {"closed": 1}


async def test_a_slow_client_gets_all_of_what_ended_long_ago(rig: TlsUpstreamRig) -> None:
    """Nothing is lost that was held while reading paused and the upstream has gone."""
    await rig.serve()
    size = 8 * MIB
    client = await rig.client(GET, buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"z" * size)
    upstream.close()
    (connection,) = rig.proxy._connections
    await rig.becomes(lambda: connection._full)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    received = 0
    while line := await client.until(b"\r\n"):
        if line == b"0\r\n":
            break
        if line[:1] in b"0123456789abcdef" and b":" not in line:
            length = int(line, 16)
            await client.exactly(length + 2)
            received += length
    assert received == size


async def test_uploads_wait_for_an_upstream_that_does_not_read(rig: TlsUpstreamRig) -> None:
    await rig.serve()
    client = await rig.client(
        b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB)
    )
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def send() -> None:
        for _ in range(64):
            client.send(b"x" * MIB)
            await client.writer.drain()

    sending = asyncio.create_task(send())
    (connection,) = rig.proxy._connections
    await rig.becomes(lambda: connection._throttled)
    assert not sending.done()
    upstream.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await upstream.exactly(64 * MIB)
    await sending
    upstream.send(OK)
    assert await client.response() == (200, b"ok")


# -- Unix sockets


async def test_a_unix_socket(rig: TlsUpstreamRig) -> None:
    path = rig.folder / "app.sock"
    address = Address.parse(f"unix://{path}")
    rig.upstream.port = 1  # none of its own
    await rig.start(connect=address.connect)
    rig.pool.default_host = address.authority
    client = await rig.client(b"GET /a HTTP/1.0\r\n\r\n")
    assert (await client.response())[0] == 502
    server = await asyncio.start_unix_server(rig.upstream._accept, path)
    rig.upstream.server = server
    client = await rig.client(b"GET /a HTTP/1.0\r\n\r\n")
    upstream = await rig.upstream.accept()
    assert b"\r\nhost: localhost\r\n" in await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    client, upstream2 = await rig.client(GET.replace(b"GET", b"POST")), upstream
    await upstream2.head()
    upstream2.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.stats.upstream_created == 1


def test_the_whole_name_of_a_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "a b%20.sock"))
    assert Path(Address.parse(f"unix://{tmp_path}/a b%20.sock").path).exists()
