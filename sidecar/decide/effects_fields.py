"""What a change of one field means, by the words that there are for it. Pure.

Words are templates: `{before}` and `{after}` of a value, `{items}` of a list or mapping.
What has no words is said by its pointer, so that nothing that differs is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from sidecar.decide.documents import seconds, size
from sidecar.decide.effects_words import (
    NOT_SHOWN,
    Change,
    Said,
    apart,
    fallback,
    listed,
    opposite,
    pair,
    plain,
)
from sidecar.decide.rates import Rate

Wider = Literal["more", "less", "check", "never"]
"""When a change is `wider`: where there is more of it, or less; `check`: it cannot be told."""


@dataclass(frozen=True, slots=True)
class Value:
    """A single value. `order` are those of an enumeration from the least to the most; `absent` is
    how no value reads, `most` whether it counts as the most or the least there can be."""

    text: str
    wider: Wider = "never"
    order: Sequence[Any] = ()
    absent: str = "none"
    most: bool = True
    show: Callable[[Any], str] = plain

    def say(self, before: Any, after: Any) -> Iterator[Said]:
        was, now = [self.absent if each is None else self.show(each) for each in (before, after)]
        change = _change(self.wider, self._measure(before), self._measure(after))
        was, now = pair(was, now)
        yield Said(change, _fill(self.text, before=was, after=now))

    def _measure(self, value: Any) -> float | None:
        if value is None:
            return float("inf") if self.most else float("-inf")
        if self.order:
            return self.order.index(value) if value in self.order else None
        return _measured(value)


@dataclass(frozen=True, slots=True)
class Items:
    """A list of which each item counts, wherever it stands. Where an `empty` one means something
    of its own, that is how it reads, and to and from it is told by `whole`."""

    gained: str
    lost: str
    wider: Wider = "never"
    order: str = ""
    whole: str = ""
    empty: str = "none"
    whole_wider: Wider = "check"
    show: Callable[[Any], str] = plain

    def say(self, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Said]:
        if self.whole and (not before or not after):
            was = listed(map(self.show, before)) or self.empty
            now = listed(map(self.show, after)) or self.empty
            change = _change(self.whole_wider, float(not before), float(not after))
            yield Said(change, _fill(self.whole, before=was, after=now))
            return
        gained, lost = apart(before, after)
        for items, text, more in ((gained, self.gained, 1.0), (lost, self.lost, 0.0)):
            if items:
                change = _change(self.wider, 1.0 - more, more)
                yield Said(change, _fill(text, items=listed(map(self.show, items))))
        if not gained and not lost and self.order:
            yield Said("neutral", _fill(self.order, items=listed(map(self.show, after))))


@dataclass(frozen=True, slots=True)
class Members:
    """A mapping. `changed` has `{items}` with what is before and after; `show` None hides that."""

    gained: str
    lost: str
    changed: str
    wider: Wider = "never"
    change: Change = "check"
    show: Callable[[str, Any], str] | None = None

    def say(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Said]:
        lost = [self._one(name, before[name]) for name in sorted(before.keys() - after.keys())]
        gained = [self._one(name, after[name]) for name in sorted(after.keys() - before.keys())]
        for items, text, more in ((gained, self.gained, 1.0), (lost, self.lost, 0.0)):
            if items:
                yield Said(_change(self.wider, 1.0 - more, more), _fill(text, items=listed(items)))
        other = [
            self._both(name, before[name], after[name])
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        ]
        if other:
            yield Said(self.change, _fill(self.changed, items=listed(other)))

    def _one(self, name: str, value: Any) -> str:
        seen = "" if self.show is None else self.show(name, value)
        return f"{name} {seen if seen == NOT_SHOWN else f'({seen})'}" if seen else name

    def _both(self, name: str, before: Any, after: Any) -> str:
        if self.show is None:
            return name
        was, now = pair(self.show(name, before), self.show(name, after))
        if was == NOT_SHOWN:
            return f"{name} {was}"
        return f"{name} ({now}; before: {was})"


@dataclass(frozen=True, slots=True)
class Section:
    """A part that may be absent. Where it is on both sides, its fields are told one by one."""

    gained: str
    lost: str
    wider: Wider = "never"
    show: Callable[[Any], str] = plain

    def say(self, before: Any, after: Any) -> Iterator[Said]:
        if before is None or after is None:
            gained = before is None
            text = self.gained if gained else self.lost
            change = _change(self.wider, float(not gained), float(gained))
            yield Said(change, _fill(text, items=self.show(after if gained else before)))


@dataclass(frozen=True, slots=True)
class Own:
    """What has a function of its own."""

    say: Callable[[Any, Any], Iterator[Said]]


Saying = Value | Items | Members | Section | Own


def differences(
    sayings: Mapping[str, Saying], before: msgspec.Struct, after: msgspec.Struct, path: str = ""
) -> Iterator[Said]:
    """Each field that differs, in the order of its type. `sayings` by path: `limits.body`."""
    for field, name in zip(before.__struct_fields__, before.__struct_encode_fields__, strict=True):
        was, now = getattr(before, field), getattr(after, field)
        if was == now or (not path and field == "selector"):  # said of every kind alike
            continue
        here = f"{path}.{name}" if path else name
        saying = sayings.get(here)
        spoken = list(saying.say(was, now)) if saying is not None else []
        if not spoken and isinstance(was, msgspec.Struct) and isinstance(now, msgspec.Struct):
            spoken = list(differences(sayings, was, now, here))
        yield from spoken or fallback(f"spec.{here}", was, now)


def _fill(template: str, **values: str) -> str:
    """What is filled in is not looked at for places to fill."""
    return template.format(**values)


def _change(wider: Wider, before: float | None, after: float | None) -> Change:
    if wider == "never":
        return "neutral"
    if wider == "check" or before is None or after is None:
        return "check"
    if before == after:
        return "neutral"
    grown: Change = "wider" if wider == "more" else "stricter"
    return grown if after > before else opposite(grown)


def _measured(value: Any) -> float | None:
    """How much it is: a number, a duration, a size, a rate."""
    if isinstance(value, int | float):
        return float(value)
    for read in (seconds, size, lambda text: 1 / Rate.parse(text).interval):
        try:
            return float(read(value))
        except (ValueError, TypeError):
            continue
    return None
