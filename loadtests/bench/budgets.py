"""The budgets and how they are judged: pure, from samples to verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from loadtests.bench.contest import Sample


@dataclass(frozen=True, slots=True)
class Verdict:
    """`value` and `bound` are ratios; `value` None where there was nothing to compare with."""

    name: str
    value: float | None
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        budget = f"(budget {sign} {self.bound:.3g})"
        if self.value is None:
            return f"----  {self.name}: not judged, nothing to compare with {budget}"
        return f"{'PASS' if self.met else 'FAIL'}  {self.name}: {self.value:.2f} {budget}"


def cpu(sample: Sample) -> float:
    return sample.cpu


def p50(sample: Sample) -> float:
    return sample.p50


def p99(sample: Sample) -> float:
    return sample.p99


def rate(sample: Sample) -> float:
    return sample.rate


def median(samples: Iterable[Sample], proxy: str, of: Callable[[Sample], float]) -> float | None:
    values = [of(sample) for sample in samples if sample.proxy == proxy]
    return statistics.median(values) if values else None


def ratio(
    samples: Sequence[Sample], one: str, other: str, of: Callable[[Sample], float]
) -> float | None:
    """The median over the rounds of each round's ratio: what slows a round slows both."""
    values = {(sample.proxy, sample.round): of(sample) for sample in samples}
    found = [
        value / values[other, number]
        for (proxy, number), value in values.items()
        if proxy == one and values.get((other, number))
    ]
    return statistics.median(found) if found else None
