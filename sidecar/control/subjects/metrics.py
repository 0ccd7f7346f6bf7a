"""What the control plane counts of customers: whom nobody can tell from it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.control.subjects.service import Subjects


class _Subjects(Collector):
    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects

    def collect(self) -> Iterator[Metric]:
        subjects = self._subjects
        stages = CounterMetricFamily(
            "sidecar_challenges", "Challenges, by how far people came.", labels=["kind", "stage"]
        )
        for (kind, stage), count in sorted(subjects.stages.items()):
            stages.add_metric([kind, stage], count)
        yield stages
        introductions = CounterMetricFamily(
            "sidecar_control_introductions", "Customers asked about, by what came of it.",
            labels=["outcome"],
        )  # fmt: skip
        for outcome, count in sorted(subjects.hub.outcomes.items()):
            introductions.add_metric([outcome], count)
        yield introductions
        yield GaugeMetricFamily(
            "sidecar_control_customers_followed", "By any sidecar.",
            value=subjects.hub.followed(),
        )  # fmt: skip
        yield CounterMetricFamily(
            "sidecar_control_customer_pushes", "Records sent.", value=subjects.hub.pushes
        )
        delivery = subjects.delivery
        if delivery is not None:
            yield CounterMetricFamily(
                "sidecar_control_journey_events_delivered", "To other systems.",
                value=delivery.delivered,
            )  # fmt: skip
            yield CounterMetricFamily(
                "sidecar_control_journey_event_failures", "Batches not taken; sent again.",
                value=delivery.failures,
            )  # fmt: skip
            yield GaugeMetricFamily(
                "sidecar_control_journey_events_oldest_seconds",
                "Age of the oldest event that nobody took yet.", value=delivery.lag(),
            )  # fmt: skip


def subject_metrics(subjects: Subjects) -> Collector:
    """For a registry."""
    return _Subjects(subjects)
