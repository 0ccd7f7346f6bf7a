"""Whether a new release fares worse than the old one, judged from what sidecars report. Pure.

Shares of few requests differ by chance. A difference counts where it is larger than its limit and
larger than chance explains: a test of two proportions (pooled variance), by Z standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, sqrt
from typing import Final

from sidecar.control.rollouts.plan import Limits

BOUNDS: Final[tuple[float, ...]] = (
    5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 1.0,
)  # fmt: skip
"""Seconds: of the sidecar's metric sidecar_decision_duration_seconds; one more bucket has none."""
Z: Final = 3.0
UNNOTICED: Final = 1e-3  # seconds; a decision that takes no longer is slow for nobody
FEW: Final = 3  # failed expressions that are no accident where the old release had none


@dataclass(frozen=True, slots=True)
class Tally:
    """What sidecars reported of one release. `buckets` are counts by BOUNDS."""

    requests: int = 0
    refused: int = 0
    errors: int = 0
    failed_expressions: int = 0
    buckets: tuple[int, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.refused + other.refused,
            self.errors + other.errors,
            self.failed_expressions + other.failed_expressions,
            _sum(self.buckets, other.buckets),
        )

    def quantile(self, share: float) -> float:
        """Seconds that this share of decisions did not exceed: the bound of its bucket; 0: nothing
        is known."""
        total = sum(self.buckets)
        if not total:
            return 0.0
        for count, bound in zip(accumulate(self.buckets), (*BOUNDS, inf), strict=False):
            if count >= share * total:
                return bound
        return inf

    def slower(self, seconds: float) -> int:
        """How many decisions took longer than one of BOUNDS."""
        return sum(
            count
            for count, bound in zip(self.buckets, (*BOUNDS, inf), strict=False)
            if bound > seconds
        )


NOTHING: Final = Tally()


def breach(new: Tally, old: Tally, limits: Limits) -> str:
    """Why the new release must not go on, in words; empty: it may."""
    # The one that says most of what went wrong first.
    for what, mine, theirs, limit in (
        (
            "has expressions fail on", new.failed_expressions, old.failed_expressions,
            limits.failed_expressions,
        ),
        ("answers with an error", new.errors, old.errors, limits.errors),
        ("refuses", new.refused, old.refused, limits.refusals),
    ):  # fmt: skip
        sure = what.startswith("has") and mine >= FEW and not theirs
        if not old.requests and what == "refuses":
            continue  # how many are refused rightly nobody can say without the old release
        if _worse(mine, new.requests, theirs, old.requests, limit, sure=sure):
            return (
                f"it {what} {_percent(mine, new.requests)} of {new.requests} requests, the old "
                f"release {_percent(theirs, old.requests)} of {old.requests}"
            )
    return _slower(new, old, limits.latency)


def _slower(new: Tally, old: Tally, times: float) -> str:
    decided, before = sum(new.buckets), sum(old.buckets)
    usual = old.quantile(0.99)
    if not before or usual == inf:
        return ""
    bound = next((each for each in BOUNDS if each >= max(times * usual, UNNOTICED)), None)
    if bound is None:
        return ""
    mine, theirs = new.slower(bound), old.slower(bound)
    if not _worse(mine, decided, theirs, before, 0.01):
        return ""
    return (
        f"{_percent(mine, decided)} of its {decided} decisions take longer than {bound * 1e3:g} "
        f"ms, of the old release's {_percent(theirs, before)} (the limit: {times:g} times its p99)"
    )


def _worse(
    mine: int, of: int, theirs: int, of_them: int, limit: float, *, sure: bool = False
) -> bool:
    if not of or not mine:
        return False
    # Without anything to compare with: as if the old release had done as much without a fault.
    than, out_of = (theirs, of_them) if of_them else (0, of)
    difference = mine / of - than / out_of
    if difference <= limit:
        return False
    pooled = (mine + than) / (of + out_of)
    deviation = sqrt(pooled * (1 - pooled) * (1 / of + 1 / out_of))
    return sure or not deviation or difference / deviation >= Z


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g}%" if whole else "0%"


def _sum(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    if len(one) != len(other):
        return tuple(one or other)
    return tuple(a + b for a, b in zip(one, other, strict=True))
