"""Real processes on free loopback ports, started and stopped by the tests that need them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.world import free_ports

READY = 30.0  # seconds until a process must be ready
_EVERY = 0.02


def program(name: str) -> str:
    """The path of a program, or a skip that says which is missing; never a skip in CI."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; tests/programs.sh installs it")
    pytest.skip(f"{name} is not installed")


def until(condition: Callable[[], Any], what: str, seconds: float = READY) -> Any:
    """The condition's value once it is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(_EVERY)  # between two looks, never instead of one
    pytest.fail(f"not within {seconds:g} s: {what}")


def get(
    url: str,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    **more: Any,
) -> tuple[int, Any, bytes]:
    """Status, headers, body; 0 where nobody answers."""
    request = urllib.request.Request(url, headers=headers or {}, **more)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()
    except (urllib.error.URLError, ConnectionError):
        return 0, {}, b""


class Running:
    """A process with what it said. Stopped by pid."""

    def __init__(self, arguments: list[str], folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "HOME": str(folder)},
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def resident(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found.group(1)) * 1024

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=30)


class Sidecar(Running):
    """`sidecar run`, ready."""

    def __init__(self, folder: Path, upstream: str, *arguments: str, name: str = "run") -> None:
        self.port, self.health_port, self.admin_port = free_ports(3)
        self.decisions = folder / f"{name}.decisions"
        super().__init__(
            [
                sys.executable, "-m", "sidecar", "run", "--upstream", upstream,
                "--listen", f"127.0.0.1:{self.port}", "--health", f"127.0.0.1:{self.health_port}",
                "--admin", f"127.0.0.1:{self.admin_port}", "--decision-log", str(self.decisions),
                *arguments,
            ],
            folder, name,
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"
        self.health = f"http://127.0.0.1:{self.health_port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"

    def ready(self) -> Sidecar:
        def ready() -> bool:
            assert self.process.poll() is None, self.said
            return get(f"{self.health}/readyz")[0] == 200

        until(ready, f"ready: {self.said}")
        return self

    def metric(self, line: str) -> float:
        """The value of the sample whose name and labels are `line`; 0 where there is none."""
        page = get(f"{self.health}/metrics")[2].decode()
        for sample in page.splitlines():
            if sample.startswith(f"{line} "):
                return float(sample.split()[-1])
        return 0.0


@contextmanager
def nginx(folder: Path, *also: str, more: str = "") -> Iterator[str]:
    """nginx that keeps what is PUT below /files and serves it; yields its address.

    It listens as well at what is in `also`: directives such as `listen unix:/a.sock;`. `more` is
    further configuration, servers for one.
    """
    [port] = free_ports(1)
    root = folder / "nginx"
    (root / "www" / "files").mkdir(parents=True)
    (root / "www" / "index.html").write_text("hello from nginx\n")
    config = root / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {root}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = "".join(
        f"server {{ {listen} root {root}/www;"
        " location /files/ { dav_methods PUT DELETE; create_full_put_path on; } }\n"
        for listen in (f"listen 127.0.0.1:{port};", *also)
    )
    user = "user root;" if os.getuid() == 0 else ""
    config.write_text(
        f"""daemon off; worker_processes 1; {user} pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{ access_log {root}/access.log; client_max_body_size 0; {temporary}
  {servers} {more} }}
"""
    )
    running = Running([program("nginx"), "-p", str(root), "-c", str(config)], root, "nginx")
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: get(address)[0] == 200, f"nginx: {running.said}")
        yield address
    finally:
        running.stop()


def sidecar(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A `sidecar` command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        capture_output=True, text=True, timeout=60, check=False, **more,
    )  # fmt: skip
