"""What rules require, in words, and what a change of that means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from sidecar.decide.documents import Bound, Require, StepUp, seconds
from sidecar.decide.effects_words import Change, apart, listed, shown


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for (`need`) or taken (`take`), now (`more`) or no longer; or a sentence."""

    change: Change
    text: str
    verb: Literal["need", "take", ""] = ""
    more: bool = True


_ALL_OF = {"scopes": "scope", "profile": "profile"}
_ONE_OF = {
    "issuers": "issuer", "audiences": "audience", "proof": "proof of possession by",
    "segments": "segment", "workloads": "workload",
}  # fmt: skip


def needs(require: Require) -> list[str]:
    """`scope a and b`, `step-up (acr c, at most 5m old)`: in the order of what they cost."""
    found = [
        f"{_ONE_OF[field]} {listed(getattr(require, field), 'or')}"
        for field in ("issuers", "audiences", "workloads", "segments")
        if getattr(require, field)
    ]
    if require.scopes:
        found.append(f"scope {listed(require.scopes)}")
    if require.proof:
        found.append(f"proof of possession by {listed(require.proof, 'or')}")
    if require.step_up is not None:
        found.append(_step_up(require.step_up))
    if require.consent:
        found.append(f"consent {listed(_consent(each) for each in require.consent)}")
    if require.profile:
        found.append(f"profile {listed(require.profile)}")
    return found


def require_changes(before: Require, after: Require) -> Iterator[Asked]:
    """Each requirement gained, lost or changed."""
    for field in Require.__struct_fields__:
        was, now = getattr(before, field), getattr(after, field)
        if was == now:
            continue
        spoken: list[Asked]
        if field == "step_up":
            spoken = list(_step_up_changes(was, now))
        elif field in _ONE_OF:
            spoken = list(_one_of(_ONE_OF[field], was, now))
        else:
            word = "consent" if field == "consent" else _ALL_OF.get(field, field)
            spoken = list(_all_of(word, [*map(_consent, was)], [*map(_consent, now)]))
        yield from spoken or [Asked("neutral", f"`{field}` is written differently, and means the "
                                               "same")]  # fmt: skip


def _consent(each: Bound | str) -> str:
    if isinstance(each, str):
        return each
    return f"{shown(each.purpose)} to {listed(each.bind)}"


def _all_of(word: str, before: Sequence[str], after: Sequence[str]) -> Iterator[Asked]:
    gained, lost = apart(before, after)
    if lost:
        yield Asked("wider", f"{word} {listed(lost)}", "need", more=False)
    if gained:
        yield Asked("stricter", f"{word} {listed(gained)}", "need")


def _one_of(word: str, before: Sequence[str], after: Sequence[str]) -> Iterator[Asked]:
    if not before:
        yield Asked("stricter", f"{word} {listed(after, 'or')}", "need")
        return
    if not after:
        yield Asked("wider", f"{word} {listed(before, 'or')}", "need", more=False)
        return
    gained, lost = apart(before, after)
    if gained:
        yield Asked("wider", f"{word} {listed(gained)} too", "take")
    if lost:
        yield Asked("stricter", f"{word} {listed(lost)}", "take", more=False)


def _step_up(step_up: StepUp) -> str:
    parts = []
    if step_up.acr:
        parts.append(f"acr {listed(step_up.acr, 'or')}")
    if step_up.amr:
        parts.append(f"amr {listed(step_up.amr)}")
    if step_up.max_age is not None:
        parts.append(f"at most {step_up.max_age} old")
    return f"step-up ({', '.join(parts)})" if parts else "step-up (of any kind)"


def _step_up_changes(before: StepUp | None, after: StepUp | None) -> Iterator[Asked]:
    if before is None or after is None:
        gained = after is not None
        change: Change = "stricter" if gained else "wider"
        yield Asked(change, _step_up(after or before or StepUp()), "need", gained)
        return
    was, now = _step_up(before), _step_up(after)
    if was == now:
        return
    change = "wider" if _weaker(before, after) else "stricter"
    yield Asked(change, f"{now} instead of {was}", "need")


def _weaker(before: StepUp, after: StepUp) -> bool:
    """Whether any part of it admits a login that was not good enough before."""
    acr = bool(before.acr) and (not after.acr or not set(after.acr) <= set(before.acr))
    return acr or not set(before.amr) <= set(after.amr) or _age(before) < _age(after)


def _age(step_up: StepUp) -> float:
    return inf if step_up.max_age is None else seconds(step_up.max_age)
