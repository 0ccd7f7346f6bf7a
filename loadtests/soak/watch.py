"""Memory and descriptors of a process tree over time, and whether they stay flat."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.bench.proc import memory, tree

GROWTH: Final = 0.02
"""The last third's median may be this much above the second third's."""
FITTED: Final = 0.03
"""A straight line through both may rise this much over their length."""
DESCRIPTORS: Final = 8
"""More than before the load that may be open once it is over."""


@dataclass(frozen=True, slots=True)
class Reading:
    """At `at` seconds of the run."""

    at: float
    rss: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Flatness:
    """Bytes: medians of the second and the last third; the first is warm-up. `fitted` is by how
    much of the second third's median the line through both rises."""

    second: float
    last: float
    fitted: float

    @property
    def growth(self) -> float:
        return self.last / self.second - 1

    @property
    def flat(self) -> bool:
        return self.growth <= GROWTH and self.fitted <= FITTED


def read(root: int, at: float) -> Reading:
    return Reading(at, memory(root).rss, descriptors(root))


def descriptors(root: int) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in tree(root))


def judge(readings: Sequence[Reading]) -> Flatness:
    """Raises ValueError on fewer than six readings."""
    third = len(readings) // 3
    if third < 2:
        raise ValueError(f"{len(readings)} readings are too few to judge; run for longer")
    second, last = readings[third : 2 * third], readings[2 * third :]
    both = [*second, *last]
    slope, _ = statistics.linear_regression([r.at for r in both], [float(r.rss) for r in both])
    middle = statistics.median(r.rss for r in second)
    rise = slope * (both[-1].at - both[0].at) / middle
    return Flatness(middle, statistics.median(r.rss for r in last), rise)
