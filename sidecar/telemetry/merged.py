"""The numbers of several processes as those of one: what travels, and how it is added up.

Counters and histograms add up and never go backwards: what a process counted before it died stays.
Gauges add up over those alive, but for the few that say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_GROWING: Final = frozenset(("counter", "histogram"))
_NOT_SUMMED: Final[Mapping[str, Callable[[float, float], float]]] = {
    "sidecar_insecure_settings": max,
    "sidecar_subjects": max,
    "sidecar_tls_certificate_expiry_timestamp_seconds": min,
}


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """One line of a metrics page."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True, frozen=True):
    """One metric with its samples. `kind` is Prometheus's type: counter, gauge, histogram."""

    name: str
    help: str
    kind: str
    samples: list[Sample]


def families_of(metrics: Collector) -> list[Family]:
    """What a process counted, to be sent to another."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(each.name, dict(each.labels), each.value) for each in metric.samples],
        )
        for metric in metrics.collect()
    ]


class Merged:
    """A sum under way."""

    def __init__(self) -> None:
        self._families: dict[str, _Sum] = {}

    def add(self, families: Iterable[Family], *, growing: bool = False) -> None:
        """Add one process's; of one that has died (`growing`) only what never shrinks."""
        for family in families:
            if growing and family.kind not in _GROWING:
                continue
            found = self._families.get(family.name)
            if found is None:
                found = self._families[family.name] = _Sum(family.help, family.kind)
            found.add(family)

    @property
    def families(self) -> list[Family]:
        """The sum so far."""
        return [
            Family(
                name, found.help, found.kind,
                [Sample(each, dict(labels), value) for (each, labels), value in
                 found.values.items()],
            )
            for name, found in self._families.items()
        ]  # fmt: skip

    def metrics(self) -> Iterator[Metric]:
        """The sum so far, as Prometheus's library has it."""
        for name, found in self._families.items():
            metric = Metric(name, found.help, found.kind)
            for (each, labels), value in found.values.items():
                metric.add_sample(each, dict(labels), value)
            yield metric


class _Sum:
    """One metric. Samples keep the order in which they first came: buckets are in theirs."""

    def __init__(self, help_: str, kind: str) -> None:
        self.help = help_
        self.kind = kind
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, family: Family) -> None:
        together = _NOT_SUMMED.get(family.name)
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.items()))
            before = self.values.get(key)
            if before is None:
                self.values[key] = sample.value
            elif together is not None:
                self.values[key] = together(before, sample.value)
            else:
                self.values[key] = before + sample.value
