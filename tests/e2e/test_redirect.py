"""Nothing goes round it: `sidecar redirect` and `sidecar run` as in a pod, with real traffic."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.casebook import jwks, token
from tests.e2e.namespaces import CLIENT, POD, USER, Namespace, joined
from tests.e2e.processes import Running, program, until

APPLICATION = (8080, 9090)
EXCLUDED = 7070
TRAFFIC, HEALTH, ADMIN = 7400, 7401, 7402
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
  - {name: all, match: {paths: ["/**"]}}
"""
PROBES = {
    "http": {"http": {"port": 8080, "path": "/live"}, "timeout": 30},
    "tcp": {"tcp": {"port": 9090}, "timeout": 30},
    "closed": {"tcp": {"port": 9}, "timeout": 30},
}


class Pod:
    """An application with its sidecar, and who calls it."""

    def __init__(self, client: Namespace, space: Namespace) -> None:
        self.client = client
        self.space = space
        self.running: list[Running] = []
        self.application = space.start(
            "application", sys.executable, "-m", "tests.e2e.upstreams.pod",
            *map(str, (*APPLICATION, EXCLUDED)),
        )  # fmt: skip
        policies = space.folder / "policies"
        policies.mkdir()
        (policies / "keys.jwks").write_text(json.dumps(jwks()))
        (policies / "bank.yaml").write_text(DOCUMENTS)
        self.running.append(self.application)

    def start_sidecar(self, *more: str, user: int = USER, name: str = "sidecar") -> None:
        """As in a pod, `more` aside; ready."""
        self.sidecar = running = self.space.start(
            name, sys.executable, "-m", "sidecar", "run", "--upstream", "original-destination",
            "--policies", str(self.space.folder / "policies"), "--decision-log", "stdout",
            "--listen", f"[::]:{TRAFFIC}", "--health", f"[::]:{HEALTH}",
            "--admin", f"127.0.0.1:{ADMIN}", "--probes", json.dumps(PROBES), *more,
            user=user,
        )  # fmt: skip

        self.running.append(running)

        def ready() -> bool:
            assert running.process.poll() is None, running.said
            return "ready" in self.application.said and self.status("/readyz", HEALTH) == 200

        until(ready, f"ready: {running.said}")

    def restart_sidecar(self, *more: str, user: int = USER, name: str) -> None:
        """Another in its place."""
        assert self.sidecar.stop() == 0, self.sidecar.said
        self.start_sidecar(*more, user=user, name=name)

    def stop(self) -> None:
        codes = [each.stop() for each in reversed(self.running)]
        assert set(codes[:-1]) == {0}, self.sidecar.said  # the application just ends

    def get(
        self,
        path: str,
        port: int,
        host: str = POD[0],
        *,
        authorized: bool = False,
        whence: Namespace | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; status 0 where nobody answers."""
        connection = http.client.HTTPConnection(host, port, timeout=20)
        try:
            connection.sock = (whence or self.client).connect(host, port)
            connection.request("GET", path, headers=bearer() if authorized else {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except ConnectionError:
            return 0, {}, b""
        finally:
            connection.close()

    def status(self, path: str, port: int, host: str = POD[0]) -> int:
        return self.get(path, port, host)[0]

    def seen(self, path: str, port: int, host: str = POD[0], **more: Any) -> dict[str, Any]:
        """What the application saw of a request that reached it."""
        status, _, body = self.get(path, port, host, **more)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def metric(self, line: str) -> float:
        page = self.get("/metrics", HEALTH)[2].decode()
        found = [each for each in page.splitlines() if each.startswith(f"{line} ")]
        return float(found[0].split()[-1]) if found else 0.0


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {token(time.time(), {})}"}


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    """With the rules set."""
    with joined() as (client, space):
        started = Pod(client, space)
        try:
            started.start_sidecar()
            before = [started.status("/", port, host) for port in APPLICATION for host in POD]
            assert before == [200] * 4  # whom nobody redirects is decided by nobody
            done = space.sidecar("redirect", "--exclude-port", str(EXCLUDED))
            assert done.returncode == 0, done.stderr
            yield started
        finally:
            started.stop()


@pytest.mark.parametrize("host", POD)
@pytest.mark.parametrize("port", APPLICATION)
def test_every_port_is_decided(pod: Pod, port: int, host: str) -> None:
    status, headers, _ = pod.get("/a", port, host)
    assert status == 401
    assert "x-sidecar-decision" in headers
    seen = pod.seen("/a?b=c", port, host, authorized=True)
    assert seen["own"] == [host, port]
    assert seen["path"] == "/a?b=c"
    assert seen["peer"] == host  # never loopback, which applications trust
    whom = CLIENT[POD.index(host)]
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert seen["headers"]["x-forwarded-for"] == whom
    assert seen["headers"]["host"] == authority
    assert seen["headers"]["x-sidecar-subject"] == "alice"


def test_a_request_without_a_host_is_given_the_address_that_was_asked(pod: Pod) -> None:
    with pod.client.connect(POD[1], 9090) as client:
        credential = bearer()["Authorization"]
        client.sendall(f"GET / HTTP/1.0\r\nAuthorization: {credential}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["headers"]["host"] == f"[{POD[1]}]:9090"


def test_one_connection_leads_to_one_port_for_all_its_requests(pod: Pod) -> None:
    connections = {}
    for port in APPLICATION:
        connections[port] = http.client.HTTPConnection(POD[0], port)
        connections[port].sock = pod.client.connect(POD[0], port)
    for _ in range(3):
        for port, connection in connections.items():
            connection.request("GET", "/", headers=bearer())
            assert json.loads(connection.getresponse().read())["own"] == [POD[0], port]
    for connection in connections.values():
        connection.close()


@pytest.mark.parametrize("host", POD)
def test_excluded_ports_and_health_are_direct(pod: Pod, host: str) -> None:
    seen = pod.seen("/", EXCLUDED, host)
    assert seen["peer"] == CLIENT[POD.index(host)]
    assert "x-sidecar-subject" not in seen["headers"]
    assert pod.get("/healthz", HEALTH, host)[2] == b"ok\n"


@pytest.mark.parametrize("host", POD)
def test_straight_to_the_traffic_port_leads_nowhere(pod: Pod, host: str) -> None:
    line = 'sidecar_destinations_refused_total{reason="not_redirected"}'
    before, accepted = pod.metric(line), pod.metric("sidecar_connections_accepted_total")
    assert pod.get("/", TRAFFIC, host, authorized=True)[0] == 421
    assert pod.metric(line) == before + 1
    assert pod.metric("sidecar_connections_accepted_total") == accepted + 1  # no circle


def test_the_address_of_the_cable_is_no_way_round(pod: Pod) -> None:
    """Every interface has a link-local one. Where Linux does not tell which interface a caller
    meant (to one from a global address), it leads nowhere."""
    found = pod.space.run("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
    address = found.stdout.split("inet6 ")[1].split("/")[0]
    assert pod.get("/", EXCLUDED, f"{address}%eth0")[0] == 200
    assert pod.get("/", 8080, f"{address}%eth0")[0] in (401, 421)


def test_the_sidecars_own_ports_lead_nowhere(pod: Pod) -> None:
    line = 'sidecar_destinations_refused_total{reason="own_port"}'
    before = pod.metric(line)
    assert pod.get("/config", ADMIN, authorized=True)[0] == 421
    assert pod.metric(line) == before + 1


def test_where_nobody_listens_is_502(pod: Pod) -> None:
    assert pod.get("/", 6060, authorized=True)[0] == 502
    assert pod.get("/", 6060)[0] == 401


def test_websockets(pod: Pod) -> None:
    for host, port in ((POD[0], 8080), (POD[1], 9090)):
        address = f"ws://{host if ':' not in host else f'[{host}]'}:{port}/feed"
        with pytest.raises(InvalidStatus) as refused:
            connect(address, sock=pod.client.connect(host, port), proxy=None)
        assert refused.value.response.status_code == 401
        with connect(
            address, sock=pod.client.connect(host, port), proxy=None, additional_headers=bearer()
        ) as client:
            client.send("hello")
            assert client.recv(timeout=20) == f"{port}: hello"


@pytest.mark.parametrize("host", POD)
def test_who_calls_the_pods_address_from_within_is_decided_too(pod: Pod, host: str) -> None:
    assert pod.get("/", 8080, host, whence=pod.space)[0] == 401
    seen = pod.seen("/", 8080, host, authorized=True, whence=pod.space)
    assert seen["own"] == [host, 8080]
    assert seen["headers"]["x-forwarded-for"] == host
    loopback = {"10": "127.0.0.1", "fd": "::1"}[host[:2]]
    assert pod.seen("/", 8080, loopback, whence=pod.space)["peer"] == loopback


def test_probes_need_no_token(pod: Pod) -> None:
    assert pod.status("/live", 8080) == 401
    for host in POD:
        for name in ("http", "tcp"):
            assert pod.get(f"/probe/{name}", HEALTH, host)[::2] == (200, b"ok\n")
        status, headers, body = pod.get("/probe/closed", HEALTH, host)
        assert (status, body) == (503, b"failed: no connection: Connection refused\n")
        assert "server" not in headers
    assert pod.metric('sidecar_probes_total{probe="http",result="success"}') >= 2
    assert pod.get("/probe/other", HEALTH)[0] == 404


def test_twice_is_once_and_removing_leaves_nothing(pod: Pod) -> None:
    exclude = ("--exclude-port", str(EXCLUDED))
    set_once = pod.space.rules()
    assert set_once.count("-j SIDECAR_INBOUND") == 4
    assert pod.space.sidecar("redirect", *exclude).returncode == 0
    assert pod.space.rules() == set_once
    try:
        for said in ("removed", "nothing to remove"):
            removed = pod.space.sidecar("redirect", "--remove")
            assert removed.stdout == f"IPv4: {said}\nIPv6: {said}\n"
            assert "SIDECAR" not in pod.space.rules()
        assert [pod.status("/", port, host) for port in APPLICATION for host in POD] == [200] * 4
        half = "*nat\n:SIDECAR_INBOUND - [0:0]\n-A PREROUTING -p tcp -j SIDECAR_INBOUND\nCOMMIT\n"
        interrupted = pod.space.folder / "half"
        interrupted.write_text(half)
        assert pod.space.run("iptables-restore", "--noflush", str(interrupted)).returncode == 0
    finally:
        assert pod.space.sidecar("redirect", *exclude).returncode == 0
    assert pod.space.rules() == set_once
    assert [pod.status("/", port, host) for port in APPLICATION for host in POD] == [401] * 4


def test_several_workers(pod: Pod) -> None:
    pod.restart_sidecar("--workers", "2", name="workers")
    for port in APPLICATION:
        for host in POD:
            assert pod.status("/", port, host) == 401
            assert pod.seen("/", port, host, authorized=True)["own"] == [host, port]
    assert pod.get("/", TRAFFIC, authorized=True)[0] == 421
    assert pod.get("/probe/http", HEALTH, POD[1])[::2] == (200, b"ok\n")


def test_a_sidecar_that_the_rules_do_not_know_runs_in_no_circle(pod: Pod) -> None:
    """It meets itself: its user is not the one that was named to the rules."""
    pod.restart_sidecar(user=USER + 1, name="unknown")
    assert pod.get("/", 8080, authorized=True)[0] == 421
    assert pod.metric('sidecar_destinations_refused_total{reason="loop"}') == 1
    assert pod.metric("sidecar_connections_accepted_total") == 2
    assert "sidecar redirect --user" in pod.sidecar.said


def test_without_net_admin() -> None:
    with joined() as (_, space):
        done = space.run(
            program("setpriv"), "--bounding-set=-net_admin", "--inh-caps=-all",
            sys.executable, "-m", "sidecar", "redirect",
        )  # fmt: skip
        assert done.returncode == 1
        assert "root with the capability NET_ADMIN" in done.stderr


def test_with_the_legacy_iptables(tmp_path: Path) -> None:
    """The same rules by the other of the two implementations, where it and its kernel side are."""
    legacy = shutil.which("xtables-legacy-multi", path=f"{os.environ['PATH']}:/usr/sbin")
    if legacy is None:
        pytest.skip("no legacy iptables here")
    for family in ("iptables", "ip6tables"):
        for action in ("save", "restore"):
            (tmp_path / f"{family}-{action}").symlink_to(legacy)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with joined() as (client, space):
        if space.run("iptables-save", "-t", "nat", env=environ).returncode:
            pytest.skip("no legacy iptables in this kernel")
        for _ in range(2):
            done = space.sidecar("redirect", env=environ)
            assert done.returncode == 0, done.stderr
        found = space.run("iptables-save", "-t", "nat", env=environ).stdout
        assert found.count("-j SIDECAR_INBOUND") == 2
        with space.inside():
            listener = socket.create_server(("0.0.0.0", TRAFFIC))
        with listener, client.connect(POD[0], 8080), listener.accept()[0] as accepted:
            assert accepted.getsockname() == (POD[0], TRAFFIC)
        removed = space.sidecar("redirect", "--remove", env=environ)
        assert removed.stdout == "IPv4: removed\nIPv6: removed\n"
        assert "SIDECAR" not in space.run("iptables-save", env=environ).stdout
