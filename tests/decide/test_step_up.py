"""Step-up terms: what a token's acr, amr and auth_time must be, to the second, and one login for all."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from sidecar.decide.step_up import StepUp, together

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("auth_time", "met"),
    [
        (NOW - 300, True),
        (NOW - 300.001, False),
        (NOW - 301, False),
        (NOW + 59, True),
        (NOW + 61, False),  # no clock is that much ahead
        (float("nan"), False),
        (float("inf"), False),
        (2**60, False),
        (True, False),
        (None, False),
        ("1800000000", False),
        ([NOW], False),
    ],
)
def test_how_long_ago(auth_time: Any, met: bool) -> None:
    assert StepUp(max_age=300).met({"auth_time": auth_time}, NOW) is met


def test_an_age_of_nothing_wants_a_login_of_this_moment() -> None:
    assert StepUp(max_age=0).met({"auth_time": NOW}, NOW)
    assert not StepUp(max_age=0).met({"auth_time": NOW - 1}, NOW)


def test_until_when_it_is_shown() -> None:
    assert StepUp(acr=("a",)).until({}) == inf
    assert StepUp(max_age=60).until({"auth_time": NOW}) == NOW + 60
    assert StepUp(max_age=60).until({}) == -inf


def test_all_given_parts_are_asked_for() -> None:
    asked = StepUp(("a", "b"), ("otp", "pwd"), 60)
    claims = {"acr": "b", "amr": ["pwd", "otp"], "auth_time": NOW}
    assert asked.met(claims, NOW)
    for name in claims:
        assert not asked.met({k: v for k, v in claims.items() if k != name}, NOW)


@pytest.mark.parametrize("acr", [None, 1, ["a"], {"a": 1}, "A", "a b"])
def test_an_acr_is_one_text(acr: Any) -> None:
    assert not StepUp(acr=("a", "b")).met({"acr": acr}, NOW)


def test_one_login_for_all() -> None:
    assert together([]) is None
    assert together([StepUp(("a", "b"), (), 60), StepUp(("b", "c"), ("otp",), 30)]) == StepUp(
        ("b",), ("otp",), 30
    )
    assert together([StepUp(("a",)), StepUp(("c",))]) == StepUp(("a", "c"))
    assert together([StepUp(("a",)), StepUp((), ("otp",)), StepUp(max_age=5)]) == StepUp(
        ("a",), ("otp",), 5
    )
