"""What the image would hold, assembled and tried without a Docker engine.

`make image-check`: the wheel, installed with the pinned versions into a clean environment and
slimmed as the Dockerfile does it; then run as another user on a tree that nobody can write. Checks
that it answers, how soon it is ready, how large it is, and writes the bill of materials (CycloneDX)
to build/image/sbom.json. Exit 1 where a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "image"
UID: Final = 65532
MIB: Final = 1024 * 1024
# As registries keep it, compressed. The base (python:3.11-slim with iptables) is reckoned, since it
# is not at hand here: 45 MiB of it by its manifest, and 3 MiB for what is added.
BASE: Final = 48 * MIB
BUDGET: Final = 180 * MIB
BILL: Final = "cyclonedx-bom==7.5.0"
READY: Final = 1.0  # seconds from the start of the process
STARTS: Final = 5  # the median counts
POLICY: Final = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec: {rules: [{name: health, auth: none, match: {paths: [/health]}}]}
"""


def call(*command: str | Path) -> None:
    subprocess.run([str(each) for each in command], check=True)


def assemble(prefix: Path) -> None:
    """The environment as the image has it."""
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    quiet = ("--quiet", "--disable-pip-version-check")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        source.mkdir()
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        shutil.copytree(
            ROOT / "sidecar", source / "sidecar",
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )  # fmt: skip
        call(sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "-w", BUILD, source)
    [wheel] = BUILD.glob("*.whl")
    call(sys.executable, "-m", "venv", prefix)
    pip = prefix / "bin" / "pip"
    call(pip, "install", *quiet, "-c", ROOT / "constraints.txt", wheel)
    bill(prefix)
    call(pip, "uninstall", *quiet, "-y", "pip", "setuptools")
    call("sh", ROOT / "deploy" / "image" / "slim.sh", prefix)


def bill(prefix: Path) -> None:
    """The bill of materials of what was installed, by cyclonedx-py."""
    tools = BUILD / "tools"  # of its own: it brings twenty packages along
    call(sys.executable, "-m", "venv", tools)
    call(tools / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", BILL)
    call(
        tools / "bin" / "cyclonedx-py", "environment", prefix / "bin" / "python",
        "--output-format", "JSON", "--output-reproducible", "-o", BUILD / "sbom.json",
    )  # fmt: skip
    found = json.loads((BUILD / "sbom.json").read_text())
    names = {component["name"].lower() for component in found["components"]}
    assert {"edge-authz-sidecar", "grpcio", "cryptography"} <= names, names


def size(prefix: Path) -> tuple[int, int]:
    """Bytes on disk, and compressed."""
    held = sum(file.lstat().st_size for file in prefix.rglob("*") if not file.is_dir())
    archive = BUILD / "content.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as packed:
        packed.add(prefix, "opt/sidecar")
    compressed = archive.stat().st_size
    archive.unlink()
    return held, compressed


def as_nobody(prefix: Path, *command: str) -> list[str]:
    """A command as the image's user on a tree that it cannot write: mounted read-only where this is
    root, and by its modes elsewhere."""
    if os.geteuid():
        return list(command)
    at = f'"{prefix}"'
    mount = f'mount --bind {at} {at} && mount -o remount,bind,ro {at} && exec "$@"'
    drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs",
            "--inh-caps=-all", "--bounding-set=-all"]  # fmt: skip
    return ["unshare", "--mount", "sh", "-c", mount, "sh", *drop, *command]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def running(prefix: Path, folder: Path) -> Iterator[tuple[str, str, float]]:
    """A sidecar as a container would run it: its addresses, and after how long it was ready."""
    listen, health = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = as_nobody(
        prefix, str(prefix / "bin" / "sidecar"), "run", "--upstream", "http://127.0.0.1:9",
        "--policies", str(folder / "policies"), "--listen", listen, "--health", health,
        "--admin", f"127.0.0.1:{free_port()}", "--decision-log", "off",
    )  # fmt: skip
    environment = {
        "PATH": f"{prefix}/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, cwd="/")
    try:
        while status(f"http://{health}/readyz") != 200:
            if process.poll() is not None or time.monotonic() - started > 30:
                raise SystemExit(f"the sidecar did not become ready (exit {process.poll()})")
            time.sleep(0.005)
        yield listen, health, time.monotonic() - started
    finally:
        process.terminate()
        if process.wait(30) != 0:
            raise SystemExit(f"the sidecar ended with {process.returncode}")


def writable(prefix: Path) -> bool:
    """Whether the image's user could change what it runs."""
    probe = f'touch "{prefix}/bin/x" 2>/dev/null || touch "{prefix}"/lib/python3*/site-packages/x'
    done = subprocess.run(as_nobody(prefix, "sh", "-c", probe), capture_output=True, check=False)
    return done.returncode == 0


def check(prefix: Path, folder: Path) -> bool:
    """Says each finding; whether all are as they should be."""
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(POLICY)
    state = folder / "state"
    state.mkdir()
    if os.geteuid() == 0:
        os.chown(state, UID, UID)
    fine = True

    def say(passed: bool, what: str) -> None:
        nonlocal fine
        fine = fine and passed
        print(f"{'PASS' if passed else 'FAIL'}  {what}")

    held, compressed = size(prefix)
    whole = BASE + compressed
    say(
        whole <= BUDGET,
        f"size: about {whole / MIB:.0f} MiB compressed with its base ({BUDGET // MIB} may be); "
        f"of these ours are {compressed / MIB:.0f}, unpacked {held / MIB:.0f}",
    )
    say(not writable(prefix), "nothing that it runs can be written by its user")
    for command in ("--version", "control-plane --help", "inject --help", "redirect --help"):
        done = subprocess.run(
            as_nobody(prefix, str(prefix / "bin" / "sidecar"), *command.split()),
            capture_output=True, check=False,
        )  # fmt: skip
        say(done.returncode == 0 and not done.stderr, f"sidecar {command}")
    taken = []
    for _ in range(STARTS):
        with running(prefix, folder) as (listen, _, ready):
            taken.append(ready)
            answers = [status(f"http://{listen}{path}") for path in ("/health", "/other")]
    decided = answers == [502, 401]  # there is no upstream; and nobody called
    say(decided, f"it decides: /health {answers[0]}, /other {answers[1]}")
    middle = sorted(taken)[STARTS // 2] * 1000
    say(middle <= READY * 1000, f"ready {middle:.0f} ms after the start ({READY:g} s may be)")
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        prefix = path / "opt"
        assemble(prefix)
        fine = check(prefix, path)
    print(f"bill of materials: {(BUILD / 'sbom.json').relative_to(ROOT)}; user {_user()}")
    return 0 if fine else 1


def _user() -> str:
    return str(UID) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


if __name__ == "__main__":
    sys.exit(main())
