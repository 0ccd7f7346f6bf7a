"""What new releases are compared with: as long as it is known, and after it was forgotten."""

from __future__ import annotations

from dataclasses import replace

from sidecar.control.rollouts.baselines import ENOUGH, Baselines, from_text, to_text
from sidecar.control.rollouts.health import NOTHING, Tally
from sidecar.control.rollouts.plan import Plan, Rollout, Stage

ROLLOUT = Rollout("default", 2, 1, Plan((Stage(0.5), Stage(1.0))), "alice", 0.0)
OLD, USUAL = Tally(ENOUGH, 1, 0, 0, (1, 2)), Tally(5000, 50)


def test_the_old_release_meanwhile_and_before_where_that_is_little() -> None:
    assert Baselines().of(ROLLOUT, OLD, USUAL) == OLD
    assert Baselines().of(ROLLOUT, Tally(ENOUGH - 1), USUAL) == USUAL
    assert Baselines().of(ROLLOUT, Tally(5), Tally(4)) == Tally(5)
    assert Baselines().of(ROLLOUT, NOTHING, NOTHING) == NOTHING


def test_what_was_known_once_is_known() -> None:
    """Replicas end, and what they said ends with them."""
    baselines = Baselines()
    baselines.of(ROLLOUT, OLD, NOTHING)
    assert baselines.of(ROLLOUT, Tally(3, 3), NOTHING) == OLD
    baselines.keep([])
    assert baselines.of(ROLLOUT, Tally(3, 3), NOTHING) == Tally(3, 3)


def test_what_was_kept_is_what_a_new_control_plane_begins_with() -> None:
    baselines = Baselines()
    assert baselines.news(ROLLOUT) == ""
    baselines.of(ROLLOUT, OLD, USUAL)
    kept = replace(ROLLOUT, baseline=baselines.news(ROLLOUT))
    again = Baselines()
    assert again.of(kept, Tally(3, 3), NOTHING) == OLD
    assert again.news(kept) == ""
    assert from_text(to_text((OLD, USUAL))) == (OLD, USUAL)
    assert from_text("") == (NOTHING, NOTHING)


def test_it_is_kept_seldom() -> None:
    baselines = Baselines()
    times = 0
    for requests in range(0, 100_000, 10):
        baselines.of(ROLLOUT, Tally(requests), NOTHING)
        times += baselines.news(ROLLOUT) != ""
    assert times < 20


def test_what_could_not_be_kept_is_tried_again() -> None:
    baselines = Baselines()
    baselines.of(ROLLOUT, OLD, USUAL)
    assert baselines.news(ROLLOUT)
    assert not baselines.news(ROLLOUT)
    baselines.unkept(ROLLOUT)
    assert baselines.news(ROLLOUT)
