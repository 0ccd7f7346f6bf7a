"""Changed certificate and CA files: taken up, or the context before stays; no client notices."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sidecar.edge.certificates import ServerFiles
from sidecar.edge.rotation import Rotation
from tests.certificates import Authority, Pair

from .conftest import soon
from .test_tls import GET, TlsRig, off

NO = GET.replace(b"/a", b"/no")


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[TlsRig]:
    rig = TlsRig(tmp_path)
    yield rig
    await rig.stop()


async def looks(rotation: Rotation, times: int = 2) -> None:
    for _ in range(times):
        await rotation.check()


def shown(rig: TlsRig, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new client is shown."""
    with rig.connect(context) as client:
        certificate = client.sock.getpeercert()
        assert certificate
        return int(str(certificate["serialNumber"]), 16)


def answered(rig: TlsRig, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> bool:
    """Whether a request is answered; with the session of before, whether it was taken."""
    with rig.connect(context, session) as client:
        client.sock.sendall(NO)
        assert client.sock.recv(12) == b"HTTP/1.1 403"
        return bool(client.sock.session_reused)


# -- files of all kinds


def pair_files(folder: Path, pair: Pair) -> ServerFiles:
    return ServerFiles(*pair.write(folder, "server"))


async def test_a_change_is_taken_up_once_it_rests(tmp_path: Path) -> None:
    authority = Authority()
    rotation = Rotation("client", pair_files(tmp_path, authority.issue()))
    rotation.load()
    before = rotation.context, rotation.expiry
    await looks(rotation)
    assert rotation.context is before[0]
    authority.issue(days=60).write(tmp_path, "server")
    await looks(rotation, 1)
    assert (rotation.context, rotation.reloads) == (before[0], 0)
    await looks(rotation, 1)
    assert rotation.context is not before[0]
    assert rotation.expiry > before[1]
    await looks(rotation, 3)
    assert (rotation.reloads, rotation.failures) == (1, 0)


async def test_somebody_who_says_so_need_not_wait(tmp_path: Path) -> None:
    authority = Authority()
    rotation = Rotation("client", pair_files(tmp_path, authority.issue()))
    rotation.load()
    authority.issue().write(tmp_path, "server")
    await rotation.check(settled=True)
    assert rotation.reloads == 1


async def test_a_certificate_without_its_key_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    rotation = Rotation("client", pair_files(tmp_path, authority.issue()))
    rotation.load()
    before = rotation.context
    new = authority.issue()
    (tmp_path / "server.crt").write_bytes(new.certificate)
    await looks(rotation, 5)
    assert rotation.context is before
    assert (rotation.reloads, rotation.failures) == (0, 1)
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "server.key is not the key of" in errors[0]
    (tmp_path / "server.key").write_bytes(new.key)
    await looks(rotation)
    assert rotation.context is not before
    assert (rotation.reloads, rotation.failures) == (1, 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [("server.crt", b""), ("server.crt", b"no PEM"), ("server.key", b"x"), ("ca.pem", b"")],
)
async def test_what_cannot_be_used_leaves_what_was(
    tmp_path: Path, name: str, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    pair = authority.issue().write(tmp_path, "server")
    rotation = Rotation("client", ServerFiles(*pair, authority.write(tmp_path)))
    rotation.load()
    before, kept = rotation.context, (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(text)
    await looks(rotation, 3)
    (tmp_path / name).unlink()
    await looks(rotation, 3)
    assert rotation.context is before
    assert rotation.failures == 2
    assert all(name in each.getMessage() for each in caplog.records)
    (tmp_path / name).write_bytes(kept)
    await looks(rotation, 3)
    assert (rotation.context, rotation.reloads, rotation.failures) == (before, 0, 2)
    (tmp_path / name).write_bytes(text)  # the same mistake again is one more
    await looks(rotation, 3)
    assert rotation.failures == 3


async def test_what_is_still_being_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    rotation = Rotation("client", pair_files(tmp_path, authority.issue()))
    rotation.load()
    first, second = authority.issue(), authority.issue()
    first.write(tmp_path, "server")
    before, real = rotation.context, ServerFiles.context

    def slowly(files: ServerFiles) -> tuple[ssl.SSLContext, float]:
        found = real(files)
        monkeypatch.setattr(ServerFiles, "context", real)
        second.write(tmp_path, "server")
        return found

    monkeypatch.setattr(ServerFiles, "context", slowly)
    await looks(rotation)
    assert (rotation.context, rotation.failures) == (before, 0)
    first.write(tmp_path, "server")  # what was seen first comes back
    await looks(rotation)
    assert (rotation.reloads, rotation.failures) == (1, 0)


async def test_kubernetes_swaps_a_link(tmp_path: Path) -> None:
    authority = Authority()
    for version in ("one", "two"):
        authority.issue().write(tmp_path / version, "tls")
    data = tmp_path / "..data"
    data.symlink_to("one")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    rotation = Rotation("client", ServerFiles(tmp_path / "tls.crt", tmp_path / "tls.key"))
    rotation.load()
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", data)
    await looks(rotation)
    assert (rotation.reloads, rotation.failures) == (1, 0)


async def test_an_expired_certificate_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Rotation("client", pair_files(tmp_path, Authority().issue(since=-90))).load()
    assert "the certificate has expired" in caplog.text


# -- clients meanwhile


async def test_established_connections_stay_and_new_ones_see_the_new_certificate(
    rig: TlsRig,
) -> None:
    await rig.serve()
    context = rig.trusting()
    old = await rig.client(NO, tls=context)
    assert (await old.response())[0] == 403
    before = await off(lambda: shown(rig, context))
    rig.authority.issue().write(rig.folder, "server")
    await looks(rig.rotation)
    assert await off(lambda: shown(rig, context)) != before
    old.send(NO)
    assert (await old.response())[0] == 403


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["localhost", ""])
async def test_a_removed_ca_lets_nobody_in(rig: TlsRig, version: ssl.TLSVersion, name: str) -> None:
    """Neither with its certificates, nor by resuming a session of before, name or no name."""
    await rig.serve(mutual=True)
    context = rig.trusting(rig.callers)
    context.minimum_version = context.maximum_version = version
    if not name:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        rig.server_name = None

    def session() -> ssl.SSLSession | None:
        with rig.connect(context) as client:
            client.sock.sendall(NO)
            assert client.sock.recv(12) == b"HTTP/1.1 403"
            return client.sock.session

    kept = await off(session)
    established = await rig.client(NO, tls=context)
    assert (await established.response())[0] == 403
    others = Authority("others")
    others.write(rig.folder, "callers")
    await looks(rig.rotation)
    for resumed in (None, kept):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await off(lambda resumed=resumed: answered(rig, context, resumed))  # type: ignore[misc]
    await rig.becomes(lambda: rig.handshakes.failures == {"bad_certificate": 2})
    context.load_cert_chain(*others.issue().write(rig.folder, "other"))
    assert await off(lambda: answered(rig, context)) is False
    established.send(NO)
    assert (await established.response())[0] == 403


async def test_sessions_resume_where_no_client_is_verified(rig: TlsRig) -> None:
    await rig.serve()
    context = rig.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def session() -> ssl.SSLSession | None:
        with rig.connect(context) as client:
            return client.sock.session

    kept = await off(session)
    assert await off(lambda: answered(rig, context, kept)) is True
    rig.authority.issue().write(rig.folder, "server")
    await looks(rig.rotation)
    assert await off(lambda: answered(rig, context, kept)) is False


async def test_no_connection_fails_while_certificates_change(rig: TlsRig) -> None:
    await rig.serve()
    context = rig.trusting()
    stop = asyncio.Event()
    served = 0

    async def connect() -> None:
        nonlocal served
        while not stop.is_set():
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", rig.port, ssl=context, server_hostname="localhost"
            )
            writer.write(NO)
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 403")
            writer.transport.abort()
            served += 1

    flood = [asyncio.create_task(connect()) for _ in range(16)]
    for _ in range(10):
        at = served
        rig.authority.issue().write(rig.folder, "server")
        await looks(rig.rotation)
        await rig.becomes(lambda at=at: served > at + 16)  # type: ignore[misc]
    stop.set()
    await soon(asyncio.gather(*flood))
    assert rig.rotation.reloads == 10
    assert rig.handshakes.failures == {}
