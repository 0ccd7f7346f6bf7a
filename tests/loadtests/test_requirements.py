"""What is timed is what is meant: each thing that can be asked for is asked, and met."""

from __future__ import annotations

import pytest

from loadtests.micro.requirements import ASKED, Costs


@pytest.fixture(scope="module")
def costs() -> Costs:
    return Costs()


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("asked", ASKED)
def test_each_is_met(costs: Costs, asked: str, remembers: bool) -> None:
    work = costs.work(ASKED[asked], remembers=remembers)
    work()
    work()
