"""The proxy's counts as Prometheus families, made when somebody scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.decide import dpop
from sidecar.edge import callers, forward, http1, response_head
from sidecar.edge.handshakes import Handshakes
from sidecar.edge.limits import ProxyStats
from sidecar.edge.rotation import Rotation
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
    yield gauge("sidecar_bodies_held_bytes", "Decided on, not answered yet.", stats.bodies_held)
    yield counter("sidecar_bodies_refused", "Answered 503: too many held.", stats.bodies_refused)
    yield counter("sidecar_client_aborts", "Clients gone before the end.", stats.client_aborts)
    yield counter("sidecar_received_bytes", "From clients.", stats.bytes_received)
    yield counter("sidecar_sent_bytes", "To clients.", stats.bytes_sent)
    yield _by("sidecar_bad_requests", "Not one unambiguous request.", "reason", stats.bad_requests)
    yield _by("sidecar_timeouts", "Connections ended as overdue.", "kind", stats.timeouts)
    yield gauge("sidecar_tunnels_open", "WebSocket tunnels.", stats.tunnels_open)
    yield counter("sidecar_tunnels", "WebSocket tunnels begun.", stats.tunnels)
    yield counter("sidecar_tunnels_refused", "Those beyond the limit.", stats.tunnels_refused)
    yield _by("sidecar_tunnels_cut", "Ended by us.", "reason", stats.tunnels_cut)
    yield gauge("sidecar_upstream_connections_open", "Idle, busy, opening.", stats.upstream_open)
    yield gauge("sidecar_upstream_connections_idle", "Kept for reuse.", stats.upstream_idle)
    yield gauge("sidecar_upstream_waiting", "Requests in line.", stats.upstream_waiting)
    yield counter("sidecar_upstream_connections_created", "Opened.", stats.upstream_created)
    yield counter("sidecar_upstream_connections_reused", "Used again.", stats.upstream_reused)
    yield counter("sidecar_upstream_retries", "Sent again, safely.", stats.retries)
    yield gauge("sidecar_inspected_bytes", "Of responses held to be redacted.", stats.inspecting)
    yield counter("sidecar_responses_redacted", "Looked through, sent on.", stats.redacted)
    yield _by("sidecar_responses_withheld", "Not to be looked through.", "reason", stats.withheld)
    yield _by("sidecar_upstream_errors", "Without an answer.", "kind", stats.upstream_errors)
    yield gauge("sidecar_destinations", "Original destinations at hand.", stats.destinations)
    yield counter(
        "sidecar_destinations_closed", "To make room for others.", stats.destinations_closed
    )
    yield _by(
        "sidecar_destinations_refused", "What leads to no upstream.", "reason",
        stats.destinations_refused,
    )  # fmt: skip


def probe_family(counts: Mapping[tuple[str, str], int]) -> Metric:
    """Probes of the service behind, by name and result."""
    family = CounterMetricFamily(
        "sidecar_probes", "Of the service behind, asked for.", labels=["probe", "result"]
    )
    for labels, count in sorted(counts.items()):
        family.add_metric(labels, count)
    return family


def remembered_family() -> Metric:
    """The tables that spare a request the work of an equal one before."""
    family = GaugeMetricFamily("sidecar_remembered_entries", "In each table.", labels=["table"])
    for part in (http1, response_head, forward, dpop, callers):
        for table, entries in part.remembered().items():
            family.add_metric([table], entries)
    return family


def tls_families(handshakes: Handshakes | None, rotations: Sequence[Rotation]) -> Iterable[Metric]:
    """Handshakes of clients, and what became of changed files on both sides."""
    if handshakes is not None:
        yield gauge("sidecar_tls_handshakes_open", "Clients' under way.", len(handshakes))
        yield counter("sidecar_tls_handshakes", "Clients' that succeeded.", handshakes.completed)
        yield _by("sidecar_tls_handshake_failures", "Not done.", "reason", handshakes.failures)
    if rotations:
        reloads = {rotation.side: rotation.reloads for rotation in rotations}
        yield _by("sidecar_tls_reloads", "Changed files taken up.", "side", reloads)
        failures = {rotation.side: rotation.failures for rotation in rotations}
        yield _by("sidecar_tls_reload_failures", "Changed files of no use.", "side", failures)
        expiry = GaugeMetricFamily(
            "sidecar_tls_certificate_expiry_timestamp_seconds", "Of our own.", labels=["side"]
        )
        for rotation in rotations:
            if rotation.expiry:
                expiry.add_metric([rotation.side], rotation.expiry)
        yield expiry


def insecure_families(**settings: bool) -> Metric:
    """The settings with `insecure` in their names, 1 for those in force."""
    family = GaugeMetricFamily(
        "sidecar_insecure_settings", "1: safety was traded away.", labels=["setting"]
    )
    for name, on in settings.items():
        family.add_metric([name], float(on))
    return family


def _by(name: str, help_: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
