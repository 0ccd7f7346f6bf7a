"""Rollouts and what the history of releases says, read when somebody scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.control.catalogue import Catalogue
from sidecar.control.rollouts.conductor import Conductor
from sidecar.control.rollouts.history import BUCKETS, LOOKED_AT

_OUTCOMES = ("completed", "aborted", "rolled_back", "undone")


class RolloutMetrics(Collector):
    """Of one control plane. Figures of the history are the same at every replica."""

    def __init__(self, conductor: Conductor, catalogue: Catalogue) -> None:
        self._conductor = conductor
        self._catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        under_way = GaugeMetricFamily(
            "sidecar_control_rollout_stage_percent",
            "Share of sidecars that a rollout under way has come to; by labels: 0.",
            labels=["namespace", "state"],
        )
        for each in self._catalogue.rollouts():
            share = each.plan.stages[each.stage].share
            under_way.add_metric([each.namespace, each.state], share * 100)
        yield under_way
        yield GaugeMetricFamily(
            "sidecar_control_expiries_overdue",
            "Releases whose time to live is over, and that could not be taken back yet.",
            value=self._conductor.expiring.overdue,
        )
        figures = self._conductor.history.figures
        changes = GaugeMetricFamily(
            "sidecar_control_changes",
            f"Changes among the newest {LOOKED_AT} releases, by what became of them.",
            labels=["outcome"],
        )
        # Not before they are known: what jumps from 0 at a start looks like rollouts that failed.
        for outcome in _OUTCOMES if figures.changes else ():
            changes.add_metric([outcome], figures.changes.get(outcome, 0))
        yield changes
        yield GaugeMetricFamily(
            "sidecar_control_change_failure_ratio",
            "Of these, the share that was taken back.",
            value=figures.failure_ratio,
        )
        yield _histogram(
            "sidecar_control_change_lead_time_seconds",
            "From asking for a change until every connected sidecar enforced it.",
            figures.lead_times,
        )
        yield _histogram(
            "sidecar_control_time_to_restore_seconds",
            "From publishing a change that was taken back until every sidecar was back.",
            figures.restore_times,
        )


def _histogram(name: str, text: str, values: Sequence[float]) -> Metric:
    counts = [0] * (len(BUCKETS) + 1)
    for value in values:
        counts[bisect_left(BUCKETS, value)] += 1
    labels = [*map(str, BUCKETS), "+Inf"]
    totals = [float(each) for each in accumulate(counts)]
    return HistogramMetricFamily(
        name, text, buckets=list(zip(labels, totals, strict=True)), sum_value=sum(values)
    )
