"""A real control plane in a process of its own, to be killed, ended and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.facts.signing import TrustedKeys, load_public_keys

ROOT = Path(__file__).parents[2]
READY = 60.0  # seconds; a busy machine takes some to import what it needs
SERVE = """
import asyncio, signal, sys
from sidecar.control.server import ControlPlane

async def serve():
    plane = ControlPlane()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    bound = await plane.start("127.0.0.1:0", None, sys.argv[1])
    print(bound.grpc, flush=True)
    await ended.wait()
    await plane.stop()

asyncio.run(serve())
"""


class Plane:
    """A control plane on the store of `url`. `prefix` is what it is started by, such as a program
    that gives it a file system of its own."""

    def __init__(self, url: str, prefix: Sequence[str] = ()) -> None:
        self.url = url
        self.address = ""
        self.process: subprocess.Popen[str] | None = None
        self._prefix = list(prefix)

    def start(self) -> str:
        """Starts it and waits until it listens: its address. Blocks."""
        assert self.process is None
        self.process = subprocess.Popen(
            [*self._prefix, sys.executable, "-c", SERVE, self.url],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise AssertionError(f"no control plane: it ended with {self._ended()}")
        return self.address

    async def started(self) -> str:
        """The same beside everything else."""
        async with asyncio.timeout(READY):
            return await asyncio.to_thread(self.start)

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM: it finishes what it is doing."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self._ended()

    def _ended(self) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        code = process.wait(READY)
        if process.stdout is not None:
            process.stdout.close()
        return code


@contextmanager
def plane(url: str, prefix: Sequence[str] = ()) -> Iterator[Plane]:
    """One that is started, and gone at the end."""
    made = Plane(url, prefix)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def trust_of(store: Path) -> TrustedKeys:
    """The keys that an SQLite store's releases are signed with, as operators hand them out."""
    return TrustedKeys(load_public_keys(Path(f"{store}.trust.pem").read_bytes()))


# --- small disks ---------------------------------------------------------------------------------


class SmallDisk:
    """A file system of a few kilobytes in a mount namespace of its own. Everybody reaches it by
    `path`; who has to resolve paths, as SQLite does, is started by `prefix` and uses `inside`."""

    def __init__(self, holder: int, inside: Path) -> None:
        self.inside = inside
        self.path = Path(f"/proc/{holder}/root{inside}")
        self.prefix = (
            "nsenter", f"--target={holder}", "--mount",
            *(() if os.geteuid() == 0 else ("--user", "--preserve-credentials")),
        )  # fmt: skip

    def fill(self, left: int = 0) -> None:
        """So many bytes are left, a page more or less."""
        ballast = self.path / "ballast"
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 65536):  # at the end it writes what fits
                pass
        if left:
            os.truncate(ballast, max(0, ballast.stat().st_size - left))

    def free(self) -> None:
        """What filled it is gone."""
        (self.path / "ballast").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """One of `size` (`256k`) at `folder`; skips where none can be made, never in CI."""
    folder.mkdir(parents=True, exist_ok=True)
    script = f"mount -t tmpfs -o size={size},mode=0755 none {folder} && echo ready && exec cat"
    holder = subprocess.Popen(
        ["unshare", *(() if os.geteuid() == 0 else ("-r",)), "-m", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline().strip() != "ready":
            why = f"no small file system can be made here: {holder.stderr.read().strip()}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        yield SmallDisk(holder.pid, folder)
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.stderr.close()
        holder.wait(10)
