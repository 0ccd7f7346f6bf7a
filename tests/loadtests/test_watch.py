"""Flat memory passes; a leak or a late jump does not."""

from __future__ import annotations

import pytest

from loadtests.soak.watch import Reading, judge

MIB = 1 << 20


def readings(sizes: list[float]) -> list[Reading]:
    return [Reading(5.0 * n, int(size * MIB), 20) for n, size in enumerate(sizes)]


def test_a_warm_up_and_then_flat() -> None:
    flatness = judge(readings([60, 80, 99, 100, 100.5, 100, 100, 100.5, 100]))
    assert flatness.flat
    assert flatness.second == 100 * MIB


def test_a_leak() -> None:
    flatness = judge(readings([100 + n for n in range(30)]))
    assert not flatness.flat
    assert flatness.growth == pytest.approx(0.0873, abs=0.001)
    assert flatness.fitted == pytest.approx(0.1659, abs=0.001)


def test_memory_given_back_is_no_growth() -> None:
    assert judge(readings([100, 100, 100, 100, 90, 90])).flat


def test_too_few() -> None:
    with pytest.raises(ValueError, match="run for longer"):
        judge(readings([100] * 5))
