"""What becomes of output that nobody reads, that does not fit, or that its encoding cannot say."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    "argv",
    [
        ["explain", "--policies", "P", "--request", "GET /"],
        ["replay", "L", "--policies", "P"],
        ["test", "C", "--policies", "P"],
        ["why", "x", "--log", "L", "--policies", "P"],
    ],
)
def test_mistakes_in_documents_are_json_too(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "P").write_text("kind: X\n---\nkind: Y\n")
    (tmp_path / "C").write_text("cases: [{name: x, expect: {permit: true}}]")
    given = {"time": 1, "method": "GET", "host": "h", "path": "/", "outcome": "permit"}
    (tmp_path / "L").write_text(json.dumps({**given, "decision_id": "x"}))
    named = [str(tmp_path / each) if each in ("P", "C", "L") else each for each in argv]
    assert run([*named, "--output", "json"]) == 1
    said = capsys.readouterr()
    problems = json.loads(said.out)["problems"]
    assert [each["severity"] for each in problems] == ["error"] * len(problems)
    assert [each["line"] for each in problems] == sorted(each["line"] for each in problems)
    assert "unknown kind 'X'" in said.err


def test_an_empty_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["check", ""], ["explain", "--policies", "", "--request", "GET /"]):
        with pytest.raises(SystemExit) as misuse:
            run(argv)
        assert misuse.value.code == 2
        assert "the path is empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS_OF_SIDECAR)
def test_an_unknown_flag_is_told_with_the_usage_of_its_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {
        "check": ["x"], "test": ["x"], "why": ["x"], "explain": ["--case", "x"],
        "replay": ["x", "--policies", "."], "apply": ["-f", "x"], "revoke": ["--list"],
            "subject": ["show", "x"], "rollback": ["x"],
            "journey": ["preview", "--policies", ".", "--request", "GET /"],
    }  # fmt: skip
    with pytest.raises(SystemExit) as misuse:
        run([command, *needed.get(command, []), "--no-such-flag"])
    assert misuse.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: sidecar {command}")
    assert "unrecognized arguments: --no-such-flag" in said


def test_an_unknown_flag_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as misuse:
        run(["--no-such-flag"])
    assert misuse.value.code == 2
    assert "unrecognized arguments: --no-such-flag" in capsys.readouterr().err


def test_ctrl_c_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert run(["check", "x"]) == 130
