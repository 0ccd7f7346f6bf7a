"""Counting different ones: exact while they are few, close when they are many."""

from __future__ import annotations

from sidecar.decide.distinct import EXACT, Distinct


def test_exact_up_to_the_bound() -> None:
    found = Distinct()
    for number in range(3 * EXACT):
        found.add(f"c{number % EXACT}")
    assert (found.count, found.exact, str(found)) == (EXACT, True, str(EXACT))


def test_close_beyond_it() -> None:
    found = Distinct()
    for wanted in (EXACT + 1, 5_000, 50_000):
        for number in range(wanted):
            found.add(f"c{number}")
        assert not found.exact
        assert abs(found.count - wanted) < 0.06 * wanted
    assert str(found).startswith("about ")
