"""`sidecar revoke` as a process against sidecars as processes: refused, cut, and still refused in
the dark; with one process and with workers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.casebook import ISSUER, token
from tests.e2e.processes import Sidecar, get, sidecar, until
from tests.e2e.test_control import ControlPlane, control, policies  # noqa: F401  (a fixture)
from tests.e2e.test_websocket import echo

RULES = """
  - {name: rest, match: {paths: ["/**"]}}
"""


def bearer(**claims: object) -> str:
    return token(time.time(), {"exp": 600, "iat": -5, **claims})


@contextmanager
def endless() -> Iterator[str]:
    """An upstream that begins to answer and never ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                kept.append(peer)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for peer in kept:
        peer.close()


@pytest.fixture(params=[1, 2], ids=["one process", "workers"])
def started(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
) -> Iterator[Sidecar]:
    with endless() as upstream:
        running = _sidecar(tmp_path, upstream, control, request.param)
        code, said = control.apply(policies(tmp_path, RULES), "--wait")
        assert code == 0, said
        running.ready()
        yield running
        assert running.stop() == 0, running.said


def _sidecar(folder: Path, upstream: str, plane: ControlPlane, workers: int = 1) -> Sidecar:
    return Sidecar(
        folder, upstream, "--control-plane", plane.server, "--state", str(folder / "state"),
        "--workers", str(workers),
    )  # fmt: skip


def begun(running: Sidecar, credential: str) -> socket.socket:
    """A client that has the beginning of an endless response."""
    client = socket.create_connection(("127.0.0.1", running.port), 30)
    client.sendall(
        f"GET /x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {credential}\r\n\r\n".encode()
    )
    seen = b""
    while b"first" not in seen:
        more = client.recv(65536)
        assert more, seen
        seen += more
    return client


def rest(stream: socket.socket) -> bytes:
    found = b""
    while more := stream.recv(65536):
        found += more
    return found


def refused(running: Sidecar, credential: str) -> bool:
    """Whether a new request with it is; of those that are not, nobody waits for the end."""
    with socket.create_connection(("127.0.0.1", running.port), 30) as client:
        client.sendall(
            f"GET /x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {credential}\r\n\r\n".encode()
        )
        return client.recv(65536).startswith(b"HTTP/1.1 401 ")


def revoke(plane: ControlPlane, *argv: str) -> str:
    done = sidecar("revoke", "--server", plane.server, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_open_is_cut_and_what_comes_is_refused(
    started: Sidecar,
    control: ControlPlane,  # noqa: F811
) -> None:
    alice, bob = bearer(sub="alice"), bearer(sub="bob", jti="b1")
    streams = [begun(started, alice) for _ in range(4)]  # at several workers, where there are some
    bobs = begun(started, bob)
    assert "refused on 1 of 1 sidecars" in revoke(control, "--issuer", ISSUER, "--subject", "alice")
    assert refused(started, alice)
    for stream in streams:
        with pytest.raises(ConnectionResetError):  # nobody takes it for whole
            rest(stream)
        stream.close()
    assert not refused(started, bob)
    assert not refused(started, token(time.time() + 2, {"exp": 600, "sub": "alice"}))
    assert started.metric("sidecar_withdrawn_total") == 4
    bobs.settimeout(0.0)
    with pytest.raises(BlockingIOError):
        bobs.recv(1)
    bobs.close()


def test_it_holds_through_restarts_without_a_control_plane(
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
) -> None:
    credential, other = bearer(jti="t1"), bearer(jti="t2")
    (tmp_path / "token").write_text(credential)
    with endless() as upstream:
        running = _sidecar(tmp_path, upstream, control)
        assert control.apply(policies(tmp_path, RULES), "--wait")[0] == 0
        running.ready()
        assert not refused(running, credential)
        revoke(control, "--token", str(tmp_path / "token"))
        assert refused(running, credential)
        control.kill()
        assert running.stop() == 0
        running = _sidecar(tmp_path, upstream, control, 2).ready()
        assert refused(running, credential)
        assert not refused(running, other)
        assert running.metric("sidecar_revocations") == 1
        page = json.loads(get(f"{running.admin}/snapshot")[2])
        assert page["revocations"]["held"] == 1
        assert page["revocations"]["age_seconds"] > 0
        control.start()
        until(lambda: running.metric("sidecar_control_plane_connected") == 1, "back")
        revoke(control, "--issuer", ISSUER, "--jti", "t2")
        assert refused(running, other)
        assert running.stop() == 0


def test_a_websocket_of_theirs_is_told_and_ended(
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
) -> None:
    with echo(tmp_path, "websockets") as upstream:
        running = _sidecar(tmp_path, upstream, control)
        assert control.apply(policies(tmp_path, RULES), "--wait")[0] == 0
        running.ready()
        headers = {"authorization": f"Bearer {bearer(sid='s1')}"}
        with connect(
            f"ws://127.0.0.1:{running.port}/feed", additional_headers=headers, proxy=None
        ) as client:
            client.send("hello")
            assert client.recv(timeout=30) == "hello"
            revoke(control, "--issuer", ISSUER, "--session", "s1")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=30)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
                1008, "credential withdrawn",
            )  # fmt: skip
        assert running.metric('sidecar_tunnels_cut_total{reason="revoked"}') == 1
        assert running.stop() == 0
