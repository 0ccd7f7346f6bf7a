"""How much the word of one sidecar counts: no more than a few times that of its like. No I/O.

What a sidecar reports cannot be checked. Were it believed about any number of requests, one could
outweigh all others. So each counts for at most so many requests in one interval; of more the shares
count, and not the number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sidecar.control.rollouts.health import Tally

ALWAYS: Final = 1_000  # requests in one interval that everybody may report
TIMES: Final = 10  # as many as the median of the others in its namespace, where that is more


@dataclass(slots=True)
class _Said:
    """What a sidecar reported in the interval that began at `since`, and what of it counted."""

    since: float
    requests: int = 0
    counted: int = 0


@dataclass(slots=True)
class _Namespace:
    """Its sidecars, and what they reported in their last whole intervals, in order."""

    said: dict[str, _Said] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    ordered: list[int] = field(default_factory=list)
    ordered_at: float = 0.0


class Weights:
    """Of the connected sidecars of one control plane. Times are seconds that never go back."""

    def __init__(self) -> None:
        self._namespaces: dict[str, _Namespace] = {}

    def weigh(
        self, namespace: str, sidecar_id: str, tally: Tally, interval: float, now: float
    ) -> Tally:
        """What of a report counts. `interval` is how often, in seconds, it was asked to report."""
        found = self._namespaces.setdefault(namespace, _Namespace())
        said = found.said.get(sidecar_id)
        if said is None or now - said.since >= interval:
            if said is not None:
                found.before[sidecar_id] = said.requests
            said = found.said[sidecar_id] = _Said(now)
        if now - found.ordered_at >= interval:
            found.ordered, found.ordered_at = sorted(found.before.values()), now
        said.requests += tally.requests
        most = max(ALWAYS, TIMES * _median_of_others(found, sidecar_id))
        counts = min(tally.requests, max(0, most - said.counted))
        said.counted += counts
        return tally if counts == tally.requests else tally.times(counts, tally.requests)

    def keep(self, connected: Iterable[tuple[str, str]]) -> None:
        """Forgets all but these, as namespace and sidecar id."""
        kept: dict[str, set[str]] = {}
        for namespace, sidecar_id in connected:
            kept.setdefault(namespace, set()).add(sidecar_id)
        self._namespaces = {name: found for name, found in self._namespaces.items() if name in kept}
        for name, found in self._namespaces.items():
            found.said = {id_: each for id_, each in found.said.items() if id_ in kept[name]}
            found.before = {id_: each for id_, each in found.before.items() if id_ in kept[name]}


def _median_of_others(found: _Namespace, sidecar_id: str) -> int:
    ordered, mine = found.ordered, found.before.get(sidecar_id)
    place = -1 if mine is None else bisect_left(ordered, mine)
    if mine is None or place == len(ordered) or ordered[place] != mine:
        return ordered[(len(ordered) - 1) // 2] if ordered else 0
    others = len(ordered) - 1
    if not others:
        return 0
    middle = (others - 1) // 2
    return ordered[middle + (place <= middle)]
