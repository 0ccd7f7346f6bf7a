"""`sidecar replay`: any file, any size, thresholds for CI."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import run
from tests.decide.test_replay import HEAD, X, record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "same.yaml").write_text(HEAD + f"  - {{{X}}}\n")
    (tmp_path / "strict.yaml").write_text(HEAD + f"  - {{{X}, require: {{scopes: [x]}}}}\n")
    records = [
        record(decision_id=f"d{n}", subject=f"c{n % 7}", input={"scopes": ["x"] if n % 10 else []})
        for n in range(100)
    ]
    (tmp_path / "log").write_text("".join(json.dumps(each) + "\n" for each in records))
    return tmp_path


def replay(folder: Path, policies: str, *flags: str, log: str = "log") -> int:
    path = log if log == "-" else str(folder / log)
    return run(["replay", path, "--policies", str(folder / policies), *flags])


def test_the_same_policies_change_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(folder, "same.yaml") == 0
    said = capsys.readouterr()
    assert "100 decided again, 100 unchanged" in said.out
    assert said.err == ""


def test_stricter_ones_are_held_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(folder, "strict.yaml", "--samples", "1") == 1
    said = capsys.readouterr()
    assert "10 newly refused (10 %), 7 subjects" in said.out
    assert "newly refused: permitted by default/p/x -> scope_missing by default/p/x" in said.out
    assert "d0  2027-01-15T08:00:00Z  GET /x/7  c0" in said.out
    assert "newly refused: GET /x/{id}: 10 decisions, 7 subjects" in said.out
    assert "10 of 100 decisions turn; --threshold 0" in said.err


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--threshold", "10"], 0),
        (["--threshold", "9"], 1),
        (["--threshold", "10%"], 0),
        (["--threshold", "9.9%"], 1),
        (["--threshold", "50%", "--max-newly-refused", "9"], 1),
        (["--threshold", "50%", "--max-newly-refused", "10%"], 0),
        (["--threshold", "50%", "--max-lacked", "0"], 0),
    ],
)
def test_thresholds(folder: Path, flags: list[str], code: int) -> None:
    assert replay(folder, "strict.yaml", *flags) == code


def test_nothing_of_a_log_reaches_the_terminal_as_a_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\n"
    odd = record(
        decision_id=evil, method=f"GET{evil}", rule=evil, subject=evil, input={"scopes": []}
    )
    (folder / "odd").write_text(json.dumps(odd) + "\n")
    replay(folder, "strict.yaml", log="odd")
    said = capsys.readouterr()
    assert "newly refused: permitted by" in said.out
    assert "\x1b" not in said.out + said.err


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(folder, "strict.yaml", "--output", "json") == 1
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (report["decided"], report["newlyRefused"], report["share"]) == (100, 10, 0.1)
    assert report["exceeded"] == ["10 of 100 decisions turn; --threshold 0"]
    assert len(report["byRule"][0]["samples"]) == 5


def test_what_lacks_is_no_change(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "reads.yaml").write_text(HEAD + f"  - {{{X}, when: has(token.tier)}}\n")
    assert replay(folder, "reads.yaml", "--max-lacked", "50%") == 1
    said = capsys.readouterr()
    assert "token.tier: 100" in said.out
    assert "no record could be decided" in said.err
    assert "100 of 100 records lack what the new rules read" in said.err


def test_torn_foreign_and_packed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "log").read_bytes()
    odd = b"starting up\n\n" + text + b"x" * 3_000_000 + b"\n" + text[:50]
    (folder / "odd.gz").write_bytes(gzip.compress(odd))
    assert replay(folder, "same.yaml", log="odd.gz") == 0
    assert "3 lines are no records" in capsys.readouterr().out
    packed = gzip.compress(text)
    (folder / "cut").write_bytes(packed[: len(packed) // 2])
    assert replay(folder, "same.yaml", log="cut") == 0
    out = capsys.readouterr().out
    assert "damaged: " in out
    assert "decided again" in out


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pack: Callable[[bytes], bytes],
) -> None:
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(pack((folder / "log").read_bytes())))

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert replay(folder, "same.yaml", log="-") == 0
    assert "100 decided again" in capsys.readouterr().out


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe(
    folder: Path, capsys: pytest.CaptureFixture[str], pack: Callable[[bytes], bytes]
) -> None:
    """As `<(zcat decisions.log.*.gz)` gives it."""
    os.mkfifo(folder / "pipe")
    data = pack((folder / "log").read_bytes())
    writer = threading.Thread(target=(folder / "pipe").write_bytes, args=(data,))
    writer.start()
    assert replay(folder, "same.yaml", log="pipe") == 0
    writer.join()
    assert "100 decided again" in capsys.readouterr().out


def test_nothing_is_no_proof(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").write_text("")
    assert replay(folder, "same.yaml", log="empty") == 1
    assert "the log holds no records" in capsys.readouterr().err


def test_misuse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(folder, "same.yaml", log="nowhere") == 2
    assert "no such file" in capsys.readouterr().err
    assert replay(folder, "same.yaml", log=".") == 2
    assert "a folder; name decision logs" in capsys.readouterr().err
    for flags in (["--threshold", "x"], ["--threshold", "101%"], ["--samples", "-1"]):
        with pytest.raises(SystemExit) as misuse:
            replay(folder, "same.yaml", *flags)
        assert misuse.value.code == 2


def test_memory_does_not_grow_with_the_log(folder: Path) -> None:
    """Ten times as long a log takes no more than a mebibyte more."""
    import tracemalloc

    from sidecar.decide.replay import Replay
    from tests.decide.test_replay import policies

    held = policies(f"{X}, require: {{scopes: [x]}}")
    peaks = []
    for count in (2_000, 20_000):
        found = Replay(held)
        tracemalloc.start()
        for n in range(count):
            found.take(json.dumps(record(subject=f"c{n}", path=f"/x/{n}")).encode())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.changed == count
    assert peaks[1] < peaks[0] + 4 * 1024 * 1024
