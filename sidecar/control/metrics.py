"""What the control plane counts: plain integers, read when somebody scrapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet
from sidecar.control.revocations import RevocationLog


@dataclass(slots=True)
class Counts:
    """Since the start of the process."""

    streams: int = 0
    streams_refused: int = 0
    pushes: int = 0
    acks: int = 0
    nacks: int = 0
    releases: int = 0
    applies: Counter[str] = field(default_factory=Counter)
    revokes: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    identities: Counter[str] = field(default_factory=Counter)
    """What sidecars have shown at the fleet's listener: `shown`, `refused`, or `unknown` where who
    could say was away."""
    certificate_ends: Callable[[], float] | None = None
    """When the certificate that they are shown ends, Unix time."""


class _Metrics(Collector):
    def __init__(
        self, counts: Counts, fleet: Fleet, catalogue: Catalogue, log: RevocationLog
    ) -> None:
        self._counts = counts
        self._log = log
        self._fleet = fleet
        self._catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        counts, fleet = self._counts, self._fleet
        current = sum(session.current(self._catalogue) for session in fleet)
        for name, text, value in (
            ("streams", "Sidecars connected now.", len(fleet)),
            ("streams_current", "Of these, those that enforce all they are assigned.", current),
            ("watchers", "Clients that watch a release spread.", fleet.watchers),
            ("revocations", "Held now; some may have expired.", len(self._log)),
            (
                "streams_revocations_current",
                "Sidecars that refuse all that was withdrawn.",
                sum(
                    session.revocations is not None and session.revocations.holds(self._log.newest)
                    for session in fleet
                ),
            ),
        ):
            yield GaugeMetricFamily(f"sidecar_control_{name}", text, value=value)
        release = GaugeMetricFamily(
            "sidecar_control_release_version", "Newest release.", labels=["namespace"]
        )
        for item in self._catalogue.releases():
            release.add_metric([item.namespace], item.version)
        yield release
        for name, text, value in (
            ("streams_opened", "Streams begun.", counts.streams),
            ("streams_refused", "Streams refused.", counts.streams_refused),
            ("pushes", "Pushes sent.", counts.pushes),
            ("acks", "Pushes enforced.", counts.acks),
            ("nacks", "Pushes refused by a sidecar.", counts.nacks),
            ("releases", "Releases made.", counts.releases),
        ):
            yield CounterMetricFamily(f"sidecar_control_{name}", text, value=value)
        for name, text, outcomes in (
            ("apply", "Applies by what came of them.", counts.applies),
            ("revoke", "Calls of Revoke by what came of them.", counts.revokes),
            ("events", "Security event tokens by what came of them.", counts.events),
            ("identities", "Whose sidecar it is, by what came of showing it.", counts.identities),
        ):
            family = CounterMetricFamily(f"sidecar_control_{name}", text, labels=["outcome"])
            for outcome, count in sorted(outcomes.items()):
                family.add_metric([outcome], count)
            yield family
        if counts.certificate_ends is not None:
            yield GaugeMetricFamily(
                "sidecar_control_certificate_expiry_timestamp_seconds",
                "When the certificate that sidecars are shown ends.",
                value=counts.certificate_ends(),
            )


def registry(
    counts: Counts, fleet: Fleet, catalogue: Catalogue, log: RevocationLog
) -> CollectorRegistry:
    """A registry of its own, so that several control planes fit into one process (tests, demo)."""
    collected = CollectorRegistry()
    collected.register(_Metrics(counts, fleet, catalogue, log))
    return collected
