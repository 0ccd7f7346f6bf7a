"""Counters as plain integers, read when Prometheus scrapes; the hot path only adds.

Metric names are a contract: dashboards and alerts depend on them. docs/operations.md lists them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

DECISION_BUCKETS: Final[tuple[float, ...]] = (
    5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 1.0,
)  # fmt: skip
REQUEST_BUCKETS: Final[tuple[float, ...]] = (
    5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Histogram:
    """Counts per bucket and a sum, in seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def family(self, name: str, help_: str) -> Metric:
        totals = list(accumulate(self.counts))
        labels = [str(bound) for bound in self.bounds] + ["+Inf"]
        return HistogramMetricFamily(
            name, help_, buckets=list(zip(labels, totals, strict=True)), sum_value=self.total
        )


class Counts:
    """A counter with labels: label values to a plain integer."""

    __slots__ = ("help", "labels", "name", "values")

    def __init__(self, name: str, help_: str, *labels: str) -> None:
        self.name = name
        self.help = help_
        self.labels = labels
        self.values: dict[tuple[str, ...], int] = {}

    def add(self, *values: str) -> None:
        self.count(values)

    def count(self, values: tuple[str, ...]) -> None:
        """The same for a tuple that the caller holds already."""
        self.values[values] = self.values.get(values, 0) + 1

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for values, count in sorted(self.values.items()):
            family.add_metric(values, count)
        return family


Source = Callable[[], Iterable[Metric]]


class Metrics(Collector):
    """The data plane's own numbers, plus sources that other parts register."""

    def __init__(self) -> None:
        self.requests = Counts(
            "sidecar_requests", "Requests answered.", "door", "outcome", "status"
        )
        self.decisions = Counts("sidecar_decisions", "Decisions made.", "outcome", "reason")
        self.shadows = Counts(
            "sidecar_shadow_decisions",
            "What was decided, and what would be were shadow policies enforced.",
            "outcome", "shadow", "reason",
        )  # fmt: skip
        self.tokens = Counts("sidecar_token_results", "Credentials looked at.", "result")
        self.preflights = Counts("sidecar_preflights", "CORS preflights.", "result")
        self.challenges = Counts(
            "sidecar_challenges", "Challenges, by how far people came.", "kind", "stage"
        )
        self.decision_seconds = Histogram(DECISION_BUCKETS)
        self.upstream_seconds = Histogram(REQUEST_BUCKETS)
        self.request_seconds = Histogram(REQUEST_BUCKETS)
        self._sources: list[Source] = []

    def register(self, source: Source) -> None:
        """Have `source` add its families to every scrape."""
        self._sources.append(source)

    def collect(self) -> Iterator[Metric]:
        yield self.requests.family()
        yield self.decisions.family()
        yield self.shadows.family()
        yield self.tokens.family()
        yield self.preflights.family()
        yield self.challenges.family()
        yield self.decision_seconds.family(
            "sidecar_decision_duration_seconds",
            "Time to decide, fetching what was missing included.",
        )
        yield self.upstream_seconds.family(
            "sidecar_upstream_duration_seconds", "From forwarding a request to the response's head."
        )
        yield self.request_seconds.family(
            "sidecar_request_duration_seconds", "From a request's head to the end of its response."
        )
        for source in self._sources:
            yield from source()


def gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


def counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_, value=value)


def labelled_gauge(name: str, help_: str, **labels: str) -> Metric:
    """An `..._info` style gauge: 1, with what there is to say in its labels."""
    family = GaugeMetricFamily(name, help_, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def page(metrics: Collector) -> bytes:
    """The text that Prometheus scrapes, process figures included."""
    return generate_latest(registry_of(metrics))


def registry_of(metrics: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
