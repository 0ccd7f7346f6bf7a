"""Ratios are taken round by round, and a budget without a peer is not judged."""

from __future__ import annotations

import pytest

from loadtests.bench.budgets import Verdict, cpu, median, p99, ratio
from loadtests.bench.contest import Sample


def sample(proxy: str, number: int, used: float, slow: float = 1.0) -> Sample:
    return Sample(proxy, number, used, 1000.0, 1.0, slow, 1000)


def test_ratio_is_the_median_of_each_rounds_own() -> None:
    # Round 1 was disturbed: everything took ten times as long, and the ratio holds.
    samples = [
        sample("a", 0, 50), sample("b", 0, 100), sample("a", 1, 500), sample("b", 1, 1000),
        sample("a", 2, 60), sample("b", 2, 100),
    ]  # fmt: skip
    assert ratio(samples, "a", "b", cpu) == 0.5
    assert ratio(samples, "b", "a", cpu) == 2.0
    assert median(samples, "a", cpu) == 60


def test_nothing_to_compare_with() -> None:
    assert ratio([sample("a", 0, 50)], "a", "b", p99) is None
    assert median([], "a", cpu) is None


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [
        (0.45, False, True), (0.46, False, False), (0.45, True, True), (0.44, True, False),
        (None, False, None),
    ],
)  # fmt: skip
def test_verdict(value: float | None, at_least: bool, met: bool | None) -> None:
    verdict = Verdict("it", value, 0.45, at_least)
    assert verdict.met is met
    assert verdict.line[:4] == {True: "PASS", False: "FAIL", None: "----"}[met]
