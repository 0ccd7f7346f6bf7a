"""A control plane that lies: old releases again, mixed, altered, forged, below the floor."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sidecar.decide.documents import Document
from sidecar.facts.releases import SignedManifest
from sidecar.facts.signing import TrustedKeys, raw_public_key
from sidecar.facts.state import GENERATIONS
from tests.faults.followers import Follower, Ledger, contents, following
from tests.faults.liar import Liar, Peer, Recorded, lies, lying
from tests.publishing import KEY, policy, release

TRUST = TrustedKeys(frozenset([raw_public_key(KEY)]))
PLATFORM = release(namespace="platform", version=0)


def published(version: int, *documents: Document, floor: int = 0) -> Recorded:
    """A release as the real control plane once signed it."""
    signed: SignedManifest = release(documents, version=version, floor=floor)
    return Recorded({"default": signed, "platform": PLATFORM}, documents)


RELEASES = {
    each.manifest.version: each
    for each in (
        published(1, policy("p", path="/1")),
        published(2, policy("p", path="/2"), policy("q")),
        published(3, policy("p", path="/3"), policy("q"), floor=2),
        published(4, policy("p", path="/4"), floor=2),
    )
}


@dataclass
class Lied:
    """A sidecar at the liar's, with its stream."""

    follower: Follower
    peer: Peer
    liar: Liar

    async def again(self) -> None:
        """Its next life, still at the liar's."""
        await self.follower.end()
        self.follower.begin()
        self.follower.run()
        self.peer = await self.liar.stream(self.follower.name)


@pytest.fixture
async def lied(tmp_path: Path) -> AsyncIterator[Lied]:
    ledger = Ledger({v: contents(each.documents) for v, each in RELEASES.items()})
    async with lying() as (address, liar):
        follower = Follower("one", address, tmp_path / "state", TRUST, ledger)
        async with following(follower):
            yield Lied(follower, await liar.stream("one"), liar)


async def test_what_was_verified_last_is_enforced_whatever_is_pushed_then(lied: Lied) -> None:
    for old, new in ((1, 2), (2, 3), (3, 4), (4, 3)):
        assert not await lied.peer.push(RELEASES[new])
        for name, lie in lies(RELEASES[old], RELEASES[new]).items():
            adopted = len(lied.follower.adopted)
            assert await lied.peer.push(lie), name
            assert lied.follower.enforced == new, name
            assert len(lied.follower.adopted) == adopted, name
            lied.follower.check()


async def test_an_older_release_is_enforced_again_while_it_is_not_below_the_floor(
    lied: Lied,
) -> None:
    """That is what a rollback is, and what an aborted canary comes to."""
    for version in (1, 2, 1, 3, 4, 3, 2, 4):
        assert not await lied.peer.push(RELEASES[version])
        assert lied.follower.enforced == version
        lied.follower.check()
    assert lied.follower.floor == 2
    error = await lied.peer.push(RELEASES[1])
    assert "below the floor, 2" in error
    assert lied.follower.enforced == 4


async def test_the_floor_outlives_the_process(lied: Lied) -> None:
    assert not await lied.peer.push(RELEASES[3])
    for _ in range(2):
        await lied.again()
        assert lied.follower.enforced == 3
        assert "below the floor, 2" in await lied.peer.push(RELEASES[1])


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "lost"])
@pytest.mark.parametrize("name", ["memory", *GENERATIONS])
async def test_the_floor_outlives_any_one_file(lied: Lied, name: str, how: str) -> None:
    assert not await lied.peer.push(RELEASES[2])
    assert not await lied.peer.push(RELEASES[3])
    assert not await lied.peer.push(RELEASES[4])
    await lied.follower.end()
    lied.follower.damage(name, how)
    assert lied.follower.saved()[:1] == [3 if name == "release" else 4]
    await lied.again()
    assert "below the floor, 2" in await lied.peer.push(RELEASES[1])
    lied.follower.check()


async def test_both_releases_lost_leave_the_floor_and_the_keys(lied: Lied) -> None:
    """Nothing is enforced then until a control plane is heard; and never what is below."""
    assert not await lied.peer.push(RELEASES[3])
    await lied.follower.end()
    for name in GENERATIONS:
        lied.follower.damage(name, "cut")
    await lied.again()
    assert lied.follower.enforced == -1
    assert "below the floor, 2" in await lied.peer.push(RELEASES[1])
    assert not await lied.peer.push(RELEASES[2])


async def test_nothing_that_can_be_read_is_not_taken_for_nothing(lied: Lied) -> None:
    """A sidecar that lost its memory to a damaged disk does not begin again in silence."""
    assert not await lied.peer.push(RELEASES[3])
    await lied.follower.end()
    for name in ("memory", *GENERATIONS):
        lied.follower.damage(name, "cut")
    lied.follower.begin()
    with pytest.raises(Exception, match="remove the folder"):
        await lied.follower.restored()
    assert lied.follower.enforced == -1


async def test_what_holds_when_all_state_is_destroyed(lied: Lied) -> None:
    """The floor is forgotten, for nothing else knew it: an old release is taken that the keys of
    `--trust` signed. What nobody signed, or another key, is still refused."""
    assert not await lied.peer.push(RELEASES[4])
    await lied.follower.end()
    shutil.rmtree(lied.follower.folder)
    lied.follower.floor = 0
    await lied.again()
    assert lied.follower.enforced == -1
    for name, lie in lies(RELEASES[1], RELEASES[4]).items():
        assert await lied.peer.push(lie), name
    assert lied.follower.enforced == -1
    assert not await lied.peer.push(RELEASES[1])
    assert lied.follower.enforced == 1


async def test_a_floor_that_was_only_pushed_and_not_adopted_does_not_count(lied: Lied) -> None:
    """Else who cannot sign could lock a sidecar out, with a floor that nobody set."""
    assert not await lied.peer.push(RELEASES[1])
    locked = published(1000, policy("p", path="/1000"), floor=1000)
    assert await lied.peer.push(replace(locked, documents=()))
    assert not await lied.peer.push(RELEASES[2])


async def test_streams_that_end_in_the_middle_of_lies_change_nothing(lied: Lied) -> None:
    assert not await lied.peer.push(RELEASES[2])
    for lie in lies(RELEASES[1], RELEASES[2]).values():
        await lied.peer.push(lie)
        lied.peer.over.set()
        lied.peer = await lied.liar.stream("one")
        assert "manifest/default" in lied.peer.held
    async with asyncio.timeout(10):
        assert not await lied.peer.push(RELEASES[3])
