"""A rollout as a state machine: on, held, back; time and what is seen go in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.control.rollouts.health import NOTHING, Tally
from sidecar.control.rollouts.plan import Plan, Rollout, Stage
from sidecar.control.rollouts.steps import SKEW, Seen, advance, begin, end, onward, waits

IDS = [f"s{number}" for number in range(10)]
PLAN = Plan((Stage(0.1), Stage(0.5), Stage(1.0)), bake=60.0, min_requests=20)
GOOD = Tally(100, 1)


@pytest.fixture
def begun() -> Rollout:
    return begin(Rollout("default", 2, 1, PLAN, "alice", 1000.0), IDS, 1000.0)


def seen(assigned: int = 1, live: int = 1, **more: object) -> Seen:
    return replace(Seen(IDS, assigned, live, new=GOOD, old=GOOD), **more)  # type: ignore[arg-type]


def test_it_goes_on_once_all_is_well_for_long_enough(begun: Rollout) -> None:
    assert advance(begun, seen(), 1059.0) is begun
    second = advance(begun, seen(), 1060.0)
    assert (second.stage, second.stage_since, second.state) == (1, 1060.0, "running")
    assert advance(second, seen(5, 5), 1119.0) is second
    third = advance(second, seen(5, 5), 1120.0)
    assert (third.stage, third.cutoff) == (2, 1.0)
    done = advance(third, seen(10, 10), 1180.0)
    assert (done.state, done.ended) == ("completed", 1180.0)
    assert advance(done, seen(refused=1), 1181.0) is done


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (Seen(), "no sidecar is connected"),
        (seen(0, 0), "no connected sidecar is in the stage 10%"),
        (seen(2, 1), "1 of 2 sidecars enforce it"),
        (seen(new=Tally(3)), "3 of 20 requests"),
        (seen(old=NOTHING), "nobody is left to compare with"),
        (seen(2, 1, left_out=1), "enforce it; 1 sidecar enforces nothing and is left out"),
        (seen(2, 1, left_out=3), "enforce it; 3 sidecars enforce nothing and are left out"),
    ],
)
def test_it_waits_and_says_for_what(begun: Rollout, what: Seen, said: str) -> None:
    assert said in waits(begun, what, 2000.0)
    after = advance(begun, what, 2000.0)
    assert (after.stage, after.state) == (0, "running")


def test_bake_is_said_too(begun: Rollout) -> None:
    assert waits(begun, seen(), 1030.0) == "watched for 30s of 60s"


def test_a_nack_takes_it_back_at_once_and_says_whose(begun: Rollout) -> None:
    back = advance(begun, seen(1, 0, refused=1, errors=("s3: no such field",)), 1001.0)
    assert (back.state, back.ended) == ("rolled_back", 1001.0)
    assert back.reason == "refused by a sidecar: s3: no such field"


@pytest.mark.parametrize("state", ["running", "paused"])
def test_so_does_a_breach_also_while_it_is_held(begun: Rollout, state: str) -> None:
    held = replace(begun, state=state)  # type: ignore[arg-type]
    back = advance(held, seen(new=Tally(50, 50)), 1001.0)
    assert back.state == "rolled_back"
    assert "refuses 100% of 50" in back.reason


def test_without_anything_to_compare_with_it_goes_on_where_nobody_asks_for_requests(
    begun: Rollout,
) -> None:
    hurried = replace(begun, plan=replace(PLAN, min_requests=0))
    assert advance(hurried, seen(new=NOTHING, old=NOTHING), 2000.0).stage == 1
    # Somebody still has the old one: what it decides is yet to come.
    assert advance(begun, seen(old=NOTHING, old_sidecars=9), 2000.0).stage == 1


def test_a_clock_that_goes_back_delays_it_by_no_more_than_a_stage(begun: Rollout) -> None:
    again = advance(begun, seen(), 1000.0 - 3600)
    assert (again.stage, again.stage_since) == (0, 1000.0 - 3600)
    assert advance(again, seen(), 1000.0 - 3600 + 60).stage == 1
    # Replicas' clocks differ a little.
    assert advance(begun, seen(), 1000.0 - SKEW) is begun
    assert waits(begun, seen(), 1000.0 - SKEW) == "watched for 0s of 60s"


def test_it_says_whom_it_went_on_without(begun: Rollout) -> None:
    second = advance(begun, seen(left_out=2), 2000.0)
    assert second.reason == "stage 50%; 2 sidecars enforce nothing and are left out"


def test_held_it_stays(begun: Rollout) -> None:
    held = replace(begun, state="paused")
    assert advance(held, seen(), 9999.0) is held


def test_onward_goes_on_regardless(begun: Rollout) -> None:
    second = onward(replace(begun, state="paused"), IDS, 1001.0)
    assert (second.stage, second.state) == (1, "running")
    assert onward(onward(second, IDS, 1002.0), IDS, 1003.0).state == "completed"


def test_where_those_of_the_share_are_gone_others_take_their_place(begun: Rollout) -> None:
    others = [f"t{number}" for number in range(10)]
    gone = replace(begun, cutoff=0.0)
    after = advance(gone, Seen(others, 0, 0), 1001.0)
    assert sum(after.includes(each, {}) for each in others) == 1
    assert after.stage == 0


def test_the_end_says_why(begun: Rollout) -> None:
    ended = end(begun, "aborted", "enough", 5.0)
    assert (ended.state, ended.reason, ended.ended, ended.active) == (
        "aborted",
        "enough",
        5.0,
        False,
    )
