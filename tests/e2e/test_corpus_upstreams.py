"""Every raw request stream, through the real process, to a real nginx that tells what it saw.

nginx writes down each request line it read with Host and body, those it refused included: what the
corpus refuses must leave no trace there, and the rest exactly the requests that were decided.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.demo.world import free_ports
from tests.e2e.processes import Sidecar, get, nginx, until
from tests.edge.raw_requests import RAW, Outcome

EVERYTHING: Final = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec: {rules: [{name: all, auth: none}]}
"""
# The first server reads every body into memory and logs it, as proxies do; the second answers.
SERVERS: Final = """
log_format seen escape=json
  '{"line":"$request","host":"$http_host","body":"$request_body","status":$status}';
server {
  listen 127.0.0.1:%(port)d;
  access_log %(log)s seen;
  keepalive_requests 100000;
  large_client_header_buffers 8 32k;
  client_body_buffer_size 1m;
  location / { proxy_pass http://127.0.0.1:%(rear)d; }
}
server {
  listen 127.0.0.1:%(rear)d;
  access_log off;
  location / { return 200 ok; }
}
"""
# Sound requests that this nginx answers with 400 as soon as it has read their first line.
NOT_FOR_NGINX: Final = {"OPTIONS * a.example ": "OPTIONS *  "}


@dataclass
class Behind:
    """A sidecar, and the nginx behind it with its log."""

    sidecar: Sidecar
    port: int
    log: Path
    read: int = 0  # bytes of the log
    marks: int = 0

    def seen(self) -> list[dict[str, Any]]:
        """What nginx saw since the last time: what stands in its log before a request of ours."""
        self.marks += 1
        mark = f"GET /mark/{self.marks} HTTP/1.1"
        assert get(f"http://127.0.0.1:{self.port}/mark/{self.marks}")[0] == 200

        def logged() -> list[dict[str, Any]]:
            with self.log.open("rb") as log:
                log.seek(self.read)
                whole, end, _ = log.read().rpartition(b"\n")
            found = [json.loads(line) for line in whole.splitlines()]
            if not found or found[-1]["line"] != mark:
                return []
            self.read += len(whole + end)
            return found

        found: list[dict[str, Any]] = until(logged, "nginx's log")
        return found[:-1]

    def raw(self, stream: bytes) -> bytes:
        """All that comes back for a stream, after which the client sends no more."""
        with socket.create_connection(("127.0.0.1", self.sidecar.port), timeout=10) as client:
            found = b""
            try:
                client.sendall(stream)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before it was whole
            try:
                while piece := client.recv(65536):
                    found += piece
            except ConnectionResetError:
                pass
            return found


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("corpus")
    port, rear = free_ports(2)
    log = folder / "seen.log"
    more = SERVERS % {"port": port, "rear": rear, "log": log}
    policies = folder / "policies.yaml"
    policies.write_text(EVERYTHING)
    with nginx(folder, more=more):
        sidecar = Sidecar(folder, f"http://127.0.0.1:{port}", "--policies", str(policies)).ready()
        started = Behind(sidecar, port, log)
        assert started.seen() == []
        yield started
        assert started.seen() == [], "nothing came late"
        assert sidecar.stop() == 0, sidecar.said


def understood(each: dict[str, Any]) -> tuple[str, int]:
    """A request that nginx logged, in the words of the corpus, and how nginx answered it."""
    line = each["line"].removesuffix(" HTTP/1.1")
    return f"{line} {each['host']} {each['body']}", each["status"]


def listed(part: str, port: int) -> tuple[str, int]:
    """What nginx should have understood of a request that the corpus lists."""
    if part in NOT_FOR_NGINX:
        return NOT_FOR_NGINX[part], 400
    return part.replace(" upstream ", f" 127.0.0.1:{port} ", 1), 200


@pytest.mark.parametrize(("raw", "outcome"), [pytest.param(r, o, id=n) for n, r, o in RAW])
def test_nginx_sees_what_was_decided_and_nothing_else(
    behind: Behind, raw: bytes, outcome: Outcome
) -> None:
    expected = [listed(part, behind.port) for part in outcome if isinstance(part, str)]
    answered = behind.raw(raw)
    assert [understood(each) for each in behind.seen()] == expected
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d)", answered)]
    wanted = [status for _, status in expected]
    wanted += [part for part in outcome if isinstance(part, int)]
    # A stream cut short is refused as such once its end is known.
    assert statuses in (wanted, [*wanted, 400])


def test_what_nginx_refuses_is_in_the_corpus() -> None:
    assert set(NOT_FOR_NGINX) <= {part for _, _, outcome in RAW for part in outcome}
