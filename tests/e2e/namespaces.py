"""Two network namespaces joined by a cable: a client's and a pod's. Needs root."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.processes import Running, program

ROOT = Path(__file__).parent.parent.parent
USER = 65532
CLIENT = ("10.213.7.1", "fd00:213:7::1")
POD = ("10.213.7.2", "fd00:213:7::2")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


def required() -> None:
    """Skip where namespaces cannot be made; never in CI."""
    program("iptables")
    made = subprocess.run([program("unshare"), "--net", "true"], capture_output=True, text=True)
    if made.returncode:
        why = f"no network namespaces can be made here: {made.stderr}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)


def ip(*arguments: str) -> None:
    done = subprocess.run([program("ip"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


class Namespace:
    """One of the two."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def command(self, *arguments: str, user: int | None = None) -> list[str]:
        """In here; as `user`, who may do nothing but read what the tests are made of."""
        entered = [program("ip"), "netns", "exec", self.name]
        if user is not None:
            entered += [
                program("setpriv"), f"--reuid={user}", f"--regid={user}", "--clear-groups",
                "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
                "--bounding-set=-all,+dac_read_search", "--no-new-privs",
            ]  # fmt: skip
        return [*entered, *arguments]

    def run(
        self, *arguments: str, user: int | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            self.command(*arguments, user=user),
            capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
            env={**os.environ, **(env or {})},
        )  # fmt: skip

    def sidecar(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A `sidecar` command as root, as the init step is."""
        return self.run(sys.executable, "-m", "sidecar", *arguments, env=env)

    def start(self, name: str, *arguments: str, user: int | None = None) -> Running:
        """A process that stays."""
        return Running(self.command(*arguments, user=user), self.folder, name)

    def rules(self) -> str:
        """What is set, without counters and dates, in both families."""
        found = []
        for program_ in ("iptables-save", "ip6tables-save"):
            lines = self.run(program_).stdout.splitlines()
            found += [line.partition(" [")[0] for line in lines if not line.startswith("#")]
        return "\n".join(found)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are of this namespace, and stay so."""
        libc = ctypes.CDLL(None, use_errno=True)
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            assert libc.setns(there, _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(own, _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
        finally:
            os.close(own)
            os.close(there)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection from here. Raises OSError."""
        with self.inside():
            return socket.create_connection((host, port), timeout=20)


@contextmanager
def joined() -> Iterator[tuple[Namespace, Namespace]]:
    """The client's and the pod's, gone at the end with everything in them."""
    required()
    mark = uuid.uuid4().hex[:6]
    folder = Path(tempfile.mkdtemp(prefix="sidecar-redirect-"))
    folder.chmod(0o755)  # also for who is not root
    client, pod = (Namespace(f"sidecar-{mark}-{name}", folder) for name in ("client", "pod"))
    try:
        for each in (client, pod):
            ip("netns", "add", each.name)
            ip("-n", each.name, "link", "set", "lo", "up")
        ip(
            "-n", client.name, "link", "add", "eth0", "type", "veth",
            "peer", "name", "eth0", "netns", pod.name,
        )  # fmt: skip
        for each, (four, six) in ((client, CLIENT), (pod, POD)):
            ip("-n", each.name, "address", "add", f"{four}/24", "dev", "eth0")
            ip("-n", each.name, "address", "add", f"{six}/64", "dev", "eth0", "nodad")
            ip("-n", each.name, "link", "set", "eth0", "up")
        yield client, pod
    finally:
        for each in (client, pod):
            if Path(f"/run/netns/{each.name}").exists():
                ip("netns", "delete", each.name)
        shutil.rmtree(folder)
