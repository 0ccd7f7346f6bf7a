"""`sidecar get`: what it prints, `apply` reads again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE, run
from sidecar.decide.parse import Source, parse
from tests.publishing import apply, plane, policy


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with plane(tmp_path / "plane") as (_, bound):
        await apply(bound.grpc, *DOCUMENTS)
        yield bound.grpc


DOCUMENTS = [
    policy("a", when="'no' != 'yes' && 1.5 > 1.0"),
    policy("b", selector={"app": "on", "tier": "1"}, path="/{id}/*"),
    policy("c", "other"),
]


async def test_yaml_that_parses_to_the_same_documents(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(run, ["get", "--server", server]) == FINE
    text = capsys.readouterr().out
    found, problems = parse([Source("got", text)])
    assert not problems
    assert [d.digest for d in found] == [d.digest for d in DOCUMENTS]
    assert text.startswith("apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata:\n")


async def test_json_and_what_was_asked_for(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def names(*argv: str) -> list[str]:
        arguments = ["get", *argv, "--server", server, "--output", "json"]
        assert await asyncio.to_thread(run, arguments) == FINE
        return [body["metadata"]["name"] for body in json.loads(capsys.readouterr().out)]

    assert await names() == ["a", "b", "c"]
    assert await names("-n", "other") == ["c"]
    assert await names("accesspolicy") == ["a", "b", "c"]
    assert await names("AccessPolicy/b") == ["b"]
    assert await names("TokenIssuer") == []


async def test_what_is_not_there_and_what_is_no_kind(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["get", "AccessPolicy/nope", "-n", "other", "--server", server]
    assert await asyncio.to_thread(run, arguments) == FOUND_PROBLEMS
    assert "no AccessPolicy/nope is published in namespace other" in capsys.readouterr().err
    assert await asyncio.to_thread(run, ["get", "Policy", "--server", server]) == MISUSE
    assert "known: TokenIssuer" in capsys.readouterr().err
