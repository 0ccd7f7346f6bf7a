"""Which sidecars a stage concerns: stable, growing, and never none of a few."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.control.rollouts.plan import (
    Limits,
    Plan,
    PlanRefused,
    Rollout,
    Stage,
    cutoff,
    place,
)
from sidecar.control.rollouts.steps import begin, onward

HALVES = Plan((Stage(0.1), Stage(0.5), Stage(1.0)))
IDS = [f"sidecar-{number}" for number in range(200)]


def rollout(plan: Plan = HALVES, version: int = 2) -> Rollout:
    return Rollout("default", version, 1, plan, "alice", 1000.0)


def included(found: Rollout, ids: list[str]) -> set[str]:
    return {each for each in ids if found.includes(each, {})}


@given(st.integers(1, 200), st.floats(0.001, 0.999), st.integers(1, 50))
def test_a_share_is_rounded_up_whatever_it_is_of(count: int, share: float, version: int) -> None:
    ids = IDS[:count]
    begun = begin(rollout(Plan((Stage(share), Stage(1.0))), version), ids, 0.0)
    assert len(included(begun, ids)) == ceil(share * count - 1e-9)


@given(st.lists(st.text("abc-123", min_size=1), min_size=1, unique=True), st.integers(1, 9))
def test_who_is_in_stays_in(ids: list[str], version: int) -> None:
    found = begin(rollout(version=version), ids, 0.0)
    before: set[str] = set()
    while found.active:
        now = included(found, ids)
        assert before <= now
        before = now
        found = onward(found, ids, 1.0)
    assert found.state == "completed"
    assert included(found, ids) == set(ids) == before


def test_others_go_first_in_the_next_rollout() -> None:
    one, two = (included(begin(rollout(version=v), IDS, 0.0), IDS) for v in (2, 3))
    assert len(one) == len(two) == 20
    assert one != two


def test_who_comes_later_is_a_share_too() -> None:
    begun = begin(rollout(), IDS[:100], 0.0)
    later = [f"later-{number}" for number in range(1000)]
    assert 50 < len(included(begun, later)) < 200


def test_of_nobody_a_share_is_a_share_of_those_to_come() -> None:
    begun = begin(rollout(), [], 0.0)
    assert 0 < len(included(begun, IDS)) < 60


def test_two_of_two_are_not_all_there_will_be() -> None:
    assert cutoff("default@2", 0.9, IDS[:2]) < 1
    assert cutoff("default@2", 1.0, IDS[:2]) == 1


def test_labels_concern_those_with_all_of_them_and_shares_come_on_top() -> None:
    plan = Plan((Stage(labels={"zone": "a", "app": "web"}), Stage(0.5), Stage(1.0)))
    found = begin(rollout(plan), IDS, 0.0)
    labels = {"zone": "a", "app": "web", "more": "x"}
    assert found.includes("any", labels)
    assert not found.includes("any", {"zone": "a"})
    assert not included(found, IDS)
    second = onward(found, IDS, 1.0)
    assert len(included(second, IDS)) == 100
    assert all(second.includes(each, labels) for each in IDS)


def test_ended_it_includes_everybody_or_nobody() -> None:
    begun = begin(rollout(), IDS, 0.0)
    assert not included(replace(begun, state="aborted"), IDS)
    assert not included(replace(begun, state="rolled_back"), IDS)
    assert included(replace(begun, state="completed"), IDS) == set(IDS)
    assert included(replace(begun, state="paused"), IDS) == included(begun, IDS)


def test_places_are_spread_and_depend_on_both() -> None:
    places = [place("default@2", each) for each in IDS]
    assert all(0 <= each < 1 for each in places)
    assert 0.4 < sum(places) / len(places) < 0.6
    assert place("default@2", "a") != place("default@3", "a")
    assert place("default@2", "a") == place("default@2", "a")


def test_a_plan_survives_the_store() -> None:
    plan = Plan((Stage(labels={"zone": "ä"}), Stage(0.25), Stage(1.0)), 5.0, 0, Limits(latency=3.0))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(()), "stages"),
        (Plan((Stage(0.5),)), "everybody"),
        (Plan((Stage(0.5), Stage(0.5), Stage(1.0))), "grow"),
        (Plan((Stage(0.5), Stage(0.1), Stage(1.0))), "grow"),
        (Plan((Stage(0.0), Stage(1.0))), "grow"),
        (Plan((Stage(1.5),)), "grow"),
        (Plan((Stage(float("nan")), Stage(1.0))), "grow"),
        (Plan((Stage(1.0), Stage(labels={"a": "b"}))), "everybody"),
        (Plan((Stage(0.1, {"a": "b"}), Stage(1.0))), "not both"),
        (Plan((Stage(labels={"a": "b" * 300}), Stage(1.0))), "253 characters"),
        (Plan((Stage(1.0),), bake=-1), "bake"),
        (Plan((Stage(1.0),), bake=1e9), "bake"),
        (Plan((Stage(1.0),), limits=Limits(errors=1.5)), "limits"),
        (Plan((Stage(1.0),), limits=Limits(latency=0.5)), "limits"),
        (Plan((Stage(1.0),), limits=Limits(latency=float("nan"))), "limits"),
        (Plan(tuple(Stage(n / 100) for n in range(1, 30))), "stages"),
    ],
)
def test_a_plan_that_makes_no_sense_says_why(plan: Plan, said: str) -> None:
    with pytest.raises(PlanRefused, match=said):
        plan.check()


def test_usual_plans_are_fine() -> None:
    HALVES.check()
    Plan((Stage(1.0),)).check()
    Plan((Stage(labels={"a": "b"}), Stage(labels={"a": "c"}), Stage(1.0))).check()
