"""How a sidecar fared: one process, and several as one, say the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sidecar.control.rollouts.health import BOUNDS
from sidecar.telemetry.fared import Fared, of_families, of_metrics
from sidecar.telemetry.merged import Merged, families_of
from sidecar.telemetry.metrics import DECISION_BUCKETS, Metrics


def counted() -> Metrics:
    metrics = Metrics()
    for outcome, status, count in (
        ("permit", "2xx", 5), ("permit", "4xx", 4), ("permit", "5xx", 3), ("refuse", "4xx", 2),
        ("refuse", "5xx", 1), ("refuse", "3xx", 1),
    ):  # fmt: skip
        for _ in range(count):
            metrics.requests.add("proxy", outcome, status)
    metrics.requests.add("websocket", "refuse", "4xx")
    for reason in ("expression_failed", "expression_failed", "denied"):
        metrics.decisions.add("refuse", reason)
    for seconds in (1e-6, 5e-6, 6e-6, 0.5, 100.0):
        metrics.decision_seconds.observe(seconds)
    return metrics


BUCKETS = (2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1)


def test_of_one_process() -> None:
    # Of answers with 4xx only our own refusals, of 5xx all, whoever gave them.
    assert of_metrics(counted()) == Fared(17, 3, 4, 2, BUCKETS)
    assert of_metrics(Metrics()) == Fared()


def test_of_several_processes() -> None:
    merged = Merged()
    for _ in range(3):
        merged.add(families_of(counted()))

    class Page(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from merged.metrics()

    assert of_families(families_of(Page())) == Fared(
        51, 9, 12, 6, tuple(3 * count for count in BUCKETS)
    )
    assert of_families(families_of(counted())) == of_metrics(counted())
    assert of_families([]) == Fared()


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        (Fared(), Fared(3, 1), Fared(3, 1)),
        (Fared(5, 2, 1, 1), Fared(9, 3, 2, 1), Fared(4, 1, 1, 0)),
        (Fared(9, 9, 9, 9), Fared(1, 1, 0, 0), Fared()),  # a process that began anew
        # Answered before, and its failed expression counted only now: never more than requests.
        (Fared(5), Fared(5, 0, 0, 1), Fared(1, 0, 0, 1)),
    ],
)
def test_what_came_in_between(before: Fared, now: Fared, found: Fared) -> None:
    assert now.since(before) == found


def test_buckets_in_between() -> None:
    length = len(DECISION_BUCKETS) + 1
    before, now = Fared(buckets=(1,) * length), Fared(buckets=(3, 0, *(1,) * (length - 2)))
    assert now.since(before).buckets == (2, *(0,) * (length - 1))


def test_sidecars_and_control_plane_count_by_the_same_buckets() -> None:
    assert BOUNDS == DECISION_BUCKETS
