"""What new releases are compared with, kept with the rollouts: it outlives the control planes.

What was reported is in memory. In the last stage nobody enforces the old release any more, and who
has forgotten how it fared could not say that the new one fares worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from sidecar.control.rollouts.health import NOTHING, Tally
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.rollouts.tallies import read_plain, write_plain

ENOUGH: Final = 100  # requests of the old release; of fewer the usual ones count, if there are more


class Baselines:
    """Of the rollouts that are under way: the most that was ever known here, or kept."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Tally, Tally]] = {}
        self._kept: dict[str, int] = {}

    def of(self, rollout: Rollout, old: Tally, usual: Tally) -> Tally:
        """What to compare with. `old` is what the old release did since the rollout began, and
        `usual` what it did before, as far as known now."""
        was_old, was_usual = self._known.get(rollout.name) or from_text(rollout.baseline)
        known = self._known[rollout.name] = _more(old, was_old), _more(usual, was_usual)
        old, usual = known
        return old if old.requests >= ENOUGH else _more(old, usual)

    def news(self, rollout: Rollout) -> str:
        """What to keep with a rollout; empty: nothing that is much more than what is kept."""
        known = self._known.get(rollout.name)
        if known is None:
            return ""
        requests = sum(each.requests for each in known)
        kept = self._kept.get(rollout.name)
        if kept is None:
            kept = sum(each.requests for each in from_text(rollout.baseline))
        if requests < max(1, 2 * kept):  # so that it is seldom, however long it takes
            self._kept[rollout.name] = kept
            return ""
        self._kept[rollout.name] = requests
        return to_text(known)

    def unkept(self, rollout: Rollout) -> None:
        """It could not be stored."""
        self._kept.pop(rollout.name, None)

    def keep(self, rollouts: Iterable[Rollout]) -> None:
        """Forgets all but these."""
        names = {each.name for each in rollouts}
        self._known = {name: each for name, each in self._known.items() if name in names}
        self._kept = {name: each for name, each in self._kept.items() if name in names}


def to_text(known: tuple[Tally, Tally]) -> str:
    """As the store keeps it."""
    return orjson.dumps([write_plain(each) for each in known]).decode()


def from_text(text: str) -> tuple[Tally, Tally]:
    """What `to_text` wrote; nothing of nothing."""
    if not text:
        return NOTHING, NOTHING
    old, usual = (read_plain(each) for each in orjson.loads(text))
    return old, usual


def _more(one: Tally, other: Tally) -> Tally:
    return one if one.requests >= other.requests else other
