"""Real upstreams behind the real process: what Node and aiohttp saw is what was decided.

Every raw stream of the corpus is sent to `sidecar run`; the upstream, a server written by others,
then tells what requests it understood.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.world import free_ports
from tests.e2e.processes import Running, Sidecar, get, program, until
from tests.edge.raw_requests import RAW, Outcome

HERE = Path(__file__).parent / "upstreams"
EVERYTHING = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec: {rules: [{name: all, auth: none}]}
"""


class Behind:
    """A sidecar and the upstream behind it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port, self.control = free_ports(2)
        command = (
            [program("node"), str(HERE / "node.mjs")]
            if kind == "node"
            else [sys.executable, str(HERE / "aiohttp_server.py")]
        )
        self.upstream = Running([*command, str(self.port), str(self.control)], folder, kind)
        until(lambda: get(f"http://127.0.0.1:{self.control}/")[0] == 200, self.upstream.said)
        until(lambda: get(f"http://127.0.0.1:{self.port}/")[0] == 200, self.upstream.said)
        policies = folder / "policies.yaml"
        policies.write_text(EVERYTHING)
        self.sidecar = Sidecar(
            folder, f"http://127.0.0.1:{self.port}", "--policies", str(policies)
        ).ready()

    def seen(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(get(f"http://127.0.0.1:{self.control}/")[2])
        return found

    def raw(self, stream: bytes) -> bytes:
        """All that comes back for a stream, after which the client sends no more."""
        with socket.create_connection(("127.0.0.1", self.sidecar.port), timeout=10) as client:
            try:
                client.sendall(stream)
                client.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError, OSError):
                pass  # refused before it was whole
            found = b""
            while True:
                try:
                    piece = client.recv(65536)
                except ConnectionResetError:
                    return found
                if not piece:
                    return found
                found += piece

    def stop(self) -> None:
        assert self.sidecar.stop() == 0, self.sidecar.said
        self.upstream.stop()


@pytest.fixture(scope="module", params=["node", "aiohttp"])
def behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    started = Behind(request.param, tmp_path_factory.mktemp(request.param))
    yield started
    started.stop()


def listed(outcome: Outcome, behind: Behind) -> list[str]:
    """The requests of an outcome as the upstream should have understood them."""
    return [
        part.replace(" upstream ", f" 127.0.0.1:{behind.port} ", 1)
        for part in outcome
        if isinstance(part, str)
    ]


@pytest.mark.parametrize(("raw", "outcome"), [pytest.param(r, o, id=n) for n, r, o in RAW])
def test_the_upstream_understands_what_was_decided(
    behind: Behind, request: pytest.FixtureRequest, raw: bytes, outcome: Outcome
) -> None:
    expected = listed(outcome, behind)
    behind.seen()
    answered = behind.raw(raw)
    found = [each["line"] for each in behind.seen()]
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d)", answered)]
    refused = [part for part in outcome if isinstance(part, int)]
    if found != expected:
        # An upstream may understand less than HTTP allows; never more, nor anything else.
        assert found == [line for line in expected if line in found], (found, expected)
        assert 400 in statuses or 404 in statuses or 501 in statuses
    for status in refused:
        assert status in statuses


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    started = Behind("node", tmp_path_factory.mktemp("only-node"))
    yield started
    started.stop()


def ask(target: bytes, *lines: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return method + b" " + target + b" HTTP/1.1\r\nHost: a.example\r\n" + head + b"\r\n" + body


def test_early_hints_reach_the_client(node: Behind) -> None:
    answered = node.raw(ask(b"/early"))
    assert answered.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"link: </a.css>; rel=preload\r\n" in answered.lower()
    assert b"HTTP/1.1 200 OK\r\n" in answered


def test_expect_100_continue(node: Behind) -> None:
    answered = node.raw(
        ask(b"/x", b"Expect: 100-continue", b"Content-Length: 2", method=b"PUT", body=b"hi")
    )
    assert answered.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert node.seen()[-1]["line"] == "PUT /x a.example hi"


def test_trailers_both_ways(node: Behind) -> None:
    answered = node.raw(ask(b"/late", b"TE: trailers", b"Connection: TE"))
    assert answered.endswith(b"\r\n0\r\nx-sum: 7\r\n\r\n")
    assert node.raw(ask(b"/late")).endswith(b"\r\n0\r\n\r\n")
    node.seen()
    body = b"2\r\nhi\r\n0\r\nX-Sum: 7\r\nX-Sidecar-Subject: eve\r\nCookie: a=b\r\n\r\n"
    node.raw(ask(b"/x", b"Transfer-Encoding: chunked", method=b"POST", body=body))
    [seen] = node.seen()
    assert seen["trailers"] == {"x-sum": "7"}
    assert not {"x-sum", "x-sidecar-subject", "cookie"} & set(seen["headers"])


def test_events_come_when_they_are_sent(node: Behind) -> None:
    with socket.create_connection(("127.0.0.1", node.sidecar.port), timeout=10) as client:
        client.sendall(ask(b"/events"))
        found = b""
        while b"data: one" not in found:
            found += client.recv(65536)
        assert b"data: two" not in found
        node.seen()  # lets the second event go
        while not found.endswith(b"0\r\n\r\n"):
            found += client.recv(65536)
        assert b"data: two" in found


def test_no_content(node: Behind) -> None:
    answered = node.raw(ask(b"/nothing"))
    assert answered.startswith(b"HTTP/1.1 204 ")
    assert b"content-length" not in answered.lower()
    assert b"transfer-encoding" not in answered.lower()
