"""A control plane that hangs: its kernel still answers, the process does not."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from sidecar.demo.world import free_ports
from tests.e2e.processes import Running, Sidecar, get, sidecar, until
from tests.e2e.test_control import POLICY

CONNECTED = "sidecar_control_plane_connected"
NOTICED = 28.0  # seconds: a ping every 15, 5 for its answer, and a busy machine


def test_a_hung_control_plane_is_noticed(tmp_path: Path) -> None:
    grpc, http = free_ports(2)
    server = f"127.0.0.1:{grpc}"
    control = Running(
        [
            sys.executable, "-m", "sidecar", "control-plane", "--store",
            f"sqlite:///{tmp_path}/store.db", "--listen", server, "--http", f"127.0.0.1:{http}",
        ],
        tmp_path, "control",
    )  # fmt: skip
    run = None
    try:
        until(lambda: get(f"http://127.0.0.1:{http}/readyz")[0] == 200, f"ready: {control.said}")
        (tmp_path / "all.yaml").write_text(POLICY)
        applied = sidecar("apply", "-f", str(tmp_path / "all.yaml"), "--server", server)
        assert applied.returncode == 0, applied.stderr
        run = Sidecar(
            tmp_path, "http://127.0.0.1:1", "--control-plane", server,
            "--state", str(tmp_path / "state"),
        ).ready()  # fmt: skip
        assert run.metric(CONNECTED) == 1
        control.process.send_signal(signal.SIGSTOP)
        until(lambda: run.metric(CONNECTED) == 0, "noticed", NOTICED)
        assert run.metric("sidecar_snapshot_age_seconds") > 0
        assert get(run.url)[0] in (502, 503, 504), "decided with what it holds; nothing is behind"
        control.process.send_signal(signal.SIGCONT)
        until(lambda: run.metric(CONNECTED) == 1, "connected again")
    finally:
        if run is not None:
            run.stop()
        control.process.send_signal(signal.SIGCONT)
        control.stop()
