"""What the chart's pods run beside the programs themselves: for real, against a real control plane."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.deploy.chart import CHART
from tests.e2e.processes import sidecar, until
from tests.e2e.test_control import ControlPlane

POLICY = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: %s}
spec: {rules: [{name: home, match: {paths: [/]}, auth: none}]}
"""


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlPlane]:
    found = ControlPlane(tmp_path)
    found.start()
    yield found
    assert found.running is not None
    found.running.stop()


def published(control: ControlPlane) -> str:
    return sidecar("get", "--server", control.server).stdout


def test_documents_are_applied_at_the_start_and_whenever_they_change(
    control: ControlPlane, tmp_path: Path
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.yaml").write_text(POLICY % "first")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "sidecar").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidecar "$@"\n')
    (bin_ / "sidecar").chmod(0o755)
    said = tmp_path / "said"
    with said.open("wb") as log:
        running = subprocess.Popen(
            ["sh", str(CHART / "files" / "publish.sh")], stdout=log, stderr=log,
            env={
                **os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "DOCUMENTS": str(documents),
                "SERVER": control.server, "PAUSE": "0.2",
            },
        )  # fmt: skip
    try:
        until(lambda: "name: first" in published(control), said.read_text())
        # As the kubelet does it: a mistake is said, ends nothing, and is tried again once mended.
        (documents / "a.yaml").write_text("kind: Nonsense")
        until(lambda: "Nonsense" in said.read_text(), "a mistake")
        assert running.poll() is None
        assert "name: first" in published(control)
        (documents / "a.yaml").rename(documents / "b.yaml")
        (documents / "b.yaml").write_text(POLICY % "second")
        until(lambda: "name: second" in published(control), said.read_text())
        assert "name: first" in published(control), "what is not there is not touched"
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=10) == 0
    finally:
        running.kill()
        running.wait()


@contextmanager
def listening(pair: tuple[Path, Path]) -> Iterator[int]:
    """TLS with this certificate, until every handshake that came is over."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except (ssl.SSLError, ConnectionError):
                    return  # the client would not have it

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def ready(urls: str, fleet: str, ca: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHART / "files" / "ready.py")],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "READY_URLS": urls, "FLEET": fleet, "FLEET_CA": str(ca)},
    )  # fmt: skip


def test_helm_test_passes_where_all_is_well(control: ControlPlane, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue("localhost").write(tmp_path, "server")
    url = f"http://127.0.0.1:{control.http_port}/readyz"
    with listening(pair) as port:
        done = ready(url, f"localhost:{port}", authority.write(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"{url}: 200" in done.stdout
    assert "TLSv1.3" in done.stdout


def test_helm_test_says_everything_that_is_wrong(control: ControlPlane, tmp_path: Path) -> None:
    pair = Authority().issue("localhost").write(tmp_path, "server")
    url = f"http://127.0.0.1:{control.http_port}/nowhere"
    with listening(pair) as port:
        done = ready(url, f"localhost:{port}", Authority().write(tmp_path))
    assert done.returncode == 1
    assert "404" in done.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
