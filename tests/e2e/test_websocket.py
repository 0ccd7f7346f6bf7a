"""WebSockets through `sidecar run` as a process, with clients and servers written by others."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from sidecar.demo.world import free_ports
from tests.autobahn.echo import SERVERS
from tests.casebook import jwks, token
from tests.e2e.processes import Running, Sidecar, until

MIB = 1024 * 1024
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {file: keys.jwks}, clockSkew: 0s}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {credentials: [{header: authorization}, {cookie: sid}]}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: open, match: {methods: [GET], paths: [/open]}, auth: none}
  - {name: feed, match: {methods: [GET], paths: ["/feed/**"]}, require: {scopes: [feed]}}
"""


@contextmanager
def echo(folder: Path, kind: str) -> Iterator[str]:
    [port] = free_ports(1)
    arguments = [sys.executable, "-m", "tests.autobahn.echo", kind, str(port)]
    running = Running(arguments, folder, f"echo-{kind}")

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, f"{kind}: {running.said}")
        yield f"http://127.0.0.1:{port}"
    finally:
        running.stop()


@pytest.fixture(params=sorted(SERVERS))
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sidecar]:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "keys.jwks").write_text(json.dumps(jwks()))
    (policies / "bank.yaml").write_text(DOCUMENTS)
    with echo(tmp_path, request.param) as upstream:
        started = Sidecar(tmp_path, upstream, "--policies", str(policies)).ready()
        yield started
        assert started.stop() == 0, started.said


def bearer(seconds: int = 300, scope: str = "feed") -> str:
    return token(time.time(), {"scope": scope, "exp": seconds})


def opened(running: Sidecar, path: str = "/feed/a", **more: Any) -> ClientConnection:
    headers = more.pop("additional_headers", {"Authorization": f"Bearer {bearer()}"})
    client: ClientConnection = connect(
        f"ws://127.0.0.1:{running.port}{path}",
        additional_headers=headers, max_size=None, proxy=None, **more,
    )  # fmt: skip
    return client


def closing(client: ClientConnection) -> tuple[int, str]:
    """What it is closed with."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=20)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_messages_of_every_size_come_back(running: Sidecar) -> None:
    with opened(running) as client:
        client.send("headers")
        headers = str(client.recv()).lower()
        assert "x-sidecar-subject" in headers
        for size in (0, 1, 125, 126, 65535, 65536, 8 * MIB):
            message = os.urandom(size)
            client.send(message)
            assert client.recv() == message
        client.send([b"in ", b"pieces"])
        assert client.recv() == b"in pieces"
        assert client.ping().wait(10)
    until(lambda: running.metric("sidecar_tunnels_open") == 0, "the end")
    assert running.metric("sidecar_tunnels_total") == 1
    until(lambda: '"status":101' in running.decisions.read_text(), "the record")


def test_who_may_not_gets_an_ordinary_answer(running: Sidecar) -> None:
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {bearer(scope='other')}"}, 403),
        ({"Cookie": f"sid={bearer()}"}, 403),  # from nowhere
        ({"Cookie": f"sid={bearer()}", "Origin": "https://evil.example"}, 403),
    ):
        with pytest.raises(InvalidStatus) as refused, opened(running, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status
    mine = {"Cookie": f"sid={bearer()}", "Origin": f"http://127.0.0.1:{running.port}"}
    with opened(running, additional_headers=mine) as client:
        client.send("hello")
        assert client.recv() == "hello"


def test_a_token_that_expires_ends_it(running: Sidecar) -> None:
    headers = {"Authorization": f"Bearer {bearer(3)}"}
    with opened(running, additional_headers=headers) as client, opened(running) as other:
        client.send("hello")
        assert client.recv() == "hello"
        assert closing(client) == (1008, "token expired")
        other.send("still here")
        assert other.recv() == "still here"
    assert running.metric('sidecar_tunnels_cut_total{reason="expired"}') == 1


def test_a_policy_that_no_longer_permits_ends_it_amid_traffic(running: Sidecar) -> None:
    policy = running.decisions.parent / "policies" / "bank.yaml"
    with opened(running) as client, opened(running, "/open") as other:
        done = threading.Event()

        def flood() -> None:
            block = os.urandom(MIB)
            try:
                while not done.is_set():
                    client.send(block)
                    client.recv(timeout=20)
            except ConnectionClosed:
                pass
            finally:
                done.set()

        flooding = threading.Thread(target=flood)
        flooding.start()
        policy.write_text(DOCUMENTS.replace("scopes: [feed]", "scopes: [premium]"))
        assert done.wait(20)
        flooding.join()
        assert closing(client) == (1008, "no longer permitted")
        other.send("still here")
        assert other.recv() == "still here"
    assert running.metric('sidecar_tunnels_cut_total{reason="policy"}') == 1
    assert running.metric('sidecar_timeouts_total{kind="send"}') == 0


def test_a_stop_says_going_away(running: Sidecar) -> None:
    with opened(running) as client:
        client.send("hello")
        assert client.recv() == "hello"
        began = time.monotonic()
        running.process.terminate()
        assert closing(client) == (1001, "going away")
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began < 10
