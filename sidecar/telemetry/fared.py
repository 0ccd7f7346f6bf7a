"""How a sidecar has fared since its start, out of what it counts for Prometheus: what it tells the
control plane, which judges releases by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sidecar.telemetry.merged import Family
from sidecar.telemetry.metrics import DECISION_BUCKETS, Metrics

_FAILED: Final = "expression_failed"  # the reason of a decision


@dataclass(frozen=True, slots=True)
class Fared:
    """Counts that only grow. `refused` are answers with 4xx of our own, `errors` those with 5xx,
    whoever gave them; `buckets` count decisions by DECISION_BUCKETS and one more without bound."""

    requests: int = 0
    refused: int = 0
    errors: int = 0
    failed_expressions: int = 0
    buckets: tuple[int, ...] = (0,) * (len(DECISION_BUCKETS) + 1)

    def since(self, before: Fared) -> Fared:
        """What came in between; nothing of counts that began anew."""
        mine = (self.requests, self.refused, self.errors, self.failed_expressions)
        theirs = (before.requests, before.refused, before.errors, before.failed_expressions)
        found = [max(0, one - other) for one, other in zip(mine, theirs, strict=True)]
        buckets = [max(0, a - b) for a, b in zip(self.buckets, before.buckets, strict=True)]
        # Of a request under way one part may be counted before, and the other after.
        requests = max(found)
        return Fared(requests, found[1], found[2], found[3], tuple(buckets))


def of_metrics(metrics: Metrics) -> Fared:
    """Of a process of one's own."""
    answered = {(outcome, status): 0 for _, outcome, status in metrics.requests.values}
    for (_, outcome, status), count in metrics.requests.values.items():
        answered[outcome, status] += count
    failed = sum(n for (_, reason), n in metrics.decisions.values.items() if reason == _FAILED)
    return _fared(answered, failed, metrics.decision_seconds.counts)


def of_families(families: Iterable[Family]) -> Fared:
    """Of several processes, added up."""
    answered: dict[tuple[str, str], int] = {}
    failed = 0
    upto: list[int] = []
    for family in families:
        for sample in family.samples:
            labels, count = sample.labels, int(sample.value)
            if sample.name == "sidecar_requests_total":
                key = labels["outcome"], labels["status"]
                answered[key] = answered.get(key, 0) + count
            elif sample.name == "sidecar_decisions_total" and labels["reason"] == _FAILED:
                failed += count
            elif sample.name == "sidecar_decision_duration_seconds_bucket":
                upto.append(count)
    upto = upto or [0] * (len(DECISION_BUCKETS) + 1)
    buckets = [upto[0], *(b - a for a, b in pairwise(upto))]
    return _fared(answered, failed, buckets)


def _fared(answered: Mapping[tuple[str, str], int], failed: int, buckets: Iterable[int]) -> Fared:
    return Fared(
        requests=sum(answered.values()),
        refused=answered.get(("refuse", "4xx"), 0),
        errors=sum(count for (_, status), count in answered.items() if status == "5xx"),
        failed_expressions=failed,
        buckets=tuple(buckets),
    )
