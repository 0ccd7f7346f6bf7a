"""`sidecar run --policies` as a process, in front of servers written by others."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.demo.world import free_ports
from tests.casebook import jwks, token
from tests.e2e.processes import Running, Sidecar, get, nginx, program, sidecar, until

MIB = 1024 * 1024
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {file: keys.jwks}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: home, match: {methods: [GET], paths: [/, /index.html]}, auth: none}
  - {name: files, match: {paths: ["/files/**"]}, require: {scopes: [files]}}
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(tmp_path_factory.mktemp("upstream")) as address:
        yield address


def write_policies(folder: Path, documents: str = DOCUMENTS) -> Path:
    policies = folder / "policies"
    policies.mkdir(exist_ok=True)
    (policies / "keys.jwks").write_text(json.dumps(jwks()))
    (policies / "bank.yaml").write_text(documents)
    return policies


@pytest.fixture(scope="module")
def running(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("run")
    started = Sidecar(folder, upstream, "--policies", str(write_policies(folder))).ready()
    yield started
    assert started.stop() == 0, started.said


def bearer(scope: str = "files") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(time.time(), {'scope': scope})}"}


def test_curl(running: Sidecar) -> None:
    curl = program("curl")
    found = subprocess.run(
        [curl, "-sS", "-i", f"{running.url}/"], capture_output=True, text=True, check=True
    ).stdout
    assert found.startswith("HTTP/1.1 200")
    assert found.endswith("hello from nginx\n")
    refused = subprocess.run(
        [curl, "-sS", "-i", f"{running.url}/files/x"], capture_output=True, text=True, check=True
    ).stdout.lower()
    assert refused.startswith("http/1.1 401")
    assert 'www-authenticate: bearer realm="sidecar", scope="files"' in refused
    head = subprocess.run(
        [curl, "-sS", "-I", f"{running.url}/"], capture_output=True, text=True, check=True
    ).stdout
    assert "Content-Length: 17" in head or "content-length: 17" in head


def test_wrk(running: Sidecar) -> None:
    header = f"Authorization: {bearer()['Authorization']}"
    assert put(running, "/files/small", b"x" * 100)[0] in (201, 204)
    done = subprocess.run(
        [program("wrk"), "-t1", "-c32", "-d2s", "-H", header, f"{running.url}/files/small"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "requests in" in done.stdout
    assert "Non-2xx" not in done.stdout, done.stdout
    assert "Socket errors" not in done.stdout, done.stdout


def put(running: Sidecar, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    try:
        connection.request("PUT", path, body, bearer())
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024])
def test_small_bodies_arrive_intact_both_ways(running: Sidecar, size: int) -> None:
    body = os.urandom(size)
    assert put(running, f"/files/body-{size}", body)[0] in (201, 204)
    status, headers, found = get(f"{running.url}/files/body-{size}", bearer())
    assert (status, found) == (200, body)
    assert headers["content-length"] == str(size)


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_gibibyte_each_way_in_constant_memory(running: Sidecar, framing: str) -> None:
    block = os.urandom(MIB)
    count = 1024
    sent = hashlib.sha256()
    before = peak = running.resident()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.putrequest("PUT", f"/files/{framing}")
    connection.putheader("Authorization", bearer()["Authorization"])
    if framing == "chunked":
        connection.putheader("Transfer-Encoding", "chunked")
    else:
        connection.putheader("Content-Length", str(count * MIB))
    connection.endheaders()
    for place in range(count):
        sent.update(block)
        if framing == "chunked":
            connection.send(b"%x\r\n" % MIB + block + b"\r\n")
        else:
            connection.send(block)
        if place % 64 == 0:
            peak = max(peak, running.resident())
    if framing == "chunked":
        connection.send(b"0\r\n\r\n")
    answer = connection.getresponse()
    assert answer.status in (201, 204)
    answer.read()
    received = hashlib.sha256()
    connection.request("GET", f"/files/{framing}", headers=bearer())
    answer = connection.getresponse()
    assert answer.status == 200
    while piece := answer.read(MIB):
        received.update(piece)
        peak = max(peak, running.resident())
    connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("DELETE", f"/files/{framing}", headers=bearer())
    assert connection.getresponse().status == 204
    connection.close()
    assert received.digest() == sent.digest()
    assert peak - before < 32 * MIB, f"grew by {(peak - before) / MIB:.1f} MiB"


def test_a_slow_reader_holds_the_upstream_back(running: Sidecar) -> None:
    assert put(running, "/files/large", bytes(64 * MIB))[0] in (201, 204)
    before = running.resident()
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        head = f"GET /files/large HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(1) == b"H"
        # Other requests are served meanwhile; by then the response has stalled.
        for _ in range(50):
            assert get(f"{running.url}/")[0] == 200
        assert running.resident() - before < 8 * MIB


def test_what_is_refused_never_reaches_the_upstream(running: Sidecar, upstream: str) -> None:
    before = running.metric("sidecar_upstream_connections_created_total") + running.metric(
        "sidecar_upstream_connections_reused_total"
    )
    assert get(f"{running.url}/files/x")[0] == 401
    assert get(f"{running.url}/files/x", bearer("other"))[0] == 403
    assert get(f"{running.url}/files/x", {"Authorization": "Bearer junk"})[0] == 401
    after = running.metric("sidecar_upstream_connections_created_total") + running.metric(
        "sidecar_upstream_connections_reused_total"
    )
    assert after == before


def test_metrics_log_and_inspection(running: Sidecar) -> None:
    secret = bearer()
    assert get(f"{running.url}/files/none?access_token=SECRET", secret)[0] == 404
    problem = get(f"{running.url}/files/none", bearer("other"))
    decision = problem[1]["x-sidecar-decision"]
    assert json.loads(problem[2])["decision_id"] == decision
    record = until(
        lambda: next((r for r in records(running) if r["decision_id"] == decision), None), "logged"
    )
    assert record["outcome"] == "refuse"
    assert record["reason"] == "scope_missing"
    assert record["rule"] == "default/p/files"
    assert record["status"] == 403
    assert record["subject"] == "alice"
    text = running.decisions.read_text()
    assert "SECRET" not in text
    assert secret["Authorization"].split(".")[1] not in text
    assert running.metric('sidecar_requests_total{door="proxy",outcome="permit",status="4xx"}') >= 1
    assert running.metric('sidecar_decisions_total{outcome="refuse",reason="scope_missing"}') >= 1
    assert running.metric("sidecar_snapshot_ready") == 1
    assert running.metric("sidecar_decision_duration_seconds_count") > 0
    assert running.metric("sidecar_decision_log_dropped_total") == 0
    for path in ("/healthz", "/readyz", "/metrics"):
        assert get(running.health + path)[0] == get(running.admin + path)[0] == 200
    assert get(f"{running.health}/snapshot")[0] == 404
    snapshot = json.loads(get(f"{running.admin}/snapshot")[2])
    assert snapshot["snapshot"]["rules"] == 2
    assert json.loads(get(f"{running.admin}/config")[2])["namespace"] == "default"
    assert json.loads(get(f"{running.admin}/decisions")[2])["decisions"]


def records(running: Sidecar) -> list[dict[str, object]]:
    return [json.loads(line) for line in running.decisions.read_text().splitlines()]


def test_python_http_server(tmp_path: Path) -> None:
    [port] = free_ports(1)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("hello from python")
    server = Running(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory",
         str(tmp_path / "site")], tmp_path, "server",
    )  # fmt: skip
    running = Sidecar(
        tmp_path, f"http://127.0.0.1:{port}", "--policies", str(write_policies(tmp_path))
    )
    try:
        running.ready()
        until(lambda: get(f"{running.url}/")[0] == 200, "http.server behind the sidecar")
        for _ in range(20):
            assert get(f"{running.url}/")[2] == b"hello from python"
        server.stop()
        status, _, body = get(f"{running.url}/")
        assert status == 502
        assert json.loads(body)["status"] == 502
    finally:
        server.stop()
        assert running.stop() == 0


def test_reload_and_a_broken_file(upstream: str, tmp_path: Path) -> None:
    policies = write_policies(tmp_path)
    running = Sidecar(tmp_path, upstream, "--policies", str(policies)).ready()
    try:
        assert get(f"{running.url}/files/x")[0] == 401
        (policies / "bank.yaml").write_text(DOCUMENTS + "  - {name: open, auth: none}\n")
        began = time.monotonic()
        until(lambda: get(f"{running.url}/other")[0] == 404, "the new rule is enforced", 5)
        assert time.monotonic() - began < 5
        (policies / "bank.yaml").write_text(DOCUMENTS + "  - {name: broken, when: tokn.x}\n")
        until(lambda: running.metric("sidecar_policy_rejects_total") == 1, "refused")
        assert (
            f"{policies}/bank.yaml:14:30: error: undeclared reference to 'tokn.x'" in running.said
        )
        assert get(f"{running.url}/other")[0] == 404, "the snapshot before stays enforced"
        (policies / "bank.yaml").write_text("a: [")
        until(lambda: running.metric("sidecar_policy_rejects_total") == 2, "refused")
        assert get(f"{running.url}/other")[0] == 404
        (policies / "bank.yaml").write_text(DOCUMENTS)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: get(f"{running.url}/other")[0] == 401, "mended")
        (policies / "keys.jwks").write_text(json.dumps({"keys": jwks()["keys"][:1]}))
        until(
            lambda: running.metric("sidecar_policy_reloads_total") >= 3, "keys beside are watched"
        )
    finally:
        assert running.stop() == 0


def test_unreachable_keys_are_503_and_never_an_allow(upstream: str, tmp_path: Path) -> None:
    [nobody] = free_ports(1)
    documents = DOCUMENTS.replace("{file: keys.jwks}", f'{{uri: "http://127.0.0.1:{nobody}/jwks"}}')
    policies = write_policies(tmp_path, documents)
    running = Sidecar(tmp_path, upstream, "--policies", str(policies)).ready()
    try:
        status, headers, body = get(f"{running.url}/files/x", bearer())
        assert status == 503
        assert headers["retry-after"]
        assert json.loads(body)["code"] == "unavailable"
        assert get(f"{running.url}/files/x")[0] == 401
        assert get(f"{running.url}/", bearer())[0] == 200
        keys = json.loads(get(f"{running.admin}/snapshot")[2])["keys"]["https://idp.example"]
        assert str(nobody) in keys["error"]
    finally:
        running.stop()


def test_bad_flags_say_what_was_expected(tmp_path: Path) -> None:
    done = sidecar("run", "--upstream", "ftp://x", "--listen", "nowhere", "--workers", "0")
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert any("--upstream" in line and "http://HOST:PORT" in line for line in said)
    assert any("--listen" in line and "HOST:PORT" in line for line in said)
    assert any("--workers" in line for line in said)
    assert any("--policies, --control-plane: give one of the two" in line for line in said)


def test_a_taken_port_says_who_should_change_what(upstream: str, tmp_path: Path) -> None:
    policies = write_policies(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for flag in ("--listen", "--health", "--admin"):
            others = [f"--{name}=127.0.0.1:0" for name in ("listen", "health", "admin")]
            done = sidecar(
                "run", "--upstream", upstream, "--policies", str(policies), *others,
                flag, f"127.0.0.1:{taken.getsockname()[1]}",
            )  # fmt: skip
            assert done.returncode == 2
            assert flag in done.stderr
            assert str(taken.getsockname()[1]) in done.stderr
            assert "choose another" in done.stderr


def test_closed_standard_streams_are_no_sockets(upstream: str, tmp_path: Path) -> None:
    ports = free_ports(3)
    flags = [
        f"--{name}=127.0.0.1:{port}"
        for name, port in zip(("listen", "health", "admin"), ports, strict=True)
    ]
    command = [
        sys.executable, "-m", "sidecar", "run", "--upstream", upstream,
        "--policies", str(write_policies(tmp_path)), *flags,
    ]  # fmt: skip
    running = Running(["sh", "-c", 'exec "$@" <&- >&-', "sh", *command], tmp_path, "closed")
    try:
        until(lambda: get(f"http://127.0.0.1:{ports[1]}/readyz")[0] == 200, "ready", 15)
        assert get(f"http://127.0.0.1:{ports[0]}/")[0] == 200
    finally:
        code = running.stop()
    assert code == 0, running.said


def test_broken_documents_at_the_start_are_all_reported(upstream: str, tmp_path: Path) -> None:
    policies = write_policies(tmp_path, DOCUMENTS.replace("auth: none", "auth: nine, when: x"))
    done = sidecar("run", "--upstream", upstream, "--policies", str(policies))
    assert done.returncode == 1
    assert "bank.yaml:12" in done.stderr
    assert "'nine' is not one of" in done.stderr


def test_a_stop_finishes_what_is_in_flight(upstream: str, tmp_path: Path) -> None:
    running = Sidecar(tmp_path, upstream, "--policies", str(write_policies(tmp_path))).ready()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.putrequest("PUT", "/files/late")
    connection.putheader("Authorization", bearer()["Authorization"])
    connection.putheader("Content-Length", "8")
    connection.endheaders(b"half")
    until(lambda: running.metric("sidecar_upstream_connections_open") >= 1, "in flight")
    running.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in running.said, "draining")
    connection.send(b"half")
    answer = connection.getresponse()
    assert answer.status in (201, 204)
    assert answer.getheader("connection") == "close"
    connection.close()
    assert running.process.wait(timeout=30) == 0


def test_ten_thousand_idle_connections(running: Sidecar) -> None:
    """Held under 200 MiB, and the next client is served as ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 11_000:
        pytest.skip(f"this system admits {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[socket.socket] = []
    try:
        while len(idle) < 10_000:
            idle.append(socket.create_connection(("127.0.0.1", running.port), timeout=10))
        for client in idle[::100]:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert running.metric("sidecar_connections_open") >= 10_000
        assert running.resident() < 200 * MIB
        assert get(f"{running.url}/")[0] == 200
    finally:
        for client in idle:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
