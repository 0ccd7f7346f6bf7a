"""What is worse than the old release, and what is only chance."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sidecar.control.rollouts.health import ALPHA, BOUNDS, FLOOR, NOTHING, Tally, breach
from sidecar.control.rollouts.plan import Limits

LIMITS = Limits()


def buckets(**counts: int) -> tuple[int, ...]:
    """By a bound in microseconds: `us10=5`."""
    found = [0] * (len(BOUNDS) + 1)
    for name, count in counts.items():
        found[BOUNDS.index(int(name.removeprefix("us")) / 1e6)] = count
    return tuple(found)


FAST = buckets(us10=9_900, us50=100)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (NOTHING, NOTHING),
        (NOTHING, Tally(1000)),
        (Tally(1000, 100), Tally(1000, 100)),
        (Tally(1000, 140), Tally(1000, 100)),  # 4 points more
        (Tally(1000, 160), Tally(1000, 100)),  # 6 points more: not surely more than 5
        (Tally(1, 1), Tally(1931, 18)),  # the first
        (Tally(FLOOR - 1, FLOOR - 1), Tally(1931, 18)),
        (Tally(70, 0, 1), Tally(2000, 0, 2)),
        (Tally(1000, 0, 9), Tally(20_000)),  # less than the limit, however much there is
        (Tally(100_000, 0, 900), Tally(20_000)),
        (Tally(20, 3, 0, 3), Tally(20, 0)),  # of the old release nobody knows as yet
        (Tally(3, 1), Tally(1000, 100)),  # one of three
        (Tally(10, 2), Tally(10, 0)),  # few of few
        (Tally(1000, 0, 5), Tally(1000)),  # half a point
        (Tally(1000, 500), NOTHING),  # nobody can say how many are refused rightly
        (Tally(1000, 100, 0, 1), Tally(1000, 100)),
        (Tally(1000, 0, 200), Tally(1000, 0, 200)),  # the service was ill before
        (Tally(10_000, buckets=FAST), Tally(10_000, buckets=FAST)),
        # Twice as slow, and still nothing that anybody notices.
        (Tally(10_000, buckets=buckets(us200=10_000)), Tally(10_000, buckets=FAST)),
    ],
)
def test_what_is_no_breach(new: Tally, old: Tally) -> None:
    assert breach(new, old, LIMITS) == ""


@pytest.mark.parametrize(
    ("new", "old", "said"),
    [
        (Tally(1000, 250), Tally(1000, 100), "refuses 25% of 1000 requests.*10% of 1000"),
        (Tally(10, 10), Tally(10, 0), "refuses 100% of 10"),
        (Tally(10, 10), Tally(1931, 18), "refuses 100% of 10"),
        (Tally(1000, 0, 50), Tally(1000), "error 5% of 1000"),
        (Tally(1000, 0, 50), NOTHING, "error 5% of 1000"),
        (Tally(1000, 0, 0, 20), Tally(10_000), "expressions fail on 2% of 1000"),
        (Tally(20, 3, 0, 3), NOTHING, "expressions fail"),
        (
            Tally(10_000, buckets=buckets(us10=9_000, us5000=1_000)),
            Tally(10_000, buckets=FAST),
            "10% of its 10000 decisions take longer than 1 ms",
        ),
        # Beyond a millisecond the bounds are far apart; what is longer than the last one counts.
        (
            Tally(1000, buckets=buckets(us100000=1000)),
            Tally(1000, buckets=buckets(us5000=1000)),
            "longer than 25 ms",
        ),
        (
            Tally(1000, buckets=(*[0] * len(BOUNDS), 1000)),
            Tally(1000, buckets=buckets(us1000000=1000)),
            "longer than 1000 ms",
        ),
    ],
)
def test_what_is_one(new: Tally, old: Tally, said: str) -> None:
    import re

    assert re.search(said, breach(new, old, LIMITS))


def test_limits_are_what_they_say() -> None:
    new, old = Tally(10_000, 2000), Tally(10_000, 1000)
    assert breach(new, old, Limits(refusals=0.11)) == ""
    assert breach(new, old, Limits(refusals=0.07))
    assert breach(new, old, Limits(refusals=0.0))
    assert breach(new, old, Limits(refusals=1.0)) == ""
    assert breach(Tally(100, 0, 100), old, Limits(errors=0.0))
    assert breach(Tally(100, 0, 100), NOTHING, Limits(errors=0.0))
    slow = Tally(10_000, buckets=buckets(us10=9_000, us5000=1_000))
    usual = Tally(10_000, buckets=buckets(us10=9_800, us1000=200))
    assert breach(slow, usual, Limits(latency=1.0))
    assert breach(slow, usual, Limits(latency=5.0)) == ""


def reported(draw: random.Random, requests: float, refused: float, errors: float) -> Tally:
    """So many in the mean, with these shares."""
    count = int(requests) + (draw.random() < requests % 1)
    return Tally(
        count,
        sum(draw.random() < refused for _ in range(count)),
        sum(draw.random() < errors for _ in range(count)),
    )


def spoilt(draw: random.Random, refused: float, errors: float, per_second: float) -> bool:
    """Whether a release that fares as the old one is ever judged worse: in three stages of a
    minute, looked at each second."""
    usual = reported(draw, 5000, refused, errors)
    old = NOTHING
    for share in (0.1, 0.5, 1.0):
        new = NOTHING
        seconds = 0
        while seconds < 60 or new.requests < 20:
            seconds += 1
            new += reported(draw, per_second * share, refused, errors)
            old += reported(draw, per_second * (1 - share), refused, errors)
            if breach(new, old if old.requests else usual, LIMITS):
                return True
    return False


@pytest.mark.parametrize(
    ("refused", "errors", "per_second"),
    [
        (0.01, 0, 5), (0.01, 0, 50), (0.02, 0.001, 5), (0.01, 0.001, 50), (0.05, 0.001, 20),
        (0, 0.0005, 20),
    ],
)  # fmt: skip
def test_chance_takes_nothing_back_however_often_one_looks(
    refused: float, errors: float, per_second: float
) -> None:
    draw = random.Random(7)
    assert sum(spoilt(draw, refused, errors, per_second) for _ in range(100)) == 0


def test_what_is_worse_by_its_limit_and_no_more_is_rarely_taken_back() -> None:
    """The worst case, looked at after every request."""
    draw = random.Random(11)
    alarms = 0
    for _ in range(40):
        old = Tally(1000, 0, sum(draw.random() < 0.02 for _ in range(1000)))
        errors = 0
        for count in range(1, 401):
            errors += draw.random() < 0.03
            if breach(Tally(count, 0, errors), old, LIMITS):
                alarms += 1
                break
    assert alarms <= max(1, 40 * ALPHA)


def with_some(requests: int, what: str, count: int) -> Tally:
    """So many requests, so many of them `what`."""
    some: dict[str, Any] = {what: count}
    return Tally(requests, **some)


@pytest.mark.parametrize(
    ("what", "before", "after", "within"),
    [
        ("refused", 0.01, 1.0, 10),
        ("refused", 0.01, 0.2, 250),
        ("errors", 0.0, 0.05, 500),
        ("failed_expressions", 0.0, 0.02, 700),
    ],
)
def test_what_is_bad_is_found_within_some_requests(
    what: str, before: float, after: float, within: int
) -> None:
    """In nine of ten cases."""
    found = 0
    for seed in range(30):
        draw = random.Random(seed)
        old = with_some(10_000, what, sum(draw.random() < before for _ in range(10_000)))
        count = bad = 0
        while count < within and not breach(with_some(count, what, bad), old, LIMITS):
            count += 5
            bad += sum(draw.random() < after for _ in range(5))
        found += bool(breach(with_some(count, what, bad), old, LIMITS))
    assert found >= 27


def test_sums_and_quantiles() -> None:
    both = Tally(1, 1, 0, 0, FAST) + Tally(2, 0, 1, 1, FAST)
    assert (both.requests, both.refused, both.errors, both.failed_expressions) == (3, 1, 1, 1)
    assert sum(both.buckets) == 20_000
    assert both.quantile(0.99) == 1e-5
    assert both.quantile(0.995) == 5e-5
    assert NOTHING.quantile(0.99) == 0.0
    assert (NOTHING + both) == both
