"""The sidecar's end: refused as it is read, kept over restarts, said when it cannot be."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.decide import revocations
from sidecar.decide.revocations import Revocation, Revocations, pack, target, unpack
from sidecar.errors import ReleaseRefused
from sidecar.facts.revocations import RevocationList
from sidecar.facts.state import StateDirectory
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Push, Resource
from sidecar.wire.discovery_pb2 import Revocation as Wire

NOW = 1_800_000_000.0
ONE = Revocation(target("token", "iss", "1"), None, NOW + 100)
TWO = Revocation(target("subject", "iss", "2"), NOW - 0.25, NOW + 200)


def listed(state: StateDirectory | None = None) -> RevocationList:
    held = Revocations()

    async def withdraw(more: Sequence[Revocation]) -> None:
        held.add(more)

    return RevocationList(held, withdraw, state)


def push(*resources: Wire, position: str = "log:2", more: bool = False) -> Push:
    return Push(
        type=convert.REVOCATION,
        nonce="r",
        resources=[Resource(name=f"revocation/{n}", revocation=r) for n, r in enumerate(resources)],
        position=position,
        more=more,
    )


FIRST = Wire(target=ONE.target, expires=int(ONE.expires))
SECOND = Wire(target=TWO.target, before_ms=int(NOW * 1000) - 250, expires=int(TWO.expires))


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.open(tmp_path / "state")


def test_packed_and_back() -> None:
    assert unpack(pack([ONE, TWO])) == [ONE, TWO]
    with pytest.raises(ValueError, match="cut short"):
        unpack(pack([ONE])[:-1])


async def test_what_is_read_is_held_and_known_after_a_restart(state: StateDirectory) -> None:
    first = listed(state)
    assert await first.take(push(FIRST, SECOND), NOW) == ""
    assert list(first.held) == [ONE, TWO]
    second = listed(state)
    await second.restore(NOW + 100)
    assert list(second.held) == [TWO]  # the other one has expired meanwhile
    assert second.subscription().position == "log:2"
    assert second.age(NOW + 100, connected=False) == 100.0


async def test_many_come_one_batch_after_the_other(state: StateDirectory) -> None:
    held = listed(state)
    await held.take(push(FIRST, position="log:1", more=True), NOW)
    assert held.age(NOW, connected=True) is None  # more follow: it is not the newest
    saved = state.load_revocations()
    assert saved is not None
    assert (saved.position, unpack(saved.packed)) == ("log:1", [ONE])
    await held.take(push(SECOND), NOW + 1)
    saved = state.load_revocations()
    assert saved is not None
    assert (saved.position, saved.saved) == ("log:2", NOW + 1)
    assert unpack(saved.packed) == [ONE, TWO]
    assert held.age(NOW, connected=True) == 0.0


async def test_what_follows_a_damaged_block_is_sent_again(
    state: StateDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    held = listed(state)
    await held.take(push(FIRST, position="log:1"), NOW)
    await held.take(push(SECOND), NOW)
    path = state.path / "revocations"
    path.write_bytes(path.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        again = listed(state)
        await again.restore(NOW)
    assert list(again.held) == [ONE]
    assert again.subscription().position == "log:1"
    assert "cut short" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        b"", b"junk", b"revocations 1 ", b"revocations 1 x y\n", b"revocations 1 5 " + b"0" * 64 + b"\n12345",
        b"revocations 1 " + b"9" * 400 + b" 0\n", b"sidecar state 1 x\n{}",
    ],
)  # fmt: skip
async def test_a_file_of_something_else_gives_way_to_the_one_before(
    state: StateDirectory, data: bytes
) -> None:
    held = listed(state)
    await held.take(push(FIRST, position="log:1"), NOW)
    path = state.path / "revocations"
    path.rename(state.path / "revocations.1")
    path.write_bytes(data)
    again = listed(state)
    await again.restore(NOW)
    assert list(again.held) == [ONE]
    path.unlink()
    (state.path / "revocations.1").write_bytes(data)
    nothing = listed(state)
    await nothing.restore(NOW)
    assert len(nothing.held) == 0
    assert nothing.subscription().position == ""


async def test_a_new_process_writes_anew_and_then_appends(state: StateDirectory) -> None:
    await listed(state).take(push(FIRST, position="log:1"), NOW)
    state.close()
    state = StateDirectory.open(state.path)
    held = listed(state)
    await held.restore(NOW + 100)  # the first has expired
    await held.take(push(SECOND), NOW + 100)
    path = state.path / "revocations"
    once = path.read_bytes()
    assert once.count(b"revocations 1 ") == 1
    await held.take(push(FIRST, position="log:3"), NOW)
    assert path.read_bytes().startswith(once)
    assert path.read_bytes().count(b"revocations 1 ") == 2


async def test_a_file_of_mostly_expired_ones_is_rewritten(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.facts.state._SMALL", 0)
    held = listed(state)
    for number in range(20):
        await held.take(push(FIRST, position=f"log:{number}"), NOW)
    path = state.path / "revocations"
    assert path.read_bytes().count(b"revocations 1 ") < 3
    saved = state.load_revocations()
    assert saved is not None
    assert saved.position == "log:19"


@pytest.mark.parametrize(
    "bad",
    [
        push(Wire(target=b"short", expires=int(NOW) + 1)),
        push(Wire(target=b"x" * 16, expires=0)),
        push(Wire(target=b"x" * 16, expires=int(NOW) + 1, before_ms=-1)),
        Push(resources=[Resource(name="r", document=b"{}")]),
    ],
)
async def test_a_push_that_makes_no_sense_counts_for_nothing(bad: Push) -> None:
    held = listed()
    bad.resources.append(Resource(name="good", revocation=FIRST))
    with pytest.raises(ReleaseRefused):
        await held.take(bad, NOW)
    assert len(held.held) == 0
    assert held.subscription().position == ""


async def test_the_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.facts.revocations.BOUND", 2)
    assert revocations.BOUND > 2
    held = listed()
    await held.take(push(FIRST), NOW)
    with pytest.raises(ReleaseRefused, match="1 revocations are held"):
        await held.take(push(FIRST, SECOND), NOW)
    await held.take(push(SECOND), NOW + 100)  # the first has expired


async def test_what_cannot_be_saved_is_refused_all_the_same_and_said(
    state: StateDirectory,
) -> None:
    held = listed(state)
    await held.take(push(SECOND, position="log:0"), NOW)
    (state.path / "revocations").unlink()
    (state.path / "revocations").mkdir()
    assert "cannot write" in await held.take(push(FIRST), NOW)
    assert not held.saved
    assert sorted(each.target for each in held.held) == sorted((ONE.target, TWO.target))
    (state.path / "revocations").rmdir()
    assert await held.take(push(SECOND), NOW) == ""
    assert held.saved


async def test_it_ages_from_the_last_word() -> None:
    held = listed()
    assert held.age(NOW, connected=True) is None
    held.idle()
    assert held.age(NOW, connected=True) == 0.0
    held.lost(NOW - 20)
    assert held.age(NOW, connected=False) == 20.0
    held.subscription()
    held.lost(NOW)  # the new stream had not said anything yet
    assert held.age(NOW, connected=False) == 20.0
