"""`sidecar history`, against a real control plane."""

from __future__ import annotations

import re

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE
from tests.cli.shell import Shell


async def test_what_was_published_when_by_whom_and_why(shell: Shell) -> None:
    await shell.publish("/1", "-m", "the first")
    await shell.publish("/2")
    await shell.publish("/3", "--ttl", "2d", "-m", "try \x1b[31mthis")
    said = await shell("history")
    assert said.code == FINE
    assert all(line.startswith("* default@") for line in said.lines)
    assert re.fullmatch(
        r"\* default@1  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  1 documents  by \S+  'the first'",
        said.lines[2],
    )
    assert "taken back at " in said.lines[0]
    assert "\x1b" not in said.out
    assert "31mthis" in said.out
    await shell("rollback", "default")
    marks = [line[:11] for line in (await shell("history")).lines]
    # What was taken back is not in force any more; what it went back to is.
    assert marks == ["* default@4", "  default@3", "* default@2", "* default@1"]
    assert "restores @2" in (await shell("history")).lines[0]


async def test_a_rollout_is_part_of_it(shell: Shell) -> None:
    await shell.publish("/1")
    await shell.publish("/2", "--canary", "10%", "--bake", "10m")
    assert "  running" in (await shell("history")).lines[0]
    await shell("rollout", "abort", "default", "-m", "no more")
    await shell.publish("/3")
    lines = (await shell("history")).lines
    assert lines[1].startswith("  default@2")
    assert "aborted: no more" in lines[1]
    assert "changes @1" in lines[0]
    entries = (await shell("history", "--output", "json")).json
    assert [(e["version"], e["parent"], e["inForce"]) for e in entries] == [
        (3, 1, True), (2, 1, False), (1, None, True),
    ]  # fmt: skip
    assert entries[1]["rollout"]["state"] == "aborted"
    assert entries[0]["rollout"] is None


async def test_page_by_page(shell: Shell) -> None:
    for number in range(4):
        await shell.publish(f"/{number}")

    async def versions(*argv: str) -> list[int]:
        said = await shell("history", "--output", "json", *argv)
        return [entry["version"] for entry in said.json]

    assert await versions("--most", "2") == [4, 3]
    assert await versions("--most", "2", "--before", "3") == [2, 1]


async def test_a_namespace_without_releases(shell: Shell) -> None:
    said = await shell("history", "now\x1bhere")
    assert said.code == FOUND_PROBLEMS
    assert said.out == "namespace now\\x1bhere has no release\n"
    said = await shell("history", "nowhere", "--output", "json")
    assert (said.code, said.json) == (FOUND_PROBLEMS, [])


@pytest.mark.parametrize(
    "argv", [("--most", "0"), ("--most", "-1"), ("--most", str(2**40)), ("--before", "x")]
)
async def test_misuse(shell: Shell, argv: tuple[str, str]) -> None:
    said = await shell("history", *argv)
    assert said.code == MISUSE
    assert "Traceback" not in said.err
