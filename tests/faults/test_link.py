"""A link that breaks, hangs and crawls: sidecars go on with what they hold, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.followers import Follower, Ledger, contents, converged, following
from tests.faults.planes import Plane, plane, trust_of
from tests.faults.proxy import Proxy, proxied
from tests.publishing import apply, policy, soon


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    store = tmp_path_factory.mktemp("plane") / "store.db"
    with plane(f"sqlite:///{store}") as made:
        yield made


class World:
    """A control plane, a link and a sidecar behind it."""

    def __init__(self, control: Plane, proxy: Proxy, folder: Path) -> None:
        self.control = control
        self.proxy = proxy
        self.ledger = Ledger()
        store = Path(control.url.removeprefix("sqlite:///"))
        self.follower = Follower("one", proxy.address, folder, trust_of(store), self.ledger)

    async def publish(self, path: str, size: int = 0) -> int:
        """One release, beside the link: its version."""
        documents = [policy("p", path=path)]
        if size:
            documents.append(policy("large", path=path, when=f"'{'x' * size}' != ''"))
        answer = await apply(self.control.address, *documents, prune=True, namespaces=["default"])
        version = answer.releases[0].version
        self.ledger.published[version] = contents(documents)
        return version


@pytest.fixture
async def world(control: Plane, tmp_path: Path) -> object:
    async with proxied(control.address) as proxy:
        made = World(control, proxy, tmp_path / "state")
        # What tests before this one published may come first.
        first = await made.publish(f"/{tmp_path.name}")
        async with following(made.follower):
            await made.follower.enforces(first)
            yield made


async def test_a_cut_link_is_made_anew_and_only_what_changed_comes(world: World) -> None:
    for number in range(5):
        world.proxy.cut()
        version = await world.publish(f"/cut/{number}")
        await world.follower.enforces(version)
    assert world.follower.life.client.reconnects >= 5


async def test_while_nobody_answers_what_is_held_is_enforced(world: World) -> None:
    held = world.follower.enforced
    await world.proxy.refuse()
    world.proxy.cut()
    versions = [await world.publish(f"/away/{number}") for number in range(3)]
    failed = world.follower.life.client.reconnects + 2
    await soon(
        lambda: world.follower.life.client.reconnects >= failed, lambda: asyncio.sleep(0.005)
    )
    assert world.follower.enforced == held
    assert not world.follower.life.client.connected
    await world.proxy.accept()
    await world.follower.enforces(versions[-1])


async def test_what_hung_comes_through_in_the_end(world: World) -> None:
    world.proxy.stall()
    held = world.follower.enforced
    versions = [await world.publish(f"/hung/{number}") for number in range(3)]
    assert world.follower.enforced == held
    world.proxy.flow()
    await world.follower.enforces(versions[-1])
    assert world.follower.life.client.reconnects == 0


async def test_what_hung_and_then_broke_is_sent_again(world: World) -> None:
    world.proxy.stall()
    version = await world.publish("/hung/broken")
    world.proxy.cut()
    world.proxy.flow()
    await world.follower.enforces(version)


async def test_a_slow_link_only_delays(world: World) -> None:
    world.proxy.delay, world.proxy.rate = 0.02, 100_000.0
    versions = [await world.publish(f"/slow/{number}", size=10_000) for number in range(3)]
    await world.follower.enforces(versions[-1])


@pytest.mark.parametrize("count", [1, 9, 100, 5_000])
async def test_a_push_cut_in_its_middle_leaves_the_release_before(world: World, count: int) -> None:
    held = world.follower.enforced
    adopted = len(world.follower.adopted)
    await world.proxy.refuse()  # so that it stays cut until the test has looked
    world.proxy.cut_after(count)
    version = await world.publish(f"/half/{count}", size=12_000)
    await world.proxy.until(lambda proxy: proxy.connections == 0)
    client = world.follower.life.client
    await soon(lambda: not client.connected, lambda: asyncio.sleep(0.005))
    assert world.follower.enforced == held
    assert len(world.follower.adopted) == adopted
    await world.proxy.accept()
    await converged([world.follower], version)


async def test_a_control_plane_killed_and_ended_again_and_again(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with plane(f"sqlite:///{store}") as control:
        async with proxied(control.address) as proxy:
            made = World(control, proxy, tmp_path / "state")
            version = await made.publish("/0")
            async with following(made.follower):
                await made.follower.enforces(version)
                for number, end in enumerate((control.kill, control.terminate), 1):
                    end()
                    assert made.follower.enforced == version
                    proxy.target = await control.started()
                    version = await made.publish(f"/{number}")
                    await made.follower.enforces(version)
