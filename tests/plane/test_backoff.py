"""When a worker that died is started again."""

from __future__ import annotations

from sidecar.plane.backoff import FIRST, LONGEST, SETTLED, Backoff


def test_the_first_death_is_mended_at_once_and_the_next_ones_later_and_later() -> None:
    backoff = Backoff()
    assert [backoff.pause(0.0) for _ in range(5)] == [0.0, FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert max(backoff.pause(1.0) for _ in range(1000)) == LONGEST


def test_a_long_life_makes_good() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.pause(SETTLED - 1)
    assert backoff.pause(SETTLED) == 0.0
    assert backoff.pause(0.0) == FIRST
