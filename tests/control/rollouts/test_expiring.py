"""What had its time is taken back, whatever stands in its way at first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sidecar.control.applications import Application, Result
from sidecar.control.catalogue import Catalogue
from sidecar.control.publish import Publisher
from sidecar.control.releases import By
from sidecar.control.rollouts.expiring import FIRST, Expiring
from sidecar.control.rollouts.plan import Plan, Rollout, Stage
from sidecar.control.rollouts.steps import end
from sidecar.control.schema import expiries
from sidecar.control.store import Store
from sidecar.decide.documents import Document
from sidecar.errors import Problem
from tests.publishing import policy

PLAN = Plan((Stage(0.5), Stage(1.0)))


class Desk:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1000.0
        store.clock = lambda: self.now
        self.verdict: list[Problem] = []
        self.looked = 0
        self.catalogue = Catalogue()
        self.publisher = Publisher(store, self.catalogue, self._validate, lambda _: None)
        self.expiring = Expiring(store, self.catalogue, self.publisher, self._steer)

    def _validate(self, _documents: Sequence[Document]) -> list[Problem]:
        self.looked += 1
        return self.verdict

    async def _steer(
        self, namespace: str, action: str, reason: str, version: int, by: By
    ) -> Rollout:
        assert action == "abort"
        line = self.catalogue.line(namespace)
        assert line is not None
        assert line.rollout is not None
        assert line.rollout.version == version
        changed = await self.store.steer(end(line.rollout, "aborted", reason, self.now), by)
        assert changed is not None
        self.catalogue.steer(changed)
        return changed

    async def apply(self, *documents: Document, **fields: Any) -> Result:
        texts = [document.canonical for document in documents]
        return await self.publisher.apply(Application(texts, **fields))

    async def look(self, at: float) -> list[str]:
        """The names that are published after a look at that time."""
        self.now = at
        await self.expiring.look()
        return [document.name for document in self.catalogue.documents("default")]

    async def outcomes(self) -> dict[int, str]:
        async with self.store.reading() as connection:
            rows = await connection.execute(select(expiries))
            return {row.version: row.outcome for row in rows if row.done}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    made = Desk(store)
    await made.publisher.refresh()
    await made.apply(policy("a"))
    yield made
    await store.close()


async def test_not_before_its_time_and_once(desk: Desk) -> None:
    await desk.apply(policy("b"), ttl=60.0)
    assert await desk.look(1059.9) == ["a", "b"]
    assert await desk.look(1060.0) == ["a"]
    assert await desk.outcomes() == {2: "taken back"}
    assert await desk.look(1061.0) == ["a"]
    assert desk.catalogue.newest_version("default") == 3


async def test_in_its_own_rollout_it_is_ended(desk: Desk) -> None:
    await desk.apply(policy("b"), ttl=60.0, rollout=PLAN)
    assert await desk.look(1060.0) == ["a"]
    line = desk.catalogue.line("default")
    assert line is not None
    assert (line.rollout, line.stable.version) == (None, 1)
    assert await desk.outcomes() == {2: "its rollout was ended"}
    assert desk.expiring.overdue == 0


async def test_behind_another_one_it_waits_and_is_overdue(desk: Desk) -> None:
    await desk.apply(policy("b"), ttl=60.0)
    await desk.apply(policy("c"), rollout=PLAN)
    assert await desk.look(1060.0) == ["a", "b"]
    assert desk.expiring.overdue == 1
    await desk._steer("default", "abort", "", 3, By())
    assert await desk.look(1061.0) == ["a"]
    assert desk.expiring.overdue == 0


async def test_what_cannot_go_is_tried_again_ever_more_seldom(desk: Desk) -> None:
    await desk.apply(policy("b"), ttl=60.0)
    desk.verdict = [Problem("somebody needs it")]
    before = desk.looked
    moment = 1060.0
    for _ in range(200):
        assert await desk.look(moment) == ["a", "b"]
        moment += FIRST / 2
    assert desk.expiring.overdue == 1
    assert 5 <= desk.looked - before < 20
    desk.verdict = []
    assert await desk.look(moment + 1000) == ["a"]
    assert desk.expiring.overdue == 0
