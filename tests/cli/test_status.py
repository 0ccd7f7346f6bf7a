"""`sidecar status`: which sidecar enforces what."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, run
from sidecar.errors import ReleaseRefused
from sidecar.facts.releases import Assignment
from tests.publishing import apply, plane, policy, reached, running, sidecar


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
