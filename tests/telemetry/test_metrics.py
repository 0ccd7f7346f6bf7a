"""Counters, and what a scrape shows of them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from sidecar.telemetry.metrics import Histogram, Metrics, counter, gauge, labelled_gauge, page


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page(metrics).decode())
        for sample in family.samples
    }


def test_counts_and_sources() -> None:
    metrics = Metrics()
    metrics.requests.add("proxy", "permit", "2xx")
    metrics.requests.add("proxy", "permit", "2xx")
    metrics.decisions.add("refuse", "no_rule")
    metrics.register(
        lambda: [
            gauge("sidecar_a", "A.", 2), counter("sidecar_b", "B.", 3),
            labelled_gauge("sidecar_c", "C.", version="1"),
        ]
    )  # fmt: skip
    found = samples(metrics)
    labels = (("door", "proxy"), ("outcome", "permit"), ("status", "2xx"))
    assert found["sidecar_requests_total", labels] == 2
    assert found["sidecar_decisions_total", (("outcome", "refuse"), ("reason", "no_rule"))] == 1
    assert found["sidecar_a", ()] == 2
    assert found["sidecar_b_total", ()] == 3
    assert found["sidecar_c", (("version", "1"),)] == 1
    assert ("process_resident_memory_bytes", ()) in found


def test_histogram_buckets_are_cumulative_and_inclusive() -> None:
    metrics = Metrics()
    metrics.decision_seconds = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 9.0):
        metrics.decision_seconds.observe(seconds)
    found = samples(metrics)
    name = "sidecar_decision_duration_seconds"
    assert [found[f"{name}_bucket", (("le", le),)] for le in ("1.0", "2.0", "+Inf")] == [2, 3, 4]
    assert found[f"{name}_sum", ()] == 12.0
    assert found[f"{name}_count", ()] == 4
