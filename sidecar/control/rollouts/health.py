"""Whether a new release fares worse than the old one, judged from what sidecars report. Pure.

Shares of few requests differ by chance, and whoever looks often enough finds a difference. What is
weighed is therefore how much less likely what was seen is, were the new share at most the old one
plus its limit, than by a mixture of all shares. That ratio is a martingale where it is so: however
often one looks, it is ever 1 / ALPHA with a probability of at most ALPHA (Ville 1939; Robbins 1970,
Statistical methods related to the law of the iterated logarithm). It needs no number of looks and
no distribution that holds for many requests alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, inf, lgamma, log, log1p
from typing import Final

from sidecar.control.rollouts.plan import Limits
from sidecar.telemetry.metrics import DECISION_BUCKETS

BOUNDS: Final = DECISION_BUCKETS
"""Seconds: of the sidecar's metric sidecar_decision_duration_seconds; one more bucket has none."""
ALPHA: Final = 5e-4
"""How likely a release that is no worse is ever taken for one that is, at most: for each share,
each stage, and each old tally that it is compared with."""
FLOOR: Final = 10
"""Requests of the new release before which nothing is judged: a few of what it decides first may be
the old one's, or of one caller."""
UNNOTICED: Final = 1e-3  # seconds; a decision that takes no longer is slow for nobody
SLOW: Final = 0.01  # of decisions that may take longer than the limit, beside those that did
_STEPS: Final = 60  # of a search; each leaves two thirds


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

    def times(self, part: int, whole: int) -> Tally:
        """So much of it; what is less than one is none."""
        return Tally(
            self.requests * part // whole, self.refused * part // whole,
            self.errors * part // whole, self.failed_expressions * part // whole,
            tuple(each * part // whole for each in self.buckets),
        )  # fmt: skip

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
        if not old.requests and what == "refuses":
            continue  # how many are refused rightly nobody can say without the old release
        if _worse(mine, new.requests, theirs, old.requests, limit):
            return (
                f"it {what} {_percent(mine, new.requests)} of {new.requests} requests, the old "
                f"release {_percent(theirs, old.requests)} of {old.requests}"
            )
    return _slower(new, old, limits.latency)


def _slower(new: Tally, old: Tally, times: float) -> str:
    decided, before = sum(new.buckets), sum(old.buckets)
    if not before:
        return ""
    # Beyond the last bound nobody knows how long: there, longer than that one is too long.
    wanted = max(times * old.quantile(0.99), UNNOTICED)
    bound = next((each for each in BOUNDS if each >= wanted), BOUNDS[-1])
    mine, theirs = new.slower(bound), old.slower(bound)
    if not _worse(mine, decided, theirs, before, SLOW):
        return ""
    return (
        f"{_percent(mine, decided)} of its {decided} decisions take longer than {bound * 1e3:g} "
        f"ms, of the old release's {_percent(theirs, before)} (the limit: {times:g} times its p99)"
    )


def _worse(mine: int, of: int, theirs: int, of_them: int, limit: float) -> bool:
    """Whether the new share is by more than the limit larger than the old one, surely. Without
    anything to compare with: as if the old release had never done so."""
    if of < FLOOR or mine / of - (theirs / of_them if of_them else 0.0) <= limit:
        return False
    enough = log(1 / ALPHA)
    if not of_them:
        return _against(limit, mine, of) >= enough

    def evidence(share: float) -> float:
        """Against this old share and a new one at the limit above it; convex."""
        # Half of it on nothing at all: of an old release that is known well its many requests cost
        # no more than a factor of two.
        return _against(share + limit, mine, of) + _plus_one(
            _against(share, theirs, of_them)
        ) - log(2)  # fmt: skip

    # Outside of these both shares are better explained at one of them.
    low, high = theirs / of_them, mine / of - limit
    for _ in range(_STEPS):
        third = (high - low) / 3
        if evidence(low + third) < evidence(high - third):
            high -= third
        else:
            low += third
    return evidence((low + high) / 2) >= enough


def _against(share: float, part: int, whole: int) -> float:
    """The logarithm of how much likelier so many of so many are by the mixture Beta(1/2, 1/2) of
    all shares than by this one."""
    other = whole - part
    if (part and share <= 0) or (other and share >= 1):
        return inf
    mixture = lgamma(part + 0.5) + lgamma(other + 0.5) - lgamma(whole + 1) - 2 * lgamma(0.5)
    this = (part * log(share) if part else 0.0) + (other * log1p(-share) if other else 0.0)
    return mixture - this


def _plus_one(logarithm: float) -> float:
    """log(1 + e^x)."""
    return logarithm if logarithm > 40 else log1p(exp(logarithm))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g}%" if whole else "0%"


def _sum(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    if len(one) != len(other):
        return tuple(one or other)
    return tuple(a + b for a, b in zip(one, other, strict=True))
