"""`sidecar apply`, against a real control plane."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE, run
from sidecar.errors import ReleaseRefused
from sidecar.facts.releases import Assignment
from sidecar.wire.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from tests.publishing import plane, running, sidecar

GOOD = """apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: {name}}}
spec:
  rules:
  - name: r
    match: {{paths: ['/{path}']}}
    when: {when}
"""


def document(name: str = "p", path: str = "", when: str = "'true'") -> str:
    return GOOD.format(name=name, path=path, when=when)


async def cli(*argv: str) -> int:
    """The command in a thread of its own, for it runs a loop of its own."""
    return await asyncio.to_thread(run, argv)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with plane(tmp_path / "plane") as (_, bound):
        yield bound.grpc


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir()
    (made / "a.yaml").write_text(document("a"))
    (made / "b.yaml").write_text(document("b"))
    return made


async def test_it_publishes_a_folder_and_says_who_enforces_it(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(sidecar(server), sidecar(server, sidecar_id="two")):
        assert await cli("apply", "-f", str(folder), "--server", server, "--wait") == FINE
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == ["+ AccessPolicy/default/a", "+ AccessPolicy/default/b"]
        assert "published default@1: 2 added" in lines
        # Sidecars that connect meanwhile count as soon as they are there.
        assert lines[-1].startswith("default@1: ")
        (folder / "a.yaml").write_text(document("a", path="new"))
        assert await cli("apply", "-f", str(folder), "--server", server, "--wait") == FINE
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "~ AccessPolicy/default/a"
        # What it means: these were two rules that said the same.
        assert any(line.startswith("  [wider] ") and "/new" in line for line in lines[1:-2])
        assert lines[-2:] == [
            "published default@2: 1 changed, 1 unchanged",
            "default@2: live on 2 of 2 sidecars",
        ]
    assert await cli("apply", "-f", str(folder), "--server", server) == FINE
    assert capsys.readouterr().out == "nothing to publish: 2 unchanged\n"
    assert await cli("apply", "-f", str(folder / "b.yaml"), "--prune", "--server", server) == FINE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "- AccessPolicy/default/a"
    assert lines[-2:] == [
        "published default@3: 1 removed, 1 unchanged",
        "default@3: no sidecar is connected",
    ]


async def test_a_mistake_in_a_file_is_said_with_its_place_and_nothing_is_sent(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.yaml").write_text(document("c") + "  more: 1\n")
    assert await cli("apply", "-f", str(folder), "--server", "127.0.0.1:1") == FOUND_PROBLEMS
    captured = capsys.readouterr()
    assert f"{folder / 'c.yaml'}:9:3: error: unknown field 'more'" in captured.err
    assert "no control plane" not in captured.err


async def test_the_servers_problems_are_said_with_their_places(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.yaml").write_text("---\n" + document("c", when="nonsense == 1"))
    assert await cli("apply", "-f", str(folder), "--server", server) == FOUND_PROBLEMS
    captured = capsys.readouterr()
    assert f"{folder / 'c.yaml'}:9:11: error: " in captured.err
    assert "nonsense" in captured.err
    assert "refused; nothing was published" in captured.err
    assert captured.out == ""
    assert await cli("get", "--server", server) == FINE
    assert capsys.readouterr().out == ""


async def test_warnings_are_said_with_their_places_and_stop_nothing(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await cli("apply", "-f", str(folder), "--server", server) == FINE
    said = capsys.readouterr()
    assert f"{folder}/b.yaml:6:5: warning: says the same as default/a/r" in said.err
    assert "published default@1" in said.out


async def test_a_dry_run_publishes_nothing(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await cli("apply", "-f", str(folder), "--server", server, "--dry-run") == FINE
    assert "dry run, nothing published: 2 added" in capsys.readouterr().out
    assert await cli("get", "--server", server) == FINE
    assert capsys.readouterr().out == ""


async def test_json_for_programs(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def applied(*more: str) -> tuple[int, dict[str, Any]]:
        code = await cli("apply", "-f", str(folder), "--server", server, "--output", "json", *more)
        return code, json.loads(capsys.readouterr().out)

    code, body = await applied()
    assert code == FINE
    assert body["outcome"] == "published"
    assert body["releases"] == [{"namespace": "default", "version": 1, "documents": 2}]
    assert body["changes"][0] == {"what": "added", "document": "AccessPolicy/default/a"}
    assert body["enforced"][0]["sidecars"] == 0
    (folder / "b.yaml").write_text(document("b", when="nonsense == 1"))
    code, body = await applied()
    assert (code, body["outcome"]) == (FOUND_PROBLEMS, "refused")
    assert body["problems"][0]["file"] == str(folder / "b.yaml")
    assert body["problems"][0]["line"] == 8
    (folder / "b.yaml").write_text("a: [")
    code, body = await applied()
    assert (code, body["outcome"]) == (FOUND_PROBLEMS, "refused")
    assert body["problems"][0]["line"] == 2


async def test_a_stale_base_is_refused(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("apply", "-f", str(folder), "--server", server, "--base")
    assert await cli(*arguments, "default=3") == FOUND_PROBLEMS
    assert "somebody else published" in capsys.readouterr().err
    assert await cli(*arguments[:-1]) == FINE
    (folder / "a.yaml").write_text(document("a", path="x"))
    assert await cli(*arguments, "default=1") == FINE


async def test_wait_fails_when_a_sidecar_refuses_and_without_wait_it_is_said(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(_assignment: Assignment) -> None:
        raise ReleaseRefused("not with me")

    one = sidecar(server)
    async with running(one):
        assert await cli("apply", "-f", str(folder), "--server", server, "--wait") == FINE
        await one.enforces(1)
        one.verdict = refuse
        for number, (flags, code) in enumerate([((), FINE), (("--wait",), FOUND_PROBLEMS)]):
            (folder / "a.yaml").write_text(document("a", path=str(number)))
            capsys.readouterr()
            assert await cli("apply", "-f", str(folder), "--server", server, *flags) == code
            captured = capsys.readouterr()
            assert "live on 0 of 1 sidecar, refused by 1" in captured.out
            assert "refused by one: not with me" in captured.err


async def test_a_share_is_waited_for(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(_assignment: Assignment) -> None:
        raise ReleaseRefused("not with me")

    good, bad = sidecar(server), sidecar(server, sidecar_id="two")
    async with running(good, bad):
        assert await cli("apply", "-f", str(folder), "--server", server, "--wait") == FINE
        bad.verdict = refuse
        for number, (share, code) in enumerate([("50%", FINE), ("51%", FOUND_PROBLEMS)]):
            await good.enforces(number + 1)
            (folder / "a.yaml").write_text(document("a", path=str(number)))
            arguments = ("apply", "-f", str(folder), "--server", server, "--wait", share)
            assert await cli(*arguments) == code
            assert "live on 1 of 2 sidecars" in capsys.readouterr().out


async def test_a_trial_says_when_it_ends(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await cli("apply", "-f", str(folder), "--server", server, "--ttl", "401d") == (
        FOUND_PROBLEMS
    )
    assert "at most 400 days" in capsys.readouterr().err
    assert await cli("apply", "-f", str(folder), "--server", server, "--ttl", "2d") == FINE
    capsys.readouterr()
    assert await cli("history", "--server", server, "--output", "json") == FINE
    [entry] = json.loads(capsys.readouterr().out)
    assert entry["expires"] - entry["issued"] in range(172_799, 172_802)


async def test_why_is_as_long_as_it_may_be(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("apply", "-f", str(folder), "--server", server, "-m")
    assert await cli(*arguments, "x" * 1025) == FOUND_PROBLEMS
    assert "at most 1024 characters" in capsys.readouterr().err
    assert await cli(*arguments, "x" * 1024) == FINE


async def test_no_control_plane_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("apply", "-f", str(folder), "--server", "127.0.0.1:1")
    assert await cli(*arguments) == FOUND_PROBLEMS
    assert "no control plane answers at 127.0.0.1:1; nothing was published" in (
        capsys.readouterr().err
    )


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """A control plane that takes an apply and never answers."""

    class Mute(AdminServicer):
        async def Apply(self, request: Any, context: Any) -> Any:
            await asyncio.get_running_loop().create_future()

    server = aio.server()
    add_AdminServicer_to_server(Mute(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_no_answer_in_time_is_an_unknown_outcome(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with mute() as address:
        arguments = ("apply", "-f", str(folder), "--server", address, "--timeout", "200ms")
        assert await cli(*arguments) == FOUND_PROBLEMS
    assert "outcome unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ("apply",),
        ("apply", "-f", "x", "--server", "nowhere"),
        ("apply", "-f", "x", "--timeout", "soon"),
        ("apply", "-f", "x", "--base", "default"),
        ("apply", "-f", "x", "--wait", "0%"),
        ("apply", "-f", "x", "--wait", "90"),
        ("apply", "-f", "x", "--ttl", "soon"),
    ],
)
def test_misuse(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(argv)
    assert end.value.code == MISUSE
    assert "usage: sidecar apply" in capsys.readouterr().err


def test_a_folder_without_documents_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["apply", "-f", str(tmp_path)]) == MISUSE
    assert "no documents" in capsys.readouterr().err


TALKERS = (
    "apply", "approve", "audit", "diff", "get", "history", "keys", "revoke", "rollback", "rollout",
    "status",
)  # fmt: skip


@pytest.mark.parametrize("command", TALKERS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run([command, "--help"])
    assert end.value.code == 0
    assert f"example: sidecar {command}" in capsys.readouterr().out


def test_a_time_to_live_of_next_to_nothing_is_not_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as misuse:
        run(["apply", "-f", "x", "--ttl", "400ms"])
    assert misuse.value.code == 2
    assert "one second at least" in capsys.readouterr().err
