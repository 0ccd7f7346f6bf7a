"""What sidecars report, added up for those who judge rollouts. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

    def take(self, tally: Tally, enforced: Mapping[str, int], rollouts: Iterable[Rollout]) -> None:
        """Adds what a sidecar reports that enforces these versions."""
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
                self._found[name, USUAL] = self._found[name, USUAL].times(1, 2)

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
    return [write_plain(each) for each in tallies]


def from_plain(found: Any) -> tuple[Tally, Tally, Tally]:
    """What `to_plain` made."""
    new, old, usual = (read_plain(each) for each in found)
    return new, old, usual


def write_plain(tally: Tally) -> list[Any]:
    """One as JSON has it."""
    return [
        tally.requests, tally.refused, tally.errors, tally.failed_expressions, list(tally.buckets),
    ]  # fmt: skip


def read_plain(found: Any) -> Tally:
    """What `write_plain` made."""
    requests, refused, errors, failed, buckets = found
    return Tally(requests, refused, errors, failed, tuple(buckets))


def added(
    tallies: Iterable[tuple[Tally, Tally, Tally]],
) -> tuple[Tally, Tally, Tally]:
    """Those of several replicas as one."""
    sums = [NOTHING, NOTHING, NOTHING]
    for each in tallies:
        sums = [one + other for one, other in zip(sums, each, strict=True)]
    return sums[0], sums[1], sums[2]
