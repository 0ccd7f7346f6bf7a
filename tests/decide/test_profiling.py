"""Which questions are asked, in which order, and when they are left alone."""

from __future__ import annotations

import pytest

from sidecar.decide.kinds.journey import AttributeWords, ProfileAttribute
from sidecar.decide.profiling import VISIT, Told, by_the_way, required

DAY = 86_400.0
NOW = 1_800_000_000.0
NOTHING = Told(frozenset(), {}, {})


def attribute(order: int = 0, *, needed: bool = False, every: str = "7d") -> ProfileAttribute:
    words = {"en": AttributeWords(label="x")}
    return ProfileAttribute(words=words, order=order, required=needed, ask_every=every)


DOCUMENTS = {
    "a/second": attribute(2),
    "a/first": attribute(1),
    "a/slow": attribute(3, every="30d"),
    "a/needed": attribute(0, needed=True),
    "a/also": attribute(5, needed=True),
}


def test_only_what_is_missing_and_in_order() -> None:
    asked = ["a/also", "a/needed", "a/also", "a/unheard-of"]
    assert required(asked, DOCUMENTS, NOTHING) == ["a/needed", "a/also"]
    known = Told(frozenset({"a/needed"}), {}, {})
    assert required(asked, DOCUMENTS, known) == ["a/also"]


def test_required_ones_are_never_asked_by_the_way() -> None:
    told = Told(frozenset({"a/first", "a/second", "a/slow"}), {}, {})
    assert by_the_way(DOCUMENTS, told, NOW) is None


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (NOTHING, "a/first"),
        (Told(frozenset({"a/first"}), {}, {}), "a/second"),
        (Told(frozenset(), {"a/first": NOW - 900 * DAY}, {}), "a/second"),  # declined: left alone
        (Told(frozenset(), {}, {"a/first": NOW - 60}), "a/first"),  # of this very visit
        (Told(frozenset(), {}, {"a/first": NOW - VISIT}), None),
        (Told(frozenset(), {}, {"a/first": NOW - 7 * DAY + 1}), None),
        (Told(frozenset(), {}, {"a/first": NOW - 7 * DAY}), "a/first"),
        (Told(frozenset({"a/first", "a/second"}), {}, {"a/second": NOW - 8 * DAY}), None),
        (Told(frozenset({"a/first", "a/second"}), {}, {"a/second": NOW - 30 * DAY}), "a/slow"),
        (Told(frozenset(), {"a/first": NOW, "a/second": NOW, "a/slow": NOW}, {}), None),
    ],
)
def test_one_by_the_way_at_its_pace(told: Told, found: str | None) -> None:
    assert by_the_way(DOCUMENTS, told, NOW) == found


def test_what_is_asked_anyway_is_not_asked_twice() -> None:
    assert by_the_way(DOCUMENTS, NOTHING, NOW, ["a/first"]) == "a/second"
