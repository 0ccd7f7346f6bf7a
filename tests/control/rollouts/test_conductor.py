"""Whom the conductor hears."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet
from sidecar.control.reach import Everyone
from sidecar.control.rollouts.conductor import Conductor
from sidecar.control.rollouts.health import NOTHING, Tally
from sidecar.control.rollouts.plan import Plan, Rollout, Stage
from sidecar.control.session import Session
from sidecar.control.store import Store
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Report

ROLLOUT = Rollout("default", 2, 1, Plan((Stage(0.5), Stage(1.0))), "alice", 0.0)


class Stream:
    """A session as far as reports concern it."""

    def __init__(self, confirmed: Mapping[str, int]) -> None:
        self.sidecar_id, self.namespace, self.confirmed = "s1", "default", confirmed


@pytest.fixture
async def conductor(tmp_path: Path) -> Any:
    store = await Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    catalogue, fleet = Catalogue(), Fleet(10)
    catalogue.rollouts = lambda: [ROLLOUT]  # type: ignore[method-assign]
    yield Conductor(
        store, catalogue, fleet, Everyone(catalogue, fleet, None), cast("Any", None),
        lambda _: None, monotonic=lambda: 0.0,
    )  # fmt: skip
    await store.close()


@pytest.mark.parametrize(
    ("confirmed", "said", "heard"),
    [
        ({"default": 2, "platform": 0}, {"default": 2, "platform": 0}, Tally(10, 3)),
        ({"default": 2}, {"default": 2, "platform": 9}, Tally(10, 3)),
        ({"default": 1}, {"default": 2}, NOTHING),
        ({}, {"default": 2}, NOTHING),
        ({"default": 2, "other": 2}, {"default": 2, "other": 2}, NOTHING),
    ],
)
def test_sidecars_are_heard_about_what_they_have_confirmed(
    conductor: Conductor, confirmed: dict[str, int], said: dict[str, int], heard: Tally
) -> None:
    report = Report(enforced=convert.enforced_to_wire(said), requests=10, refused=3)
    conductor.reported(cast("Session", Stream(confirmed)), report)
    assert conductor.tallies.of(ROLLOUT)[0] == heard


def test_who_says_more_than_can_be_is_not_believed(conductor: Conductor) -> None:
    stream = cast("Session", Stream({"default": 2}))
    enforced = convert.enforced_to_wire({"default": 2})
    for requests in (1 << 50, 1 << 40, 1 << 40):
        conductor.reported(stream, Report(enforced=enforced, requests=requests))
    assert conductor.tallies.of(ROLLOUT)[0] == Tally(1_000)
