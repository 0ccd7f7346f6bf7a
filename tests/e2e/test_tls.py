"""TLS on both sides of a real sidecar: curl, openssl and Python before it, nginx behind it."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidecar.demo.world import free_ports
from tests.certificates import Authority
from tests.e2e.processes import Sidecar, get, nginx, program, sidecar, until

MIB = 1024 * 1024
OPEN = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: home, match: {methods: [GET], paths: [/, /index.html, "/files/**"]}, auth: none}
  - {name: far, match: {paths: [/far]}, auth: none, when: request.address == '192.0.2.1'}
  - {name: safe, match: {paths: [/safe]}, auth: none, when: request.scheme == 'https'}
"""


class World:
    """Authorities, their files, and an nginx with TLS, mutual TLS and a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = Authority("services")
        self.callers = Authority("callers")
        self.sidecars = Authority("sidecars")
        self.tls, self.mutual = free_ports(2)
        certificate, key = self.services.issue("up", "app.internal").write(folder, "nginx")
        ours = self.sidecars.write(folder, "sidecars")
        secret = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
        self.socket = folder / "nginx.sock"
        self.listens = (
            f"listen 127.0.0.1:{self.tls} ssl; {secret}",
            f"listen 127.0.0.1:{self.mutual} ssl; {secret} "
            f"ssl_verify_client on; ssl_client_certificate {ours};",
            f"listen unix:{self.socket};",
        )
        self.plain = ""

    def served_by(self, authority: Authority, folder: Path) -> list[str]:
        """Flags to serve with a certificate of `authority`."""
        certificate, key = authority.issue().write(folder, "server")
        return ["--tls-cert", str(certificate), "--tls-key", str(key)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    with nginx(world.folder, *world.listens) as world.plain:
        big = world.folder / "nginx" / "www" / "files" / "big"
        big.write_bytes(os.urandom(MIB) * 64)
        yield world


def run(folder: Path, upstream: str, *arguments: str, name: str = "run") -> Sidecar:
    policies = folder / "policies"
    policies.mkdir(exist_ok=True)
    (policies / "open.yaml").write_text(OPEN)
    return Sidecar(folder, upstream, "--policies", str(policies), *arguments, name=name).ready()


def curl(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("curl"), "-sS", "-m", "20", *arguments, url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


# -- clients


def test_curl_and_openssl(world: World, tmp_path: Path) -> None:
    authority = Authority()
    ca = authority.write(tmp_path)
    running = run(tmp_path, world.plain, *world.served_by(authority, tmp_path))
    url = f"https://localhost:{running.port}"
    resolve = ("--cacert", str(ca))
    assert curl(url, *resolve).stdout == "hello from nginx\n"
    assert curl(f"{url}/safe", *resolve, "-o", "/dev/null", "-w", "%{http_code}").stdout == "404"
    assert curl(url).returncode == 60  # an unknown CA
    old = subprocess.run(
        [program("openssl"), "s_client", "-connect", f"localhost:{running.port}", "-tls1_1",
         "-cipher", "ALL:@SECLEVEL=0"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert old.returncode != 0
    assert "alert protocol version" in old.stderr
    new = subprocess.run(
        [program("openssl"), "s_client", "-connect", f"localhost:{running.port}", "-CAfile",
         str(ca), "-alpn", "h2,http/1.1"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Verify return code: 0 (ok)" in new.stdout
    assert "ALPN protocol: http/1.1" in new.stdout
    assert curl(f"http://localhost:{running.port}").returncode != 0  # no TLS, no answer
    assert running.metric('sidecar_tls_handshake_failures_total{reason="version"}') == 1
    assert running.metric('sidecar_tls_handshake_failures_total{reason="plain_http"}') == 1
    expiry = running.metric('sidecar_tls_certificate_expiry_timestamp_seconds{side="client"}')
    assert 29 * 86400 < expiry - time.time() < 31 * 86400
    assert running.stop() == 0
    assert "Traceback" not in running.said


def test_callers_must_show_a_certificate(world: World, tmp_path: Path) -> None:
    authority = Authority()
    running = run(
        tmp_path, world.plain, *world.served_by(authority, tmp_path),
        "--tls-client-ca", str(world.callers.write(tmp_path, "callers")),
    )  # fmt: skip
    url = f"https://localhost:{running.port}"
    ca = ("--cacert", str(authority.write(tmp_path)))
    refused = curl(url, *ca)
    assert refused.returncode != 0
    assert "certificate required" in refused.stderr
    certificate, key = world.callers.issue("caller").write(tmp_path, "caller")
    good = curl(url, *ca, "--cert", str(certificate), "--key", str(key))
    assert good.stdout == "hello from nginx\n"
    certificate, key = authority.issue("caller").write(tmp_path, "other")
    assert curl(url, *ca, "--cert", str(certificate), "--key", str(key)).returncode != 0
    assert running.stop() == 0


def test_rotation_drops_nothing(world: World, tmp_path: Path) -> None:
    """Certificate, key and client CA change while a download runs and clients keep coming."""
    authority = Authority()
    old, new = world.callers, Authority("new callers")
    callers = old.write(tmp_path, "callers")
    running = run(
        tmp_path, world.plain, *world.served_by(authority, tmp_path), "--tls-client-ca",
        str(callers),
    )  # fmt: skip
    reloads = 'sidecar_tls_reloads_total{side="client"}'

    def reloaded(times: int) -> None:
        until(lambda: running.metric(reloads) == times, f"{times} reloads")

    stop, failures = threading.Event(), list[str]()
    contexts = {
        name: authority.client_context(each.issue(name).write(tmp_path, name))
        for name, each in (("old", old), ("new", new))
    }
    current = "old"

    def ask(name: str) -> bytes:
        connection = http.client.HTTPSConnection(
            "localhost", running.port, timeout=20, context=contexts[name]
        )
        try:
            connection.request("GET", "/")
            return connection.getresponse().read()
        finally:
            connection.close()

    def keep_coming() -> int:
        served = 0
        while not stop.is_set():
            try:
                assert ask(current) == b"hello from nginx\n"
                served += 1
            except Exception as error:  # noqa: BLE001
                failures.append(repr(error))
        return served

    download = http.client.HTTPSConnection(
        "localhost", running.port, timeout=20, context=contexts["old"]
    )
    download.request("GET", "/files/big")
    answer = download.getresponse()
    found = hashlib.sha256(answer.read(MIB))
    with ThreadPoolExecutor(4) as pool:
        coming = [pool.submit(keep_coming) for _ in range(4)]
        try:
            for turn in range(1, 4):  # certificate first, then key: never in force half-way
                pair = authority.issue()
                (tmp_path / "server.crt").write_bytes(pair.certificate)
                (tmp_path / "server.key").write_bytes(pair.key)
                reloaded(turn)
            callers.write_bytes(old.pem + new.pem)
            reloaded(4)
            current = "new"
            for _ in range(8):
                ask("new")
        finally:
            stop.set()
        served = [each.result() for each in coming]
        callers.write_bytes(new.pem)
        running.process.send_signal(signal.SIGHUP)
        reloaded(5)
    assert failures == []
    assert min(served) > 10
    assert ask("new") == b"hello from nginx\n"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask("old")
    while data := answer.read(MIB):
        found.update(data)
    download.request("GET", "/")  # and its connection is as good as before
    assert download.getresponse().read() == b"hello from nginx\n"
    download.close()
    big = world.folder / "nginx" / "www" / "files" / "big"
    assert found.hexdigest() == hashlib.sha256(big.read_bytes()).hexdigest()
    assert running.stop() == 0


def test_a_bad_file_changes_nothing(world: World, tmp_path: Path) -> None:
    authority = Authority()
    running = run(tmp_path, world.plain, *world.served_by(authority, tmp_path))
    url, ca = f"https://localhost:{running.port}", ("--cacert", str(authority.write(tmp_path)))
    kept = (tmp_path / "server.key").read_bytes()
    failures = 'sidecar_tls_reload_failures_total{side="client"}'
    (tmp_path / "server.key").write_text("half a ke")
    until(lambda: running.metric(failures) == 1, "a failure")
    assert curl(url, *ca).stdout == "hello from nginx\n"
    assert "server.key holds no sound PEM private key" in running.said
    (tmp_path / "server.key").write_bytes(kept)
    authority.issue().write(tmp_path, "server")
    until(lambda: running.metric('sidecar_tls_reloads_total{side="client"}') == 1, "a reload")
    assert curl(url, *ca).stdout == "hello from nginx\n"
    assert running.stop() == 0
    assert running.said.count("goes on with what it had") == 1


def test_files_that_cannot_work_stop_the_start(world: World, tmp_path: Path) -> None:
    authority = Authority()
    certificate, _ = authority.issue().write(tmp_path, "one")
    _, key = authority.issue().write(tmp_path, "two")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    (tmp_path / "open.yaml").write_text(OPEN)
    done = sidecar(
        "run", "--upstream", "https://127.0.0.1:1", "--upstream-ca", str(empty), "--policies",
        str(tmp_path / "open.yaml"), "--tls-cert", str(certificate), "--tls-key", str(key),
    )  # fmt: skip
    assert done.returncode == 2
    assert "two.key is not the key of" in done.stderr
    assert "empty.pem holds no PEM certificate" in done.stderr
    assert "Traceback" not in done.stderr


# -- upstreams


def test_nginx_behind_tls(world: World, tmp_path: Path) -> None:
    ca = world.services.write(tmp_path, "services")
    upstream = f"https://127.0.0.1:{world.tls}"
    trusting = ("--upstream-ca", str(ca), "--upstream-server-name", "app.internal")
    running = run(tmp_path, upstream, *trusting)
    assert get(running.url)[2] == b"hello from nginx\n"
    assert (
        get(f"{running.url}/files/big")[2]
        == (world.folder / "nginx" / "www" / "files" / "big").read_bytes()
    )
    errors = 'sidecar_upstream_errors_total{kind="tls"}'
    Authority("others").write(tmp_path, "services")
    reloads = 'sidecar_tls_reloads_total{side="upstream"}'
    until(lambda: running.metric(reloads) == 1, "another CA")
    assert get(running.url)[0] == 502  # also where an old connection was idle
    assert running.metric(errors) == 1
    ca.write_bytes(world.services.pem)
    until(lambda: running.metric(reloads) == 2, "the CA again")
    assert get(running.url)[2] == b"hello from nginx\n"
    assert running.stop() == 0
    assert running.said.count("unable to get") + running.said.count("self-signed") >= 1


def test_nginx_with_another_name(world: World, tmp_path: Path) -> None:
    ca = world.services.write(tmp_path, "services")
    running = run(tmp_path, f"https://127.0.0.1:{world.tls}", "--upstream-ca", str(ca))
    assert get(running.url)[0] == 502
    assert running.stop() == 0


def test_nginx_unverified(world: World, tmp_path: Path) -> None:
    flag = "--insecure-upstream-skip-verify"
    running = run(tmp_path, f"https://127.0.0.1:{world.tls}", flag)
    assert get(running.url)[2] == b"hello from nginx\n"
    metric = 'sidecar_insecure_settings{setting="insecure_upstream_skip_verify"}'
    assert running.metric(metric) == 1
    assert "insecure-upstream-skip-verify" in running.said
    assert running.stop() == 0


def test_nginx_behind_mutual_tls(world: World, tmp_path: Path) -> None:
    certificate, key = world.sidecars.issue("sidecar").write(tmp_path, "own")
    upstream = f"https://127.0.0.1:{world.mutual}"
    trusting = (
        "--upstream-ca", str(world.services.write(tmp_path, "services")),
        "--upstream-server-name", "app.internal",
    )  # fmt: skip
    own = ("--upstream-cert", str(certificate), "--upstream-key", str(key))
    running = run(tmp_path, upstream, *trusting, *own)
    assert get(running.url)[2] == b"hello from nginx\n"
    world.sidecars.issue("sidecar", days=60).write(tmp_path, "own")
    reloads = 'sidecar_tls_reloads_total{side="upstream"}'
    until(lambda: running.metric(reloads) == 1, "a new certificate")
    assert get(running.url)[2] == b"hello from nginx\n"
    assert running.stop() == 0
    without = run(tmp_path, upstream, *trusting, name="without")
    assert get(without.url)[0] == 400  # nginx's own answer
    assert without.stop() == 0


def test_nginx_on_a_unix_socket(world: World, tmp_path: Path) -> None:
    running = run(tmp_path, f"unix://{world.socket}")
    for _ in range(3):
        assert get(running.url)[2] == b"hello from nginx\n"
    assert running.metric("sidecar_upstream_connections_created_total") == 1
    assert running.stop() == 0


# -- proxies in front


def test_a_trusted_proxy_says_who_asks(world: World, tmp_path: Path) -> None:
    running = run(tmp_path, world.plain, "--trusted-proxy", "127.0.0.0/8")
    said = {"X-Forwarded-For": "6.6.6.6, 192.0.2.1", "X-Forwarded-Proto": "https"}
    assert get(f"{running.url}/far")[0] == 401
    assert get(f"{running.url}/far", said)[0] == 404  # admitted; nginx has no such file
    assert get(f"{running.url}/safe")[0] == 401
    assert get(f"{running.url}/safe", said)[0] == 404
    assert get(f"{running.admin}/config")[2].decode().count("127.0.0.0/8") == 1
    assert running.stop() == 0
    strict = run(tmp_path, world.plain, name="strict")
    assert get(f"{strict.url}/far", said)[0] == 401
    assert get(f"{strict.url}/safe", said)[0] == 401
    assert strict.stop() == 0
