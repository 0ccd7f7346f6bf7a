"""The load test of the control plane runs, and says what it measured; how much that is, is for who
runs it on a quiet machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_small_fleet() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.fleet", "--streams", "20", "--idle", "40", "--rounds",
         "3", "--applies", "60", "--seconds", "0.6", "--watch", "0.1"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1), said
    assert "60 pushes of 3 releases to 20 streams: p50" in said
    burst = re.search(r"60 applies in .*; ([0-9.]+) snapshots to each of 20 streams", said)
    assert burst, said
    assert float(burst[1]) < 20
    storms = re.findall(r"streams refused: (.*); requests to a real sidecar meanwhile: (.*)", said)
    assert [refused for refused, _ in storms] == ["none", "none"], said
    assert all(re.fullmatch(r"\{200: [0-9]+\}", asked) for _, asked in storms), said
    assert "idle: 40 streams" in said
