"""Control plane, sidecars and the command line as processes; the control plane dies on purpose."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sidecar.demo.world import free_ports
from tests.casebook import jwks, token
from tests.e2e.processes import Running, Sidecar, get, nginx, sidecar, until

ISSUER = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {file: keys.jwks}}
---
"""
POLICY = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: home, match: {paths: [/]}, auth: none}
"""


class ControlPlane:
    """`sidecar control-plane` on a fixed port and store, so that it can die and come back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port, self.http_port = free_ports(2)
        self.server = f"127.0.0.1:{port}"
        self.running: Running | None = None
        self.starts = 0

    def start(self, *more: str) -> None:
        self.starts += 1
        self.running = Running(
            [
                sys.executable, "-m", "sidecar", "control-plane",
                "--store", f"sqlite:///{self.folder}/store.db", "--listen", self.server,
                "--http", f"127.0.0.1:{self.http_port}", *more,
            ],
            self.folder, f"control-{self.starts}",
        )  # fmt: skip
        running = self.running

        def ready() -> bool:
            assert running.process.poll() is None, running.said
            return get(f"http://127.0.0.1:{self.http_port}/readyz")[0] == 200

        until(ready, "control plane")

    def kill(self) -> None:
        assert self.running is not None
        self.running.stop(signal.SIGKILL)

    def apply(self, folder: Path, *more: str) -> tuple[int, str]:
        done = sidecar("apply", "-f", str(folder), "--server", self.server, *more)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(tmp_path_factory.mktemp("upstream")) as address:
        yield address


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlPlane]:
    found = ControlPlane(tmp_path)
    found.start()
    yield found
    assert found.running is not None
    found.running.stop()


def policies(folder: Path, extra: str = "", name: str = "policies") -> Path:
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "keys.jwks").write_text(json.dumps(jwks()))
    (path / "bank.yaml").write_text(ISSUER + POLICY + extra)
    return path


def connect(folder: Path, upstream: str, control: ControlPlane, name: str = "run") -> Sidecar:
    return Sidecar(
        folder, upstream, "--control-plane", control.server, "--state", str(folder / f"st-{name}"),
        name=name,
    )  # fmt: skip


def test_from_apply_to_enforced_and_through_the_dark(
    control: ControlPlane, upstream: str, tmp_path: Path
) -> None:
    one, two = (connect(tmp_path, upstream, control, name) for name in ("one", "two"))
    try:
        until(lambda: get(f"{one.health}/healthz")[0] == 200, "up")
        status, _, body = get(f"{one.health}/readyz")
        assert (status, b"no policy" in body) == (503, True), "not ready without a snapshot"
        assert get(f"{one.url}/")[0] == 503, "and nothing is admitted"
        code, said = control.apply(policies(tmp_path), "--wait")
        assert code == 0, said
        assert "live on 2 of 2" in said
        for each in (one, two):
            each.ready()
            assert get(f"{each.url}/")[0] == 200
            assert get(f"{each.url}/other")[0] == 401
        status_said = sidecar("status", "--server", control.server, "--output", "json")
        assert status_said.returncode == 0
        assert status_said.stdout.count("default") >= 2
        published = sidecar("get", "--server", control.server)
        assert "kind: AccessPolicy" in published.stdout

        code, said = control.apply(policies(tmp_path, "  - {name: bad, when: tokn}\n"))
        assert code == 1
        assert "bank.yaml:14:23: error: undeclared reference to 'tokn'" in said
        assert get(f"{one.url}/")[0] == 200

        control.kill()
        until(lambda: one.metric("sidecar_control_plane_connected") == 0, "noticed")
        assert get(f"{one.url}/")[0] == 200
        assert get(f"{one.url}/other")[0] == 401
        code, said = control.apply(policies(tmp_path), "--timeout", "1s")
        assert code == 1
        assert "nothing was published" in said

        assert one.stop() == 0
        one = connect(tmp_path, upstream, control, "one").ready()
        assert get(f"{one.url}/")[0] == 200, "from the last-known-good"
        assert get(f"{one.url}/other")[0] == 401
        assert one.metric("sidecar_snapshot_age_seconds") > 0

        control.start()
        until(lambda: one.metric("sidecar_control_plane_connected") == 1, "reconnected")
        until(lambda: two.metric("sidecar_control_plane_connected") == 1, "reconnected")
        code, said = control.apply(
            policies(tmp_path, "  - {name: other, match: {paths: [/other]}}\n"), "--wait"
        )
        assert code == 0, said
        headers = {"Authorization": f"Bearer {token(time.time(), {})}"}
        assert get(f"{one.url}/other", headers)[0] == 404
        assert get(f"{two.url}/other", headers)[0] == 404
    finally:
        one.stop()
        two.stop()


def test_sigkill_at_any_moment_loses_nothing_acknowledged(
    control: ControlPlane, upstream: str, tmp_path: Path
) -> None:
    """Kill while applies are under way, again and again; what was acknowledged is still there."""
    running = connect(tmp_path, upstream, control)
    folders = [
        policies(tmp_path, f"  - {{name: n{n}, match: {{paths: [/n{n}]}}, auth: none}}\n", f"p{n}")
        for n in range(4)
    ]
    try:
        assert control.apply(policies(tmp_path), "--wait")[0] == 0
        running.ready()
        for number, folder in enumerate(folders):
            applying = Running(
                [sys.executable, "-m", "sidecar", "apply", "-f", str(folder), "--server",
                 control.server, "--output", "json", "--timeout", "2s"],
                tmp_path, f"apply-{number}",
            )  # fmt: skip
            # The kill falls into a different part of each apply: while it starts, sends, is stored.
            until(partial(_far_enough, applying, number, control), "far enough")
            control.kill()
            acknowledged = applying.process.wait(timeout=30) == 0
            assert get(f"{running.url}/")[0] == 200, "the sidecar never stops enforcing"
            control.start()
            stored = sidecar("get", "--server", control.server, "--output", "json").stdout
            if acknowledged:
                assert f"/n{number}" in stored
            assert sidecar("apply", "-f", str(folder), "--server", control.server).returncode == 0
        until(lambda: get(f"{running.url}/n3")[0] == 404, "the last release is enforced")
    finally:
        running.stop()


def _far_enough(applying: Running, number: int, control: ControlPlane) -> bool:
    if number == 0:
        return True
    if number == 1:
        return applying.process.poll() is not None
    page = get(f"http://127.0.0.1:{control.http_port}/metrics")[2].decode()
    made = [line for line in page.splitlines() if line.startswith("sidecar_control_releases_total")]
    return applying.process.poll() is not None or sum(float(m.split()[-1]) for m in made) >= 1


def test_the_control_plane_refuses_to_be_open(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    done = sidecar(
        "control-plane", "--store", store, "--listen", "0.0.0.0:0", "--http", "127.0.0.1:0"
    )
    assert done.returncode == 2
    assert "--insecure-unauthenticated" in done.stderr


def test_a_taken_port(control: ControlPlane, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/other.db"
    done = sidecar(
        "control-plane", "--store", store, "--listen", control.server, "--http", "127.0.0.1:0"
    )
    assert done.returncode == 2
    assert control.server in done.stderr
    assert "--listen" in done.stderr


def test_trust_is_required_beyond_loopback(tmp_path: Path) -> None:
    done = sidecar(
        "run", "--upstream", "http://127.0.0.1:1", "--control-plane", "control.example:7443",
        "--state", str(tmp_path / "state"),
    )  # fmt: skip
    assert done.returncode == 2
    assert "--trust" in done.stderr
