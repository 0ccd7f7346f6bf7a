"""Offers to pause, and letting go with them."""

from __future__ import annotations

from sidecar.decide.pace import PAUSE, let_go, pause


def test_an_offer_goes_to_whoever_accepts_it() -> None:
    pause()
    accepted: list[int] = []
    before = PAUSE.set(lambda: accepted.append(1))
    try:
        pause()
        pause()
    finally:
        PAUSE.reset(before)
    pause()
    assert accepted == [1, 1]


def test_things_go_one_by_one_from_the_end() -> None:
    held = ["a", "b", "c"]
    seen: list[list[str]] = []
    before = PAUSE.set(lambda: seen.append(held.copy()))
    try:
        let_go(held)
    finally:
        PAUSE.reset(before)
    assert seen == [["a", "b", "c"], ["a", "b"], ["a"]]
    assert held == []
