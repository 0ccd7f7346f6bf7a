"""Programs started on a core of their own, awaited until they answer, and stopped by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtests.bench.proc import tree

_READY: Final = 90.0  # seconds; 10,000 rules take a while to compile
_STOP: Final = 15.0


class DidNotStart(Exception):
    """Its message has what the program said."""


class Running:
    """A started program."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def ready(self, answers: Callable[[], bool]) -> None:
        """Raises DidNotStart."""
        end = time.monotonic() + _READY
        while not answers():
            if self._process.poll() is not None:
                code = self._process.returncode
                raise DidNotStart(f"{self.name} ended with {code}:\n{self.said}")
            if time.monotonic() > end:
                raise DidNotStart(f"{self.name} is not ready after {_READY:g} s:\n{self.said}")
            time.sleep(0.02)

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM; what has not ended in time is killed, with what it started."""
        pids = tree(self.pid)
        if self.alive():
            self._process.terminate()
            try:
                self._process.wait(_STOP)
            except subprocess.TimeoutExpired:
                for pid in pids:
                    kill(pid)
        self._process.wait()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def running(
    name: str, arguments: Sequence[str], folder: Path, core: int | None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:  # fmt: skip
    """Start a program, with its output in `folder`; stopped when left, however that is."""
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output, on_core(core):
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            # Not the terminal's Ctrl-C, which would end it while it is being measured.
            start_new_session=True, cwd=folder, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    started = Running(name, process, log)
    try:
        yield started
    finally:
        started.stop()


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started inside inherits the core. Threads of ours that run already do not move."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> tuple[int | None, int | None]:
    """(of the proxy under test, of the load and the upstream); (None, None) on a single core."""
    found = sorted(os.sched_getaffinity(0))
    return (found[0], found[-1]) if len(found) > 1 else (None, None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str | None:
    """Its path, where it is installed."""
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/sbin"]:
        path = Path(folder) / name
        if folder and os.access(path, os.X_OK) and path.is_file():
            return str(path)
    return None
