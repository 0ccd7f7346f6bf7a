"""Records are written by a thread, and lost ones are counted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sidecar.errors import Misuse
from sidecar.telemetry.decision_log import RECENT, DecisionLog


def test_records_are_written_in_order(tmp_path: Path) -> None:
    log = DecisionLog(str(tmp_path / "log"))
    for number in range(1000):
        log.put({"n": number, "scopes": frozenset(("b", "a"))})
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(1000))
    assert json.loads(lines[0])["scopes"] == ["a", "b"]
    assert (log.written, log.dropped) == (1000, 0)
    assert os.stat(tmp_path / "log").st_mode & 0o777 == 0o600


def test_an_existing_log_is_continued(tmp_path: Path) -> None:
    for number in range(2):
        log = DecisionLog(str(tmp_path / "log"))
        log.put({"n": number})
        log.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_rotation(tmp_path: Path) -> None:
    log = DecisionLog(str(tmp_path / "log"))
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.reopen()
    log.put({"n": 1})
    log.close()
    assert '"n":1' in (tmp_path / "log").read_text() + (tmp_path / "log.1").read_text()


def test_a_reader_that_stalls_holds_nobody_up(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = DecisionLog(str(fifo), bound=5000)
    for number in range(5000):  # more than a pipe holds
        log.put({"n": number, "padding": "x" * 200})
    log.reopen()
    log.close(seconds=0.2)
    assert log.written + log.dropped <= 5000
    for number in range(6000):
        log.put({"n": number})
    assert log.dropped > 0
    os.close(reader)


def test_what_waits_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = DecisionLog(str(fifo), heaviest=1_000_000)
    for _ in range(100):
        log.put_line(b"x" * 100_000)
    assert log.dropped >= 100 - 2 * 10  # what is being written has left the queue
    os.close(reader)
    log.close(0)


def test_the_bound_counts_what_it_drops(tmp_path: Path) -> None:
    log = DecisionLog("off", bound=10)
    log.put({"n": 0})
    assert (log.written, log.dropped) == (0, 0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    held = DecisionLog(str(fifo), bound=10)
    os.close(reader)  # whatever is written now fails
    for number in range(100):
        held.put({"n": number})
    held.close()
    assert held.written == 0
    assert held.dropped == 100
    assert held.error


def test_recent_ones_are_kept_for_inspection() -> None:
    log = DecisionLog("off")
    for number in range(RECENT + 5):
        log.put({"n": number})
    assert [record["n"] for record in log.recent][:1] == [5]
    assert len(log.recent) == RECENT


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="name a file in a folder that exists"):
        DecisionLog(str(tmp_path / "no" / "log"))
