"""When everything is looked at: in a pause, or after too long without one."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from sidecar.facts.beside import beside
from sidecar.plane import garbage
from sidecar.plane.garbage import FROZEN, LONGEST, MANY, QUIET, SHARE, YOUNG, Garbage, settle


@pytest.fixture
def full() -> Iterator[list[int]]:
    """The generations of the collections that happen, oldest first; without automatic ones."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.disable()
    gc.callbacks.append(note)
    try:
        yield seen
    finally:
        gc.callbacks.remove(note)
        gc.enable()


def _age() -> None:
    """As many collections of the middle generation as make a full one due."""
    for _ in range(YOUNG):
        gc.collect(1)


def test_nothing_is_collected_before_it_is_due(full: list[int]) -> None:
    gc.collect()
    full.clear()
    Garbage(lambda: False).sweep(0.0)
    assert full == []


def test_what_is_due_waits_for_a_pause(full: list[int]) -> None:
    busy = [True]
    sweeper = Garbage(lambda: busy[0])
    gc.collect()
    sweeper.sweep(0.0)
    _age()
    full.clear()
    sweeper.sweep(1.0)
    sweeper.sweep(LONGEST)
    assert full == []
    busy[0] = False
    sweeper.sweep(LONGEST + 0.5)
    sweeper.sweep(LONGEST + 1)
    assert full == [2]


def test_but_not_for_ever(full: list[int]) -> None:
    sweeper = Garbage(lambda: True)
    gc.collect()
    _age()
    full.clear()
    for now in (0.0, 1.0, LONGEST - 1):
        sweeper.sweep(now)
    assert full == []
    sweeper.sweep(LONGEST)
    assert full == [2]


def test_nor_while_much_is_left_behind(full: list[int]) -> None:
    sweeper = Garbage(lambda: True)
    gc.collect()
    for _ in range(MANY // YOUNG):
        full.clear()
        sweeper.sweep(1.0)
        assert full == []
        _age()
    full.clear()
    sweeper.sweep(1.0)
    assert full == [2]


def test_what_takes_long_is_not_done_often(full: list[int]) -> None:
    moments = iter((0.0, 0.5, 1.0, 1.0))
    sweeper = Garbage(lambda: False, clock=lambda: next(moments))
    _age()
    full.clear()
    sweeper.sweep(10.0)
    assert full == [2]
    _age()
    full.clear()
    sweeper.sweep(10.0 + 0.5 / SHARE - 1)
    assert full == []
    sweeper.sweep(10.0 + 0.5 / SHARE)
    assert full == [2]


def test_settling_leaves_full_collections_to_the_sweeper(full: list[int]) -> None:
    before = gc.get_threshold()
    try:
        settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 1000 * garbage.YOUNG
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_what_was_frozen_is_looked_through_seldom_and_in_silence(
    full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = [True]
    sweeper = Garbage(lambda: busy[0])
    gc.collect()
    full.clear()
    monkeypatch.setattr(beside, "frozen", beside.frozen + FROZEN - 1)
    busy[0] = False
    for tick in range(2 * QUIET):
        sweeper.sweep(float(tick))
    assert full == []  # not often enough
    monkeypatch.setattr(beside, "frozen", beside.frozen + 1)
    busy[0] = True
    sweeper.sweep(20.0)
    busy[0] = False
    for tick in range(QUIET - 1):
        sweeper.sweep(21.0 + tick)
    assert full == []  # not quiet for long enough
    try:
        sweeper.sweep(30.0)
        assert full == [2]
        sweeper.sweep(31.0)
        assert full == [2]
    finally:
        gc.unfreeze()


def test_nothing_is_collected_while_work_goes_on_beside(
    full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Garbage(lambda: False)
    _age()
    full.clear()
    monkeypatch.setattr(beside, "working", 1)
    sweeper.sweep(1.0)
    assert full == []
    monkeypatch.setattr(beside, "working", 0)
    sweeper.sweep(2.0)
    assert full == [2]
