"""wrk: what it is asked, and what it answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.bench.processes import on_core, program

_SCRIPT: Final = Path(__file__).with_name("rotate.lua")
_MARK: Final = "RESULT "


class LoadFailed(Exception):
    """Not every request was answered as it should; a timing of failures is worth nothing.

    `unexpected` of `requests` were not; a run without a result counts as one.
    """

    def __init__(self, why: str, requests: int = 0, unexpected: int = 1) -> None:
        super().__init__(why)
        self.requests = requests
        self.unexpected = unexpected


@dataclass(frozen=True, slots=True)
class Load:
    """What one run measured at the caller; microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    received: int  # bytes, heads included

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def parse(output: str) -> Load:
    """Raises LoadFailed on any error or status from 400 on, and where nothing was answered."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            found = json.loads(line.removeprefix(_MARK))
            break
    else:
        raise LoadFailed(f"wrk said no result:\n{output[-2000:]}")
    kinds = ("connect", "read", "write", "timeout", "status")
    failed = {kind: found[kind] for kind in kinds if found[kind]}
    if failed:
        what = ", ".join(f"{count} {kind} errors" for kind, count in failed.items())
        raise LoadFailed(
            f"{what} in {found['requests']} requests", found["requests"], sum(failed.values())
        )
    if not found["requests"]:
        raise LoadFailed("no request was answered")
    return Load(
        found["requests"], found["duration_us"] / 1e6, float(found["p50_us"]),
        float(found["p99_us"]), found["bytes"],
    )  # fmt: skip


def write_requests(file: Path, requests: Sequence[tuple[str, str]]) -> Path:
    """(path, token) pairs for `run`."""
    file.write_text("".join(f"{path} {token}\n" for path, token in requests))
    return file


def run(
    port: int, requests: Path, connections: int, seconds: float, core: int | None,
    pause: int | None = None,
) -> Load:  # fmt: skip
    """Raises LoadFailed. `pause` is milliseconds before each request of a connection."""
    paused = [] if pause is None else [str(pause)]
    wrk = program("wrk")
    if wrk is None:
        raise LoadFailed("wrk is not installed")
    with on_core(core):
        finished = subprocess.run(
            [
                wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s",
                "-s", str(_SCRIPT), f"http://127.0.0.1:{port}", "--", str(requests), *paused,
            ],
            capture_output=True, text=True, check=False, timeout=seconds + 60,
        )  # fmt: skip
    if finished.returncode:
        raise LoadFailed(f"wrk ended with {finished.returncode}: {finished.stderr[-2000:]}")
    return parse(finished.stdout)
