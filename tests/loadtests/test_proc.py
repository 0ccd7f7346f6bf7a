"""/proc is read right, names with spaces and parentheses included."""

from __future__ import annotations

import os
import time

from loadtests.bench.proc import (
    Memory,
    Stat,
    descendants,
    memory,
    parse_rollup,
    parse_stat,
    processor_seconds,
)

STAT = "17 (a (b) c) S 3 17 17 0 -1 4194560 1 2 3 4 100 20 7 3 20 0 1 0 99 1000 50 184467"


def test_stat() -> None:
    assert parse_stat(STAT) == Stat(17, 3, 130)


def test_descendants() -> None:
    stats = [Stat(2, 1, 0), Stat(3, 2, 0), Stat(4, 3, 0), Stat(5, 1, 0), Stat(1, 0, 0)]
    assert descendants(2, stats) == {2, 3, 4}


def test_rollup() -> None:
    text = "5561-7ffd ---p 00000000 00:00 0    [rollup]\nRss:    2048 kB\nPss:     512 kB\n"
    assert parse_rollup(text) == {"Rss": 2 << 20, "Pss": 512 << 10}


def test_footprint_counts_what_a_tree_shares_once() -> None:
    assert Memory(rss=100, pss=60, processes=1).footprint == 100
    assert Memory(rss=100, pss=60, processes=2).footprint == 60


def test_this_process() -> None:
    before = processor_seconds(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert processor_seconds(os.getpid()) - before >= 0.03
    assert memory(os.getpid()).rss > 1 << 20
