"""A release that is a mistake, given to one sidecar of two: it takes itself back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import aiohttp

from sidecar.demo.step import ENFORCED, Step
from sidecar.demo.world import World
from sidecar.wire import admin_pb2 as pb

PATH: Final = "/accounts/alice/balance"
PLAN: Final = pb.RolloutPlan(
    stages=[pb.Stage(percent=50), pb.Stage(percent=100)], bake=60, min_requests=1000
)


class Canary:
    """Plays it. `token` may read the account."""

    def __init__(self, world: World, session: aiohttp.ClientSession, token: str) -> None:
        self._world = world
        self._session = session
        self._headers = {"authorization": f"Bearer {token}"}

    async def steps(self) -> AsyncIterator[Step]:
        """Each step once it is done."""
        started = time.perf_counter()
        doors = [self._world.address, await self._world.start_another()]
        yield Step("a second sidecar starts beside the bank", "200 200", await self._ask(doors),
                   _since(started), "with what is published")  # fmt: skip
        started = time.perf_counter()
        release = await self._world.apply("frozen.yaml", rollout=PLAN)
        found, refused = "", False
        rollout = await self._world.rollout()
        async with asyncio.timeout(ENFORCED):
            while rollout.state == pb.Rollout.STATE_RUNNING:
                found = await self._ask(doors)
                refused = refused or found in ("403 200", "200 403")
                rollout = await self._world.rollout()
        state = "rolled back" if rollout.state == pb.Rollout.STATE_ROLLED_BACK else "not"
        told = f"{state} from half" if refused else state
        yield Step("a mistake goes to half the sidecars first", "rolled back from half", told,
                   _since(started), f"{release}: {rollout.reason}")  # fmt: skip
        async with asyncio.timeout(ENFORCED):
            while found != "200 200":
                found = await self._ask(doors)
        yield Step("and nobody is refused any more", "200 200", found, _since(started),
                   "since it was published: exposed, noticed, taken back")  # fmt: skip
        await self._world.end_others()

    async def _ask(self, doors: list[str]) -> str:
        """The account, at each of them."""
        found = []
        for door in doors:
            async with self._session.get(door + PATH, headers=self._headers) as answer:
                found.append(str(answer.status))
        return " ".join(found)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
