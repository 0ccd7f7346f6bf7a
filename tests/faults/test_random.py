"""Faults in random order, from seeds: whatever happens, sidecars enforce what was last assigned to
them and verified, and never less than the floor; and once it is over, the newest.

A failure prints its seed and steps. `SIDECAR_FAULT_SEEDS=7,8,9` runs others, `SIDECAR_FAULT_STEPS`
says how many steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.decide.documents import Document
from sidecar.errors import ControlPlaneUnreachable, SidecarError, StateUnusable
from sidecar.facts.admin import AdminClient
from sidecar.facts.discovery import DiscoveryClient
from sidecar.facts.state import GENERATIONS
from sidecar.wire import admin_pb2 as pb
from tests.faults.followers import Follower, Ledger, contents, converged
from tests.faults.liar import Liar, Peer, Recorded, lies, lying
from tests.faults.planes import Plane, SmallDisk, plane, small_disk, trust_of
from tests.faults.proxy import Proxy, proxied
from tests.publishing import WITHIN, apply, policy, soon

SEEDS = [int(seed) for seed in os.environ.get("SIDECAR_FAULT_SEEDS", "1,2").split(",")]
STEPS = int(os.environ.get("SIDECAR_FAULT_STEPS", "70"))


class World:
    """A control plane, and behind a link each two sidecars: one whose disk is large, one whose disk
    is small. What is done to them is a step; steps are drawn."""

    def __init__(
        self,
        seed: int,
        control: Plane,
        liar: tuple[str, Liar],
        proxies: list[Proxy],
        disk: SmallDisk,
        folder: Path,
        store: Path,
    ) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.control = control
        self.liar_address, self.liar = liar
        self.proxies = proxies
        self.disk = disk
        self.ledger = Ledger()
        self.documents: dict[int, list[Document]] = {}
        self.canary = -1  # the version that is given to a part of them; -1: none
        self.log: list[str] = []
        folders = [folder / "large", disk.path / "small"]
        self.followers = [
            Follower(f"s{n}", proxy.address, folders[n], trust_of(store), self.ledger)
            for n, proxy in enumerate(proxies)
        ]
        self.recorded: dict[int, Recorded] = {}
        self.steps: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (24, self.publish),
            (8, self.raise_floor),
            (6, self.roll_back),
            (6, self.begin_a_canary),
            (4, self.abort_the_canary),
            (8, self.cut),
            (5, self.cut_in_the_middle),
            (5, self.refuse),
            (5, self.stall),
            (5, self.slow_down),
            (8, self.heal),
            (6, self.wait),
            (4, self.kill_the_control_plane),
            (2, self.end_the_control_plane),
            (10, self.restart_a_sidecar),
            (8, self.restart_a_sidecar_with_damage),
            (5, self.fill_the_disk),
            (5, self.free_the_disk),
            (10, self.lie),
        ]

    async def run(self, steps: int) -> None:
        for each in self.followers:
            each.begin()
            each.run()
        weights = [weight for weight, _ in self.steps]
        for number in range(steps):
            (_, step), *_ = self.random.choices(self.steps, weights)
            self.log.append(f"{number}: {step.__name__}")
            self.log[-1] += f" {await step()}"
            self.check()
        self.log.append("over")
        await self.over()

    def check(self) -> None:
        """What must always hold."""
        for each in self.followers:
            for assignment in each.adopted:
                version = assignment.versions["default"]
                self.recorded.setdefault(version, Recorded.of(assignment))
            each.check()

    async def over(self) -> None:
        """No fault any more: all enforce the newest release."""
        self.disk.free()
        for proxy in self.proxies:
            await proxy.heal()
            proxy.target = self.control.address
            proxy.cut()
        await self.publish()
        await converged(self.followers, self.ledger.newest)
        for each in self.followers:
            await each.current()  # acknowledged, and so on the disk
            assert each.life.client.saved
            await each.end()
            assert each.saved()[0] == self.ledger.newest

    # What the control plane does.

    async def publish(self) -> str:
        number = self.random.randrange(10**9)
        documents = [
            policy(f"p{n}", path=f"/{number}/{n}") for n in range(self.random.randint(1, 3))
        ]
        if self.random.random() < 0.3:
            documents.append(policy("large", when=f"'{number}{'x' * 12_000}' != ''"))
        return await self._apply(documents)

    async def raise_floor(self) -> str:
        return await self._apply([policy("p0", path=f"/{len(self.log)}/floor")], raise_floor=True)

    async def roll_back(self) -> str:
        if not self.documents:
            return "nothing yet"
        return await self._apply(self.documents[self.random.choice(sorted(self.documents))])

    async def begin_a_canary(self) -> str:
        """One of two is given a release that is never given to both."""
        if not self.documents:
            return "there is nothing to go back to"
        stages = [pb.Stage(percent=50), pb.Stage(percent=100)]
        plan = pb.RolloutPlan(stages=stages, bake=86_400, min_requests=1_000_000)
        await self._reachable()
        said = await self._apply([policy("p0", path=f"/{len(self.log)}/canary")], rollout=plan)
        self.canary = self.ledger.newest
        await soon(
            lambda: self.canary in [each.enforced for each in self.followers],
            lambda: asyncio.sleep(0.005),
        )
        return f"{said}: at {[each.enforced for each in self.followers]}"

    async def abort_the_canary(self) -> str:
        """Who had it goes back to an older release."""
        if self.canary < 0:
            return "none"
        version = self.canary
        await self._reachable()
        await self._abort()
        await soon(
            lambda: self.followers[0].enforced == self.followers[1].enforced != version,
            lambda: asyncio.sleep(0.005),
        )
        return f"of {version}: all at {self.followers[0].enforced}"

    async def _reachable(self) -> None:
        """All links stand, and the control plane knows whose they are."""
        for follower, proxy in zip(self.followers, self.proxies, strict=True):
            client = follower.life.client
            before = client.connects
            await proxy.heal()
            proxy.cut()
            await soon(partial(_again, client, before), lambda: asyncio.sleep(0.005))
            await follower.current()

    async def _abort(self) -> None:
        if self.canary < 0:
            return
        request = pb.SteerRequest(
            namespace="default", action=pb.SteerRequest.ACTION_ABORT, reason="over"
        )
        async with AdminClient(self.control.address, timeout=WITHIN) as client:
            with contextlib.suppress(SidecarError):  # it is away
                await client.steer(request)
                self.canary = -1

    async def _apply(self, documents: list[Document], **fields: Any) -> str:
        await self._abort()  # one at a time is possible
        try:
            answer = await apply(
                self.control.address, *documents, prune=True, namespaces=["default"], **fields
            )
        except ControlPlaneUnreachable as error:
            self.ledger.unanswered.append(contents(documents))
            return str(error)
        if answer.outcome == pb.OUTCOME_UNCHANGED:
            return "unchanged"
        assert answer.outcome == pb.OUTCOME_PUBLISHED, answer
        version = answer.releases[0].version
        self.ledger.published[version] = contents(documents)
        self.documents[version] = documents
        return f"-> {version}"

    async def kill_the_control_plane(self) -> str:
        """In the middle of an apply."""
        applying = asyncio.create_task(self.publish())
        await asyncio.sleep(self.random.random() * 0.012)  # an apply takes some 8 ms
        self.control.kill()
        said = await applying
        await self._begin_again()
        return said

    async def end_the_control_plane(self) -> str:
        await asyncio.to_thread(self.control.terminate)
        await self._begin_again()
        return ""

    async def _begin_again(self) -> None:
        before = self.control.address
        address = await self.control.started()
        for proxy in self.proxies:
            if proxy.target == before:
                proxy.target = address

    # What happens to the links.

    def _link(self) -> Proxy:
        return self.random.choice(self.proxies)

    async def cut(self) -> str:
        self._link().cut()
        return ""

    async def cut_in_the_middle(self) -> str:
        count = self.random.choice((1, 10, 100, 1000, 10_000))
        self._link().cut_after(count)
        return f"of {count}"

    async def refuse(self) -> str:
        await self._link().refuse()
        return ""

    async def stall(self) -> str:
        self._link().stall()
        return ""

    async def slow_down(self) -> str:
        link = self._link()
        link.delay = self.random.choice((0.0, 0.005, 0.02))
        link.rate = self.random.choice((None, 200_000.0, 1_000_000.0))
        return f"{link.delay} {link.rate}"

    async def heal(self) -> str:
        link = self._link()
        await link.heal()
        return ""

    async def wait(self) -> str:
        """Until one that can be reached enforces the newest."""
        number = self.random.randrange(len(self.followers))
        await self.proxies[number].heal()
        # What hung for too long was broken meanwhile by who noticed, or is by us.
        self.proxies[number].cut()
        await self.followers[number].enforces(await self._newest())
        return f"{self.followers[number].name} at {self.followers[number].enforced}"

    async def _newest(self) -> int:
        """What the control plane assigns now; an apply without an answer may have been one."""
        with contextlib.suppress(ControlPlaneUnreachable):
            await self._apply([policy("newest", path=f"/{self.random.randrange(10**9)}")])
        return self.ledger.newest

    # What happens to sidecars and their disks.

    async def restart_a_sidecar(self) -> str:
        return await self._restart(self.random.choice(self.followers))

    async def restart_a_sidecar_with_damage(self) -> str:
        """To one of its files, or to both releases, while what it must remember is elsewhere."""
        follower = self.random.choice(self.followers)
        names = self.random.choice([("memory",), ("release",), ("release.1",), GENERATIONS])
        how = self.random.choice(["cut", "empty", "flipped", "lost"])
        return await self._restart(follower, names, how)

    async def _restart(
        self, follower: Follower, names: tuple[str, ...] = (), how: str = "cut"
    ) -> str:
        await follower.end()
        for name in names:
            with contextlib.suppress(OSError):  # a full disk
                follower.damage(name, how)
        saved = follower.saved()
        try:
            follower.forget_what_was_not_saved()
        except StateUnusable:
            # Nothing of what it must remember can be read: it does not begin before somebody says
            # so, by removing the folder; and then as if for the first time.
            follower.begin()
            with pytest.raises(StateUnusable, match="remove the folder"):
                await follower.restored()
            assert follower.enforced == -1
            await follower.end()
            follower.remove()
            saved, how = [], f"{how}, removed"
        follower.begin()
        await follower.restored()
        # What it begins with is the newest that its disk has, whole and not below the floor.
        assert follower.enforced == (saved[0] if saved else -1), saved
        follower.run()
        return f"{follower.name}, {how} {names}: at {follower.enforced} of {saved}"

    async def fill_the_disk(self) -> str:
        self.disk.fill(self.random.choice((0, 0, 4096, 12_000)))
        return ""

    async def free_the_disk(self) -> str:
        self.disk.free()
        return ""

    # A control plane that lies.

    async def lie(self) -> str:
        """For as long as one stream, one sidecar hears nothing else."""
        number = self.random.randrange(len(self.followers))
        follower, link = self.followers[number], self.proxies[number]
        if len(self.recorded) < 2:
            return "nothing was recorded yet"
        await link.heal()
        link.target = self.liar_address
        link.cut()
        try:
            return f"{follower.name}: {await self._lies(follower)}"
        finally:
            link.target = self.control.address
            link.cut()

    async def _lies(self, follower: Follower) -> str:
        peer = await self._peer(follower)
        old, new = self.random.sample(sorted(self.recorded), 2)
        if self.random.random() < 0.5:
            old = min(self.recorded.keys() - {new})
        made = lies(self.recorded[old], self.recorded[new])
        follower.check()
        for name in self.random.sample(sorted(made), 4):
            held = follower.enforced
            assert await peer.push(made[name]), name
            assert follower.enforced == held, name
        # Validly signed and whole: enforced again if it is not below the floor.
        error = await peer.push(self.recorded[old])
        if old < follower.floor:
            assert "below the floor" in error
            assert follower.enforced != old
            return f"{old} refused"
        assert not error
        assert follower.enforced == old
        return f"{old} replayed"

    async def _peer(self, follower: Follower) -> Peer:
        """Its newest stream; those that were cut meanwhile are passed over."""
        while True:
            peer = await self.liar.stream(follower.name)
            if not peer.over.is_set():
                return peer


def _again(client: DiscoveryClient, before: int) -> bool:
    return client.connects > before


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "128k") as made:
        yield made


@asynccontextmanager
async def links(address: str) -> AsyncIterator[list[Proxy]]:
    async with proxied(address) as one, proxied(address) as other:
        yield [one, other]


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens(seed: int, tmp_path: Path, disk: SmallDisk) -> None:
    store = tmp_path / "store.db"
    with plane(f"sqlite:///{store}") as control:
        async with links(control.address) as proxies, lying() as liar:
            world = World(seed, control, liar, proxies, disk, tmp_path, store)
            try:
                await world.run(STEPS)
            except BaseException:
                print(f"seed {seed}:", *world.log, sep="\n")
                raise
            finally:
                for each in world.followers:
                    if each._sidecar is not None:
                        await each.life.stop()
                        each._sidecar = None
                    await each.end()
