"""The numbers of several processes on one page."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sidecar.telemetry.merged import Family, Merged, families_of
from sidecar.telemetry.metrics import Metrics, gauge, labelled_gauge, page


class Page(Collector):
    def __init__(self, merged: Merged) -> None:
        self.merged = merged

    def collect(self) -> Iterator[Metric]:
        yield from self.merged.metrics()


def samples(merged: Merged) -> dict[str, float]:
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page(Page(merged)).decode())
        for sample in family.samples
        if sample.name.startswith("sidecar_")
    }


def process(requests: int, connections: int, expiry: float = 0.0) -> list[Family]:
    metrics = Metrics()
    for _ in range(requests):
        metrics.requests.add("proxy", "permit", "2xx")
        metrics.request_seconds.observe(0.002)
    if requests > 1:
        metrics.requests.add("proxy", "refuse", "4xx")
        metrics.request_seconds.observe(100.0)
    metrics.register(
        lambda: [
            gauge("sidecar_connections_open", "C.", connections),
            gauge("sidecar_tls_certificate_expiry_timestamp_seconds", "E.", expiry),
            labelled_gauge("sidecar_insecure_settings", "I.", setting="x"),
        ]
    )
    return families_of(metrics)


PERMIT = "sidecar_requests_total,door=proxy,outcome=permit,status=2xx"
REFUSE = "sidecar_requests_total,door=proxy,outcome=refuse,status=4xx"
BUCKET = "sidecar_request_duration_seconds_bucket,le="


def test_counters_histograms_and_gauges_add_up() -> None:
    merged = Merged()
    merged.add(process(1, 5, 200.0))
    merged.add(process(3, 2, 100.0))
    found = samples(merged)
    assert (found[PERMIT], found[REFUSE]) == (4, 1)
    assert found["sidecar_connections_open"] == 7
    assert found[f"{BUCKET}0.001"] == 0
    assert found[f"{BUCKET}0.0025"] == found[f"{BUCKET}10.0"] == 4
    assert found[f"{BUCKET}+Inf"] == found["sidecar_request_duration_seconds_count"] == 5
    assert found["sidecar_tls_certificate_expiry_timestamp_seconds"] == 100, "the first to end"
    assert found["sidecar_insecure_settings,setting=x"] == 1, "in force, however many see it"


def test_what_the_dead_counted_stays_and_what_they_held_does_not() -> None:
    gone = Merged()
    gone.add(process(2, 9), growing=True)
    merged = Merged()
    merged.add(gone.families)
    merged.add(process(1, 1))
    found = samples(merged)
    assert (found[PERMIT], found[REFUSE]) == (3, 1)
    assert found["sidecar_connections_open"] == 1
    assert found[f"{BUCKET}+Inf"] == 4
    buckets = [name for name in found if name.startswith(BUCKET)]
    assert [found[name] for name in buckets] == sorted(found[name] for name in buckets)


def test_nothing_counted_yet() -> None:
    merged = Merged()
    merged.add([])
    assert samples(merged) == {}
    assert merged.families == []
