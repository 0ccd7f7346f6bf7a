"""Rates as one time stamp a caller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.rates import Rate


def admitted(rate: Rate, moments: list[float]) -> list[bool]:
    due, found = 0.0, []
    for now in moments:
        fits = rate.wait(due, now) <= 0
        if fits:
            due = rate.after(due, now)
        found.append(fits)
    return found


def test_a_unit_at_once_and_then_one_by_one() -> None:
    rate = Rate.parse("2/s")
    assert admitted(rate, [10.0, 10.0, 10.0, 10.5, 10.5, 11.0]) == [
        True, True, False, True, False, True,
    ]  # fmt: skip


def test_several_units_at_once() -> None:
    assert sum(admitted(Rate.parse("100/s", units=20), [5.0] * 3000)) == 2000


def test_the_wait_is_exact() -> None:
    rate = Rate.parse("1/m")
    due = rate.after(0.0, 100.0)
    assert rate.wait(due, 130.0) == pytest.approx(30.0, rel=1e-5)
    assert rate.wait(due, 160.0) <= 0


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    rate = Rate.parse("1/m")
    due = rate.after(0.0, 10_000.0)
    assert rate.wait(due, 100.0) == 0.0
    assert rate.after(due, 100.0) == pytest.approx(160.0)


@pytest.mark.parametrize("text", ["", "0/s", "1", "/s", "1/w", "1.5/s", "-1/s", "1/s ", "\u0661/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        Rate.parse(text)


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(1, 5))
def test_no_second_admits_more_than_burst_and_rate(gaps: list[float], count: int) -> None:
    rate = Rate.parse(f"{count}/s")
    moments = [100 + sum(gaps[: n + 1]) for n in range(len(gaps))]
    kept = [now for now, fits in zip(moments, admitted(rate, moments), strict=True) if fits]
    for start in kept:
        assert sum(start <= now < start + 1 for now in kept) <= 2 * count
