"""What is worse than the old release, and what is only chance."""

from __future__ import annotations

import random

import pytest

from sidecar.control.rollouts.health import BOUNDS, NOTHING, Tally, breach
from sidecar.control.rollouts.plan import Limits
from sidecar.telemetry.metrics import DECISION_BUCKETS

LIMITS = Limits()


def buckets(**counts: int) -> tuple[int, ...]:
    """By a bound in microseconds: `us10=5`."""
    found = [0] * (len(BOUNDS) + 1)
    for name, count in counts.items():
        found[BOUNDS.index(int(name.removeprefix("us")) / 1e6)] = count
    return tuple(found)


FAST = buckets(us10=9_900, us50=100)


def test_the_buckets_are_those_of_the_metric() -> None:
    assert BOUNDS == DECISION_BUCKETS


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (NOTHING, NOTHING),
        (NOTHING, Tally(1000)),
        (Tally(1000, 100), Tally(1000, 100)),
        (Tally(1000, 140), Tally(1000, 100)),  # 4 points more
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
        (Tally(1000, 200), Tally(1000, 100), "refuses 20% of 1000 requests.*10% of 1000"),
        (Tally(5, 5), Tally(5, 0), "refuses 100% of 5"),
        (Tally(1000, 0, 50), Tally(1000), "error 5% of 1000"),
        (Tally(1000, 0, 50), NOTHING, "error 5% of 1000"),
        (Tally(1000, 0, 0, 20), Tally(1000), "expressions fail on 2% of 1000"),
        (Tally(20, 3, 0, 3), Tally(20, 0), "expressions fail"),
        (Tally(20, 3, 0, 3), NOTHING, "expressions fail"),
        (
            Tally(10_000, buckets=buckets(us10=9_000, us5000=1_000)),
            Tally(10_000, buckets=FAST),
            "10% of its 10000 decisions take longer than 1 ms",
        ),
    ],
)
def test_what_is_one(new: Tally, old: Tally, said: str) -> None:
    import re

    assert re.search(said, breach(new, old, LIMITS))


def test_limits_are_what_they_say() -> None:
    new, old = Tally(1000, 200), Tally(1000, 100)
    assert breach(new, old, Limits(refusals=0.11)) == ""
    assert breach(new, old, Limits(refusals=0.09))
    slow = Tally(10_000, buckets=buckets(us10=9_000, us5000=1_000))
    usual = Tally(10_000, buckets=buckets(us10=9_800, us1000=200))
    assert breach(slow, usual, Limits(latency=1.0))
    assert breach(slow, usual, Limits(latency=5.0)) == ""


@pytest.mark.parametrize("requests", [20, 100, 1000, 10_000])
def test_chance_alone_is_rarely_a_breach(requests: int) -> None:
    """The same shares on both sides, looked at again and again, as a rollout is."""
    draw = random.Random(requests)
    alarms = 0
    for _ in range(200):
        found = [sum(draw.random() < 0.1 for _ in range(requests)) for _ in range(2)]
        alarms += bool(breach(Tally(requests, found[0]), Tally(requests, found[1]), LIMITS))
    assert alarms <= 2


def test_sums_and_quantiles() -> None:
    both = Tally(1, 1, 0, 0, FAST) + Tally(2, 0, 1, 1, FAST)
    assert (both.requests, both.refused, both.errors, both.failed_expressions) == (3, 1, 1, 1)
    assert sum(both.buckets) == 20_000
    assert both.quantile(0.99) == 1e-5
    assert both.quantile(0.995) == 5e-5
    assert NOTHING.quantile(0.99) == 0.0
    assert (NOTHING + both) == both
