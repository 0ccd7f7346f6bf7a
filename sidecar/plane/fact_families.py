"""What was looked up for decisions, as Prometheus families."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.facts.customers import Customers
from sidecar.facts.enrich import Enrichments
from sidecar.facts.subjects import SubjectsFile
from sidecar.telemetry.metrics import counter, gauge


def enrichment_families(enrichments: Enrichments) -> Iterable[Metric]:
    """Look-ups of Enrichers. There are as many labels as documents name."""
    outcomes = CounterMetricFamily(
        "sidecar_enrichments", "Look-ups of Enrichers.", labels=["enricher", "result"]
    )
    for (enricher, result), count in sorted(enrichments.outcomes.items()):
        outcomes.add_metric([enricher, result], count)
    yield outcomes
    answers = enrichments.answers
    yield gauge("sidecar_enrichment_cache_entries", "Answers remembered.", len(answers))
    yield gauge("sidecar_enrichment_cache_bytes", "Memory that they take.", answers.weight)
    yield counter("sidecar_enrichment_cache_hits", "Answers found.", answers.hits)
    yield counter("sidecar_enrichment_cache_evictions", "At the bound.", answers.evictions)
    breakers = GaugeMetricFamily(
        "sidecar_enrichment_breaker_open", "1: left alone for a while.", labels=["enricher"]
    )
    for enricher, state in enrichments.status().items():
        breakers.add_metric([enricher], float(state["open"]))
    yield breakers


def customer_families(customers: Customers) -> Iterable[Metric]:
    """Records of customers that the control plane sends."""
    yield gauge("sidecar_customers", "Records held.", len(customers))
    yield gauge(
        "sidecar_customers_connected", "Whether somebody can be asked about them.",
        float(customers.lost() is None),
    )  # fmt: skip
    yield counter("sidecar_customer_updates", "Records that came.", customers.pushes)
    yield gauge("sidecar_customers_bytes", "Memory that they take, roughly.", customers.weight)
    yield counter("sidecar_customer_evictions", "Let go of at the bound.", customers.evictions)
    for name, text, outcomes in (
        ("introductions", "Customers asked about, by what came of it.", customers.outcomes),
        ("consent_uses", "Uses of counted consents, by what came of it.", customers.spendings),
    ):
        family = CounterMetricFamily(f"sidecar_{name}", text, labels=["outcome"])
        for outcome, count in sorted(outcomes.items()):
            family.add_metric([outcome], count)
        yield family
    yield counter("sidecar_journey_events_lost", "At the bound.", customers.events_lost)


def subject_families(subjects: SubjectsFile) -> Iterable[Metric]:
    """The file of `--subjects`."""
    yield gauge("sidecar_subjects", "Records held.", len(subjects))
    yield counter("sidecar_subject_reloads", "Changes taken up.", subjects.reloads)
    yield counter("sidecar_subject_rejects", "Changes with mistakes.", subjects.rejected)
