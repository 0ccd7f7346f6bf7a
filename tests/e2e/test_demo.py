"""The demo, as anyone would run it, and the load test against it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import Running, get, program, sidecar, until

ROOT = Path(__file__).parent.parent.parent


def test_once() -> None:
    done = sidecar("demo", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert len(lines) == 34
    assert "--  " not in done.stdout
    assert all(re.search(r"\d+\.\d ms", line) for line in lines)


def test_it_stays_up_with_lines_that_work(tmp_path: Path) -> None:
    running = Running([sys.executable, "-m", "sidecar", "demo"], tmp_path, "demo")
    try:
        until(lambda: "sidecar get --server" in running.said, f"played: {running.said}", 60)
        until(lambda: "in a browser:\n\n    http" in running.said, f"said where: {running.said}")
        shown, _, browser = running.said.partition("Try:")[2].partition("Or be the customer")
        lines = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
        assert len(lines) == 6
        program("curl")
        statuses = []
        for line in lines:
            command = line.replace("sidecar ", f"{sys.executable} -m sidecar ", 1)
            if line.startswith("curl"):
                command = line
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            assert done.stdout
            statuses += re.findall(r"^HTTP/1.1 (\d+)", done.stdout)
        assert statuses == ["200", "401", "200"]
        page = {"accept": "text/html"}
        start = re.findall(r"^    (http://\S+/)$", browser, re.M)[0]
        status, headers, body = get(start, page)
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"<h1>Welcome</h1>" in body
        address = re.findall(r"curl -i (http://[^/]+)/catalogue", running.said)[0]
    finally:
        code = running.stop(signal.SIGINT)
    assert code in (0, 130)
    assert get(address)[0] == 0, "nothing stays behind"


def test_locust(tmp_path: Path) -> None:
    # Never imported here: locust patches sockets and threads of whoever imports it.
    done = subprocess.run(
        [sys.executable, str(ROOT / "loadtests" / "run.py"), "-u", "10", "-r", "10", "-t", "5s"],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Aggregated\s+\d{2,}\s+0\(0\.00%\)", done.stdout + done.stderr)
