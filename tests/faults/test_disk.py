"""Disks that are full, on either side, and files that are damaged."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sidecar.decide.documents import Document
from sidecar.errors import ControlPlaneUnreachable
from sidecar.facts.discovery import DiscoveryClient
from sidecar.facts.releases import Manifest
from sidecar.wire import admin_pb2 as pb
from tests.faults.followers import Follower, Ledger, contents, converged, following
from tests.faults.liar import Recorded, lying
from tests.faults.planes import Plane, SmallDisk, plane, small_disk, trust_of
from tests.faults.test_replay import PLATFORM, TRUST
from tests.publishing import apply, policy, release, soon

# --- the control plane's disk --------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "8m") as made:
        yield made


@pytest.fixture
def control(disk: SmallDisk) -> Iterator[Plane]:
    with plane(f"sqlite:///{disk.inside / 'store.db'}", disk.prefix) as made:
        yield made


PAGE = os.sysconf("SC_PAGESIZE")  # what a file system in memory is made of


def large(path: str) -> list[Document]:
    """Documents of some 100 KB, different ones each time."""
    return [policy(f"l{n}", path=path, when=f"'{'x' * 10_000}' != ''") for n in range(10)]


class Publisher:
    """Publishes, and knows what was acknowledged."""

    def __init__(self, control: Plane) -> None:
        self.control = control
        self.ledger = Ledger()

    async def publish(self, *documents: Document) -> str:
        """ "" where it was published, else the answer of who could not."""
        try:
            answer = await apply(
                self.control.address, *documents, prune=True, namespaces=["default"]
            )
        except ControlPlaneUnreachable as error:
            return str(error)
        assert answer.outcome == pb.OUTCOME_PUBLISHED
        self.ledger.published[answer.releases[0].version] = contents(documents)
        return ""


@pytest.mark.parametrize("left", [0, 4096, 40_000])
async def test_a_full_disk_publishes_nothing_and_everything_else_goes_on(
    disk: SmallDisk, control: Plane, tmp_path: Path, left: int
) -> None:
    publisher = Publisher(control)
    trust = trust_of(disk.path / "store.db")
    near, late = [
        Follower(name, control.address, tmp_path / name, trust, publisher.ledger)
        for name in ("near", "late")
    ]
    assert not await publisher.publish(policy("p"))
    async with following(near):
        await near.enforces(1)
        disk.fill(left)
        for number in range(3):
            error = await publisher.publish(*large(f"/{number}"))
            assert "nothing was published" in error
            assert "full" in error
        assert near.life.client.connected
        assert near.life.client.reconnects == 0
        assert near.enforced == 1
        async with following(late):  # who comes now is given what there is
            await late.enforces(1)
        disk.free()
        assert not await publisher.publish(*large("/after"))
        assert publisher.ledger.newest == 2, "what failed took no version"
        await near.enforces(2)
        assert near.life.client.reconnects == 0


async def test_what_was_acknowledged_on_a_disk_that_fills_is_there_after_a_kill(
    disk: SmallDisk, control: Plane, tmp_path: Path
) -> None:
    publisher = Publisher(control)
    number, error = 0, ""
    disk.fill(1_000_000)
    while not error:  # until it is full in the middle of one of them
        number += 1
        assert number < 200
        error = await publisher.publish(*large(f"/{number}"))
    assert "nothing was published" in error
    control.kill()
    disk.free()
    address = await control.started()
    trust = trust_of(disk.path / "store.db")
    follower = Follower("one", address, tmp_path / "state", trust, publisher.ledger)
    async with following(follower):
        await converged([follower], publisher.ledger.newest)
        assert not await publisher.publish(policy("p"))
        await converged([follower], publisher.ledger.newest)


async def test_a_control_plane_that_begins_on_a_full_disk_serves_what_there_is(
    disk: SmallDisk, control: Plane, tmp_path: Path
) -> None:
    publisher = Publisher(control)
    trust = trust_of(disk.path / "store.db")
    assert not await publisher.publish(policy("p"))
    disk.fill()
    for name, end in (("killed", control.kill), ("ended", control.terminate)):
        end()
        address = await control.started()
        follower = Follower(name, address, tmp_path / name, trust, publisher.ledger)
        async with following(follower):
            await follower.enforces(1)
            assert "nothing was published" in await publisher.publish(*large("/x"))
    disk.free()
    assert not await publisher.publish(policy("q"))


# --- the sidecar's disk --------------------------------------------------------------------------


def recorded(version: int, *documents: Document, floor: int = 0) -> Recorded:
    return Recorded(
        {"default": release(documents, version=version, floor=floor), "platform": PLATFORM},
        documents,
    )


async def test_a_sidecar_whose_disk_is_full_enforces_what_it_cannot_save(disk: SmallDisk) -> None:
    """A restart then begins with what is on the disk, and with the floor that is."""
    small = [recorded(v, policy("p", path=f"/{v}"), floor=v // 2) for v in range(1, 6)]
    ledger = Ledger({v: contents(each.documents) for v, each in enumerate(small, 1)})
    async with lying() as (address, liar):
        one = Follower("one", address, disk.path / "state", TRUST, ledger)
        async with following(one):
            peer = await liar.stream("one")
            assert not await peer.push(small[0])
            assert not await peer.push(small[1])
            disk.fill()
            for version in (3, 4):
                assert not await peer.push(small[version - 1])
                assert one.enforced == version
                assert not one.life.client.saved
                assert "No space left" in one.life.client.last_error
            assert "below the floor, 2" in await peer.push(small[0])
            await one.end()
            assert one.saved() == [2, 1]
            one.floor = Manifest.from_bytes(small[1].manifests["default"].manifest).floor
            one.begin()
            one.run()
            peer = await liar.stream("one")
            assert one.enforced == 2
            disk.free()
            assert not await peer.push(small[4])
            assert one.life.client.saved
            await one.end()
            assert one.saved() == [5, 2]


async def test_what_could_not_be_saved_is_saved_once_it_can_be(disk: SmallDisk) -> None:
    releases = [recorded(v, policy("p", path=f"/{v}"), floor=v) for v in (1, 2)]
    ledger = Ledger({v: contents(each.documents) for v, each in enumerate(releases, 1)})
    async with lying() as (address, liar):
        one = Follower("one", address, disk.path / "state", TRUST, ledger)
        async with following(one):
            peer = await liar.stream("one")
            assert not await peer.push(releases[0])
            disk.fill()
            assert not await peer.push(releases[1])
            for still_full in (True, False):
                if not still_full:
                    disk.free()
                peer.over.set()
                peer = await liar.stream("one")
                client, errors = one.life.client, one.life.client.last_error
                await peer.idle()  # nothing new: the control plane is only heard again
                await one.current()
                await soon(
                    partial(_settled, client, still_full, errors), lambda: asyncio.sleep(0.005)
                )
            await one.end()
            assert one.saved()[0] == 2


def _settled(client: DiscoveryClient, still_full: bool, before: str) -> bool:
    if still_full:
        return "No space left" in client.last_error and client.last_error != before
    return client.saved and not client.last_error


async def test_a_disk_that_fills_between_the_release_and_the_memory_keeps_the_higher_floor(
    disk: SmallDisk,
) -> None:
    releases = [recorded(1, policy("p")), recorded(2, policy("q"), floor=2)]
    ledger = Ledger({v: contents(each.documents) for v, each in enumerate(releases, 1)})
    async with lying() as (address, liar):
        one = Follower("one", address, disk.path / "state", TRUST, ledger)
        async with following(one):
            peer = await liar.stream("one")
            assert not await peer.push(releases[0])
            disk.fill(PAGE)
            assert not await peer.push(releases[1])
            assert not one.life.client.saved
            assert "memory" in one.life.client.last_error
            await one.end()
            assert one.saved() == [2]
            one.begin()
            one.run()
            peer = await liar.stream("one")
            assert one.enforced == 2
            assert "below the floor, 2" in await peer.push(releases[0])


@pytest.mark.parametrize("left", [0, 1, 1000, 5000, 20_000, 60_000])
async def test_a_disk_that_fills_while_a_release_is_saved_keeps_a_whole_one(
    disk: SmallDisk, left: int
) -> None:
    releases = [recorded(v, *large(f"/{v}"), floor=v) for v in range(1, 4)]
    ledger = Ledger({v: contents(each.documents) for v, each in enumerate(releases, 1)})
    async with lying() as (address, liar):
        one = Follower("one", address, disk.path / "state", TRUST, ledger)
        async with following(one):
            peer = await liar.stream("one")
            assert not await peer.push(releases[0])
            disk.fill(left)
            assert not await peer.push(releases[1])
            assert not one.life.client.saved
            assert one.enforced == 2
            await one.end()
            assert one.saved() == [1]
            one.floor = 1  # the one above was never on a disk
            one.begin()
            assert await one.restored() is not None
            assert one.enforced == 1
            disk.free()
            one.run()
            peer = await liar.stream("one")
            assert not await peer.push(releases[2])
            assert one.life.client.saved
