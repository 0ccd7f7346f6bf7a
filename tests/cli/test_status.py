"""`sidecar status`: which sidecar enforces what."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, run
from sidecar.errors import ReleaseRefused
from sidecar.facts.releases import Assignment
from tests.publishing import WITHIN, apply, plane, policy, reached, running, sidecar, status


async def test_who_enforces_what_and_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse_second(assignment: Assignment) -> None:
        if assignment.versions["default"] == 2:
            raise ReleaseRefused("not with me")

    async with plane(tmp_path) as (_, bound):

        async def shown(*argv: str, code: int = FINE) -> str:
            arguments = ["status", *argv, "--server", bound.grpc]
            assert await asyncio.to_thread(run, arguments) == code
            return capsys.readouterr().out

        assert await shown() == "no sidecar is connected\n"
        good = sidecar(bound.grpc, sidecar_id="good", labels={"app": "a"})
        bad = sidecar(bound.grpc, sidecar_id="bad")
        bad.verdict = refuse_second
        async with running(good, bad):
            await apply(bound.grpc, policy())
            await reached(bound.grpc, lambda reach: reach.live == 2)
            await apply(bound.grpc, policy(path="/2"))
            await reached(bound.grpc, lambda r: (r.live, r.refused) == (1, 1), version=2)
            lines = (await shown()).splitlines()
            assert lines[0] == "default@2: live on 1 of 2 sidecars, refused by 1"
            assert lines[-3].split()[:3] == ["NAMESPACE/SIDECAR", "ENFORCES", "ASSIGNED"]
            assert lines[-2].split()[:3] == ["default/bad", "default@1", "default@2"]
            assert lines[-2].endswith("not with me")
            assert lines[-1].split()[:3] == ["default/good", "default@2", "default@2"]
            assert "app=a" in lines[-1]
            assert "default/bad" not in await shown("default/good")
            await shown("default/nobody", code=FOUND_PROBLEMS)
            body = json.loads(await shown("default", "--output", "json"))
            assert body["releases"][0] == {
                "namespace": "default", "version": 2, "sidecars": 2, "live": 1,
            }  # fmt: skip
            assert [s["current"] for s in body["sidecars"]] == [False, True]
            assert body["sidecars"][1]["enforced"] == {"default": 2, "platform": 0}


async def test_watching_shows_what_changes_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cli.status.LOOK", 0.02)
    looks: list[dict[str, Any]] = []

    async def shown(condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(WITHIN):
            while True:
                looks.extend(json.loads(line) for line in capsys.readouterr().out.splitlines())
                if looks and condition(looks[-1]):
                    return looks[-1]
                await status(bound.grpc)

    async with plane(tmp_path) as (control, bound):
        arguments = ["status", "--watch", "--output", "json", "--server", bound.grpc]
        watching = asyncio.create_task(asyncio.to_thread(run, arguments))
        assert (await shown(lambda look: True))["sidecars"] == []
        one = sidecar(bound.grpc)
        async with running(one):
            await apply(bound.grpc, policy())
            seen = await shown(lambda look: any(s["current"] for s in look["sidecars"]))
            assert seen["releases"][0] == {
                "namespace": "default", "version": 1, "sidecars": 1, "live": 1,
            }  # fmt: skip
        await shown(lambda look: not look["sidecars"])
        plain = [json.dumps({**look, "sidecars": [
            {**s, "lagSeconds": 0, "uptimeSeconds": 0} for s in look["sidecars"]
        ]}) for look in looks]  # fmt: skip
        assert all(a != b for a, b in itertools.pairwise(plain))
        await control.stop()
        assert await watching == FOUND_PROBLEMS
        assert "no control plane answers" in capsys.readouterr().err


async def test_for_people_each_look_has_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with plane(tmp_path) as (control, bound):
        arguments = ["status", "--watch", "--server", bound.grpc]
        watching = asyncio.create_task(asyncio.to_thread(run, arguments))
        text = ""
        async with asyncio.timeout(WITHIN):
            while "no sidecar is connected" not in text:
                await status(bound.grpc)
                text += capsys.readouterr().out
        assert re.match(r"\d\d:\d\d:\d\d\nno sidecar is connected\n", text)
        assert "\x1b" not in text, "nothing of a terminal where there is none"
        await control.stop()
        assert await watching == FOUND_PROBLEMS
