"""`apply --canary` and `sidecar rollout`: real control planes, real streams."""

from __future__ import annotations

import argparse
import asyncio

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE
from sidecar.cli.rollouts import add_plan_flags, described, plain_rollout, plan
from sidecar.facts.admin import AdminClient
from sidecar.telemetry.fared import Fared
from sidecar.wire import admin_pb2 as pb
from tests.cli.shell import Shell
from tests.control.rollouts.test_conducting import Fleet, rollout
from tests.publishing import WITHIN, running

AT_ONCE = ("--bake", "0s", "--min-requests", "1")
HELD = ("--bake", "10m")


async def with_old(shell: Shell, fleet: Fleet) -> None:
    await shell.publish("/old")
    await fleet.all_at(*["/old"] * len(fleet.sidecars))


async def test_wait_ends_well_where_everybody_has_it(shell: Shell) -> None:
    fleet = Fleet()
    fleet.add(shell.server, 4)
    async with running(*fleet.sidecars):
        await with_old(shell, fleet)
        said = await shell(
            "apply", "-f", shell.write("/new"), "--canary", "25%", *AT_ONCE, "--wait",
            "--timeout", "30s",
        )  # fmt: skip
        assert said.code == FINE, said
        assert said.lines[1].startswith("  ")  # what it means
        assert "published default@2: 1 changed" in said.lines
        assert any(line.startswith("default@2: running at 25% (1 of 3)") for line in said.lines)
        assert said.lines[-1] == "default@2: completed: every stage went well"
        assert fleet.paths == ["/new"] * 4
    ended = await shell("rollout", "status", "default", "--all")
    assert ended.lines == ["default@2: completed: every stage went well"]
    assert (await shell("rollout")).out == "no rollout is under way\n"


async def test_wait_fails_where_it_rolls_itself_back_and_says_why(shell: Shell) -> None:
    fleet = Fleet(fares=lambda path: Fared(requests=10, refused=10 if path == "/new" else 0))
    fleet.add(shell.server, 4)
    async with running(*fleet.sidecars):
        await with_old(shell, fleet)
        said = await shell(
            "apply", "-f", shell.write("/new"), "--canary", "50%", *HELD, "--wait",
            "--timeout", "30s", "--output", "json",
        )  # fmt: skip
        assert said.code == FOUND_PROBLEMS
        [found] = said.json["rollouts"]
        assert (said.json["outcome"], found["state"]) == ("published", "rolled_back")
        assert "it refuses 100% of" in found["reason"]
        assert "the old release 0% of" in found["reason"]
        assert found["stages"] == ["50%", "100%"]
        await fleet.all_at(*["/old"] * 4)
        again = await shell("rollout", "status", "default@2")
        assert again.lines[0].startswith("default@2: rolled back: it refuses 100%")


async def test_labels_come_first(shell: Shell) -> None:
    fleet = Fleet()
    fleet.add(shell.server, 1, labels={"zone": "a"})
    fleet.add(shell.server, 2, labels={"zone": "b"})
    async with running(*fleet.sidecars):
        await with_old(shell, fleet)
        said = await shell.publish("/new", "--canary", "zone=a", *HELD)
        assert "default@2: running at zone=a (1 of 2)" in said.out
        await rollout(shell.server, lambda found: found.live == 1)
        assert fleet.paths == ["/new", "/old", "/old"]


async def test_a_hand_on_it(shell: Shell) -> None:
    fleet = Fleet()
    fleet.add(shell.server, 2)
    async with running(*fleet.sidecars):
        await with_old(shell, fleet)
        await shell.publish("/new", "--canary", "50%", *HELD)
        await rollout(shell.server, lambda found: found.live == 1 and found.candidate.requests > 0)
        shown = await shell("rollout", "status")
        assert shown.code == FINE
        assert shown.lines[0].startswith("default@2: running at 50% (1 of 2); 1 of 1 sidecars ")
        assert "stages    [50%] > 100%" in shown.out
        assert "requests: 0.0% refused, 0.0% errors, 0 with a failed expression" in shown.out
        assert shown.lines[-1].startswith("  by        ")
        paused = await shell("rollout", "pause", "default", "-m", "look first")
        assert paused.code == FINE
        assert "paused at 50%" in paused.lines[0]
        assert "look first" in paused.lines[0]
        other = await shell("rollout", "resume", "default@7")
        assert other.code == FOUND_PROBLEMS
        assert "default@7 is being rolled out" in other.err
        resumed = await shell("rollout", "resume", "default@2", "--output", "json")
        assert [r["state"] for r in resumed.json] == ["running"]
        onward = await shell("rollout", "resume", "default", "--output", "json")
        assert [(r["stage"], r["state"]) for r in onward.json] == [(1, "running")]
        await fleet.all_at("/new", "/new")
        ended = await shell("rollout", "abort", "default", "-m", "no")
        assert ended.out == "default@2: aborted: no\n"
        await fleet.all_at("/old", "/old")
    nothing = await shell("rollout", "abort", "default")
    assert nothing.code == FOUND_PROBLEMS
    assert "nothing in default is being rolled out" in nothing.err


async def printed(shell: Shell, word: str) -> None:
    """Waits until a command under way has said something."""
    text = ""
    async with asyncio.timeout(WITHIN):
        while word not in text:
            await rollout(shell.server, lambda _: True)
            text += shell.captured.readouterr().out


async def steered(shell: Shell, action: pb.SteerRequest.Action.ValueType) -> None:
    """As the command does, while another one speaks."""
    async with AdminClient(shell.server, timeout=WITHIN) as client:
        await client.steer(pb.SteerRequest(namespace="default", action=action))


@pytest.mark.parametrize(
    ("actions", "code"),
    [
        ([pb.SteerRequest.ACTION_RESUME] * 3, FINE),  # goes on; everybody; completed
        ([pb.SteerRequest.ACTION_ABORT], FOUND_PROBLEMS),
    ],
)
async def test_watching_ends_with_what_is_watched(
    shell: Shell, actions: list[pb.SteerRequest.Action.ValueType], code: int
) -> None:
    await shell.publish("/old")
    assert (await shell("rollout", "status", "--watch")).code == FINE
    await shell.publish("/new", "--canary", "50%", *HELD)
    await shell("rollout", "pause", "default")
    watching = asyncio.create_task(shell("rollout", "status", "--watch"))
    await printed(shell, "paused at 50%")
    for action in actions:
        await steered(shell, action)
    assert (await watching).code == code


async def test_programs_are_told_of_nothing_as_json(shell: Shell) -> None:
    said = await shell("rollout", "status", "--output", "json")
    assert (said.code, said.json) == (FINE, [])
    said = await shell("rollout", "status", "default@3", "--output", "json")
    assert (said.code, said.json) == (FOUND_PROBLEMS, [])


async def test_what_has_to_be_everybodys(shell: Shell) -> None:
    said = await shell("apply", "-f", shell.write("/old"), "--canary", "10%")
    assert said.code == FOUND_PROBLEMS
    assert "default@1 is the first of its namespace, and has to be everybody's" in said.err
    await shell.publish("/old")
    said = await shell("apply", "-f", shell.write("/new"), "--canary", "10%", "--raise-floor")
    assert said.code == FOUND_PROBLEMS
    assert "raises its floor" in said.err


async def test_one_at_a_time(shell: Shell) -> None:
    await shell.publish("/old")
    await shell.publish("/new", "--canary", "10%")
    said = await shell("apply", "-f", shell.write("/third"))
    assert said.code == FOUND_PROBLEMS
    assert "default@2 is being rolled out, and one at a time is possible" in said.err
    assert "sidecar rollout abort default" in said.err
    # What everybody has: there is nothing to publish, and what some have goes on.
    said = await shell("apply", "-f", shell.write("/old"))
    assert (said.code, said.out) == (FINE, "nothing to publish: 1 unchanged\n")
    assert "warning: default@2 is being rolled out, which this does not end" in said.err


async def test_the_time_to_wait_is_over(shell: Shell) -> None:
    await shell.publish("/old")
    said = await shell(
        "apply", "-f", shell.write("/new"), "--canary", "10%", "--wait", "--timeout", "1s"
    )
    assert said.code == FOUND_PROBLEMS
    assert "still being rolled out after 1s; see `sidecar rollout status`" in said.err
    assert "no sidecar is connected" in said.out


@pytest.mark.parametrize(
    "argv",
    [
        ("rollout", "stop"),
        ("rollout", "pause"),
        ("rollout", "status", "default@x"),
        ("rollout", "status", "default@²"),
        ("rollout", "status", f"default@{10**20}"),
        ("rollout", "status", "@1"),
        ("apply", "-f", "x", "--bake", "1m"),
        ("apply", "-f", "x", "--max-latency", "2"),
        ("apply", "-f", "x", "--canary", "ten"),
        ("apply", "-f", "x", "--canary", "101%"),
        ("apply", "-f", "x", "--canary", "=a"),
        ("apply", "-f", "x", "--canary", "10%", "--max-errors", "1"),
        ("apply", "-f", "x", "--canary", "10%", "--max-latency", "0.5"),
        ("apply", "-f", "x", "--canary", "10%", "--max-latency", "nan"),
        ("apply", "-f", "x", "--canary", "10%", "--min-requests", "-1"),
        ("apply", "-f", "x", "--canary", "10%", "--bake", "soon"),
    ],
)
async def test_misuse(argv: tuple[str, ...], shell: Shell) -> None:
    said = await shell(*argv)
    assert said.code == MISUSE
    assert "Traceback" not in said.err
    assert f"sidecar {argv[0]}" in said.err


async def test_a_plan_that_makes_no_sense_is_refused(shell: Shell) -> None:
    await shell.publish("/old")
    file = shell.write("/new")
    for canary, code, says in (
        ("50%,10%", FOUND_PROBLEMS, "10% does not follow on 50%"),
        ("0%", MISUSE, "'0%' is nobody: a share above 0% is expected"),
    ):
        said = await shell("apply", "-f", file, "--canary", canary)
        assert said.code == code
        assert says in said.err


def planned(*argv: str) -> pb.RolloutPlan:
    parser = argparse.ArgumentParser()
    add_plan_flags(parser)
    found = plan(parser.parse_args(argv))
    assert found is not None
    return found


def stages(*argv: str) -> list[str]:
    made = pb.Rollout(plan=planned(*argv))
    found: list[str] = plain_rollout(made)["stages"]
    return found


def test_stages_go_up_to_everybody() -> None:
    assert stages("--canary", "10%") == ["10%", "50%", "100%"]
    assert stages("--canary", "50%") == ["50%", "100%"]
    assert stages("--canary", "100%") == ["100%"]
    assert stages("--canary", "5%,25%") == ["5%", "25%", "100%"]
    assert stages("--canary", "5%", "--canary", "25%,100%") == ["5%", "25%", "100%"]
    assert stages("--canary", "app=web+zone=a") == ["app=web+zone=a", "100%"]
    assert stages("--canary", "zone=a,10%") == ["zone=a", "10%", "100%"]


def test_what_is_not_said_is_the_control_planes_to_say() -> None:
    bare = planned("--canary", "10%")
    assert not bare.HasField("bake")
    assert not bare.HasField("min_requests")
    assert not bare.HasField("limits")
    given = planned(
        "--canary", "10%", "--bake", "2m", "--min-requests", "0", "--max-refusals", "0.5%",
        "--max-errors", "100%", "--max-failed-expressions", "0%", "--max-latency", "3x",
    )  # fmt: skip
    limits = given.limits
    assert (given.bake, given.min_requests) == (120, 0)
    assert (limits.refusals, limits.errors, limits.latency) == (0.5, 100, 3)
    assert limits.HasField("failed_expressions")


def test_what_is_said_of_one_is_one_line_whoever_named_it() -> None:
    hostile = pb.Rollout(
        namespace="a\x1b[2J", version=2, state=pb.Rollout.STATE_PAUSED, reason="\r\nevil\x07",
        sidecars=2, assigned=1, live=1,
        plan=pb.RolloutPlan(stages=[pb.Stage(labels={"\x1b": "\n"})]),
    )  # fmt: skip
    assert described(hostile).isprintable()
    hostile.state = pb.Rollout.STATE_ROLLED_BACK
    assert described(hostile).isprintable()
