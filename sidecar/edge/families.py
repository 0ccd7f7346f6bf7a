"""The proxy's counts as Prometheus families, made when somebody scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, Metric

from sidecar.edge.limits import ProxyStats
from sidecar.telemetry.metrics import counter, gauge


def proxy_families(stats: ProxyStats) -> Iterable[Metric]:
    """Connections, bytes and failures on both sides of the proxy."""
    yield gauge("sidecar_connections_open", "Client connections.", stats.connections_open)
    yield counter("sidecar_connections_accepted", "Client connections.", stats.accepted)
    yield counter(
        "sidecar_connections_refused", "Those beyond the limit.", stats.connections_refused
    )
    yield gauge("sidecar_requests_in_flight", "Not answered yet.", stats.in_flight)
    yield counter("sidecar_requests_shed", "Answered 503: too many in flight.", stats.shed)
    yield counter("sidecar_client_aborts", "Clients gone before the end.", stats.client_aborts)
    yield counter("sidecar_received_bytes", "From clients.", stats.bytes_received)
    yield counter("sidecar_sent_bytes", "To clients.", stats.bytes_sent)
    yield _by("sidecar_bad_requests", "Not one unambiguous request.", "reason", stats.bad_requests)
    yield _by("sidecar_timeouts", "Connections ended as overdue.", "kind", stats.timeouts)
    yield gauge("sidecar_upstream_connections_open", "Idle, busy, opening.", stats.upstream_open)
    yield gauge("sidecar_upstream_connections_idle", "Kept for reuse.", stats.upstream_idle)
    yield gauge("sidecar_upstream_waiting", "Requests in line.", stats.upstream_waiting)
    yield counter("sidecar_upstream_connections_created", "Opened.", stats.upstream_created)
    yield counter("sidecar_upstream_connections_reused", "Used again.", stats.upstream_reused)
    yield counter("sidecar_upstream_retries", "Sent again, safely.", stats.retries)
    yield _by("sidecar_upstream_errors", "Without an answer.", "kind", stats.upstream_errors)


def _by(name: str, help_: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
