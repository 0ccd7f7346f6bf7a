"""`sidecar rollback`, against a real control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE
from sidecar.control.store import Store
from sidecar.errors import StoreFailed
from tests.cli.shell import Shell
from tests.control.rollouts.test_conducting import Fleet, rollout
from tests.publishing import running


async def test_one_step_back_and_another(shell: Shell) -> None:
    fleet = Fleet()
    fleet.add(shell.server, 2)
    async with running(*fleet.sidecars):
        for path in ("/1", "/2", "/3"):
            await shell.publish(path)
        await fleet.all_at("/3", "/3")
        said = await shell("rollback", "default", "--wait", "-m", "it was wrong")
        assert said.code == FINE
        assert said.lines[0] == "~ AccessPolicy/default/p"
        assert "published default@4: 1 changed" in said.lines
        assert said.lines[-1] == "default@4: live on 2 of 2 sidecars"
        assert fleet.paths == ["/2", "/2"]
        # The one before what is in force: not @3, which was taken back.
        assert (await shell("rollback", "default", "--wait")).code == FINE
        assert fleet.paths == ["/1", "/1"]
    history = (await shell("history", "--output", "json")).json
    assert [(e["version"], e["restores"], e["message"]) for e in history[:2]] == [
        (5, 1, ""), (4, 2, "it was wrong"),
    ]  # fmt: skip
    nothing = await shell("rollback", "default")
    assert nothing.code == FOUND_PROBLEMS
    assert "documents: error: there is no release before 5" in nothing.err
    assert "refused; nothing was published" in nothing.err


async def test_to_a_certain_one(shell: Shell) -> None:
    for path in ("/1", "/2", "/3"):
        await shell.publish(path)
    said = await shell("rollback", "default", "--to", "1", "--output", "json")
    assert (said.code, said.json["outcome"]) == (FINE, "published")
    assert said.json["releases"] == [{"namespace": "default", "version": 4, "documents": 1}]
    assert any("/1" in effect["text"] for effect in said.json["effects"])
    same = await shell("rollback", "default", "--to", "1")
    assert (same.code, "nothing to publish" in same.out) == (FINE, True)
    said = await shell("rollback", "default", "--to", "9")
    assert said.code == FOUND_PROBLEMS
    assert "there is no default@9" in said.err
    assert "see `sidecar history`" in said.err


async def test_a_dry_run_only_shows(shell: Shell) -> None:
    await shell.publish("/1")
    await shell.publish("/2")
    said = await shell("rollback", "default", "--dry-run")
    assert said.code == FINE
    assert said.lines[-1] == "dry run, nothing published: 1 changed"
    assert len((await shell("history", "--output", "json")).json) == 2


async def test_what_is_being_rolled_out_is_ended_by_it(shell: Shell) -> None:
    fleet = Fleet()
    fleet.add(shell.server, 2)
    async with running(*fleet.sidecars):
        await shell.publish("/old")
        await fleet.all_at("/old", "/old")
        await shell.publish("/new", "--canary", "50%", "--bake", "10m")
        await rollout(shell.server, lambda found: found.live == 1)
        said = await shell("rollback", "default", "--wait", "-m", "enough")
        assert said.code == FINE, said
        assert "published default@1" in said.out
        assert "default@2: aborted: enough" in said.out
        assert said.lines[-1] == "default@1: live on 2 of 2 sidecars"
        assert fleet.paths == ["/old", "/old"]


@pytest.fixture
async def halfway(shell: Shell) -> AsyncIterator[Shell]:
    """@1 was /older, @2 is /old, and @3, /new, is one of two sidecars'."""
    fleet = Fleet()
    fleet.add(shell.server, 2)
    async with running(*fleet.sidecars):
        await shell.publish("/older")
        await shell.publish("/old")
        await fleet.all_at("/old", "/old")
        await shell.publish("/new", "--canary", "50%", "--bake", "10m")
        await rollout(shell.server, lambda found: found.live == 1)
        yield shell


async def state(shell: Shell) -> str:
    found = (await shell("rollout", "status", "--all", "--output", "json")).json
    return str(found["rollouts"][0]["state"] if isinstance(found, dict) else found[0]["state"])


@pytest.mark.parametrize(
    ("to", "says"),
    [("9", "there is no default@9"), ("3", "default@3 is being rolled out")],
)
async def test_a_mistyped_version_ends_no_rollout(halfway: Shell, to: str, says: str) -> None:
    said = await halfway("rollback", "default", "--to", to)
    assert said.code == FOUND_PROBLEMS
    assert says in said.err
    assert "refused; nothing was published" in said.err
    assert await state(halfway) == "running"


async def test_a_dry_run_shows_that_it_would_end_it(halfway: Shell) -> None:
    said = await halfway("rollback", "default", "--dry-run")
    assert said.code == FINE
    assert "default@3 is being rolled out: this ends it" in said.out + said.err
    assert said.lines[-1] == "dry run, nothing published: 1 changed"
    assert "/old" in said.out
    assert "/older" not in said.out
    said = await halfway("rollback", "default", "--to", "1", "--dry-run", "--output", "json")
    assert (said.code, said.json["outcome"]) == (FINE, "would_publish")
    assert any("/older" in effect["text"] for effect in said.json["effects"])
    assert await state(halfway) == "running"


async def test_to_one_before_both(halfway: Shell) -> None:
    said = await halfway("rollback", "default", "--to", "1", "--wait", "--output", "json")
    assert (said.code, said.json["outcome"]) == (FINE, "published")
    assert [each["version"] for each in said.json["releases"]] == [4]
    assert [(each["version"], each["state"]) for each in said.json["rollouts"]] == [(3, "aborted")]


async def test_what_was_ended_is_said_though_the_rest_fails(
    halfway: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> object:
        raise StoreFailed("the disk is full")

    monkeypatch.setattr(Store, "publish", fails)
    said = await halfway("rollback", "default", "--to", "1")
    assert said.code == FOUND_PROBLEMS
    assert "default@3 was being rolled out, and was ended: everybody has 2" in said.err
    assert "default@1 was not brought back" in said.err
    assert "nothing else was published" in said.err
    assert "refused; nothing was published" not in said.err
    assert "default@3: aborted" in said.out


async def test_a_namespace_without_releases(shell: Shell) -> None:
    said = await shell("rollback", "nowhere")
    assert said.code == FOUND_PROBLEMS
    assert "namespace 'nowhere' has no release" in said.err


@pytest.mark.parametrize("to", ["-1", "one", "²", str(10**30)])
async def test_misuse(shell: Shell, to: str) -> None:
    said = await shell("rollback", "default", "--to", to)
    assert said.code == MISUSE
    assert "is not a version, as `sidecar history` shows them" in said.err


async def test_nothing_that_is_said_of_it_ends_it_when_it_is_too_long(halfway: Shell) -> None:
    said = await halfway("rollback", "default", "-m", "x" * 1025)
    assert (said.code, "message: at most 1024" in said.err) == (FOUND_PROBLEMS, True)
    assert await state(halfway) == "running"
