"""What becomes of output that nobody reads, that does not fit, or that its encoding cannot say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.cli import COMMANDS as COMMANDS_OF_SIDECAR
from sidecar.cli import run

COMMANDS = (["--version"], ["check", "--help"], ["check", "POLICIES"], ["schema"])


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    subprocess.run([sys.executable, "-m", "sidecar", "init", "--into", folder], check=True)
    return folder


def sidecar(
    argv: list[str], policies: Path, stdout: int, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    given = [str(policies) if each == "POLICIES" else each for each in argv]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *given], stdout=stdout, stderr=subprocess.PIPE,
        env={**environment, **variables}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("argv", COMMANDS)
def test_a_reader_that_has_gone(argv: list[str], policies: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = sidecar(argv, policies, write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("argv", COMMANDS)
def test_a_full_disk(argv: list[str], policies: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = sidecar(argv, policies, full.fileno())
    assert done.returncode == 1
    assert done.stderr == b"sidecar: the output cannot be written: No space left on device\n"


def test_an_encoding_that_cannot_say_it(policies: Path) -> None:
    argv = ["explain", "--policies", "POLICIES", "--request", "GET /"]
    done = sidecar(argv, policies, subprocess.PIPE, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u251c\\u2500 caller: anonymous" in done.stdout


@pytest.mark.parametrize("command", COMMANDS_OF_SIDECAR)
def test_every_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run([command, "--help"])
    example = capsys.readouterr().out.rpartition("example: ")[2]
    assert example.startswith(f"sidecar {command}"), example
    assert "%%" not in example
