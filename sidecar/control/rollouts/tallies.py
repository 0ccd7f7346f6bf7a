"""What sidecars report, added up for those who judge rollouts. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sidecar.control.rollouts.health import BOUNDS, NOTHING, Tally
from sidecar.control.rollouts.plan import Rollout
from sidecar.wire.discovery_pb2 import Report

OLD: Final = -1  # instead of a stage: of the old release, since the rollout began
USUAL: Final = -2  # of a release that everybody has
REMEMBERED: Final = 20_000  # requests; of more of the usual ones the older ones count half
_MOST: Final = 1 << 40  # of anything in one report; a sidecar that says more is not believed

Key = tuple[str, int]
"""A release, `namespace@version`, and a stage."""


class Tallies:
    """Of the sidecars of one control plane, since its start."""

    def __init__(self) -> None:
        self._found: dict[Key, Tally] = {}

    def take(self, report: Report, rollouts: Iterable[Rollout]) -> None:
        """Adds what a sidecar reports. What is out of all proportion is left out."""
        tally = read(report)
        if tally is None:
            return
        enforced = {each.namespace: each.version for each in report.enforced}
        about = {rollout.namespace: rollout for rollout in rollouts}
        for namespace, version in enforced.items():
            name = f"{namespace}@{version}"
            rollout = about.get(namespace)
            if rollout is not None and version == rollout.version:
                self._add((name, rollout.stage), tally)
                continue
            if rollout is not None and version == rollout.stable:
                self._add((rollout.name, OLD), tally)
                continue
            self._add((name, USUAL), tally)
            if self._found[name, USUAL].requests > REMEMBERED:
                self._found[name, USUAL] = _halved(self._found[name, USUAL])

    def of(self, rollout: Rollout) -> tuple[Tally, Tally, Tally]:
        """Of the new release in the stage it is in; of the old one meanwhile; and before."""
        return (
            self._found.get((rollout.name, rollout.stage), NOTHING),
            self._found.get((rollout.name, OLD), NOTHING),
            self._found.get((f"{rollout.namespace}@{rollout.stable}", USUAL), NOTHING),
        )

    def keep(self, names: Iterable[str]) -> None:
        """Lets go of all but these releases."""
        kept = set(names)
        self._found = {key: tally for key, tally in self._found.items() if key[0] in kept}

    def _add(self, key: Key, tally: Tally) -> None:
        self._found[key] = self._found.get(key, NOTHING) + tally


def read(report: Report) -> Tally | None:
    """As a tally; None for one that cannot be true."""
    buckets = tuple(report.decision_buckets)
    counts = (report.requests, report.refused, report.errors, report.failed_expressions)
    if len(buckets) not in (0, len(BOUNDS) + 1) or len(report.enforced) > 4:
        return None
    if any(each > _MOST for each in (*counts, *buckets)) or max(counts) > counts[0]:
        return None
    return Tally(*counts, buckets)


def to_plain(tallies: tuple[Tally, Tally, Tally]) -> list[Any]:
    """As other replicas read them."""
    return [
        [t.requests, t.refused, t.errors, t.failed_expressions, list(t.buckets)] for t in tallies
    ]


def from_plain(found: Any) -> tuple[Tally, Tally, Tally]:
    """What `to_plain` made."""
    new, old, usual = (
        Tally(requests, refused, errors, failed, tuple(buckets))
        for requests, refused, errors, failed, buckets in found
    )
    return new, old, usual


def added(
    tallies: Iterable[tuple[Tally, Tally, Tally]],
) -> tuple[Tally, Tally, Tally]:
    """Those of several replicas as one."""
    sums = [NOTHING, NOTHING, NOTHING]
    for each in tallies:
        sums = [one + other for one, other in zip(sums, each, strict=True)]
    return sums[0], sums[1], sums[2]


def _halved(tally: Tally) -> Tally:
    return Tally(
        tally.requests // 2, tally.refused // 2, tally.errors // 2, tally.failed_expressions // 2,
        tuple(each // 2 for each in tally.buckets),
    )  # fmt: skip
