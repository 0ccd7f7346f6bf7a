"""`sidecar diff`, against a real control plane."""

from __future__ import annotations

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE
from tests.cli.shell import Shell

TWO = """apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: r, match: {paths: ['/transfers']}, require: {scopes: [pay]}}
"""


async def test_documents_with_what_is_published(shell: Shell) -> None:
    (shell.folder / "two.yaml").write_text(TWO)
    file = str(shell.folder / "two.yaml")
    everything_new = await shell("diff", "-f", file)
    assert everything_new.code == FOUND_PROBLEMS
    assert everything_new.lines[0] == "+ AccessPolicy/default/p"
    await shell("apply", "-f", file)
    same = await shell("diff", "-f", file)
    assert (same.code, same.out) == (FINE, "nothing differs\n")
    (shell.folder / "two.yaml").write_text(TWO.replace(", require: {scopes: [pay]}", ""))
    said = await shell("diff", "-f", file)
    assert said.code == FOUND_PROBLEMS
    assert said.lines[0] == "~ AccessPolicy/default/p"
    assert said.lines[1].strip().startswith("[wider] "), "the dangerous first"
    assert "--- AccessPolicy/default/p" in said.lines
    assert any(line.startswith("-") and "pay" in line for line in said.lines)
    brief = await shell("diff", "-f", file, "--brief")
    assert brief.lines == said.lines[: len(brief.lines)]
    assert "---" not in brief.out
    body = await shell("diff", "-f", file, "--output", "json")
    assert body.code == FOUND_PROBLEMS
    assert body.json["changes"] == [{"what": "changed", "document": "AccessPolicy/default/p"}]
    assert body.json["effects"][0]["text"].startswith("[wider] ")
    assert (await shell("history", "--output", "json")).json[0]["version"] == 1


async def test_what_prune_would_remove(shell: Shell) -> None:
    await shell.publish("/a", name="a")
    await shell.publish("/b", name="b")
    file = str(shell.folder / "default-a.yaml")
    assert (await shell("diff", "-f", file)).code == FINE
    said = await shell("diff", "-f", file, "--prune", "--brief")
    assert said.code == FOUND_PROBLEMS
    assert said.lines[0] == "- AccessPolicy/default/b"


async def test_releases_with_each_other(shell: Shell) -> None:
    for path in ("/1", "/2", "/3"):
        await shell.publish(path)
    with_newest = await shell("diff", "default@1")
    assert with_newest.code == FOUND_PROBLEMS
    assert any(line.startswith("-") and "/1" in line for line in with_newest.lines)
    assert any(line.startswith("+") and "/3" in line for line in with_newest.lines)
    back = await shell("diff", "default@3", "default@1")
    assert any(line.startswith("+") and "/1" in line for line in back.lines)
    assert (await shell("diff", "default@2", "default@2")).code == FINE
    nothing = await shell("diff", "default@9")
    assert (nothing.code, nothing.out) == (FOUND_PROBLEMS, "")
    assert "default has no release 9" in nothing.err


async def test_what_would_be_refused_is_said(shell: Shell) -> None:
    said = await shell("diff", "-f", shell.write("/", when="nonsense == 1"))
    assert said.code == FOUND_PROBLEMS
    assert "nonsense" in said.err
    (shell.folder / "broken.yaml").write_text("a: [")
    said = await shell("diff", "-f", str(shell.folder / "broken.yaml"), "--output", "json")
    assert said.code == FOUND_PROBLEMS
    assert said.json["problems"][0]["line"] == 2


async def test_nothing_of_documents_moves_the_cursor(shell: Shell) -> None:
    hostile = TWO.replace("name: r", 'name: "r\\e[2J\\u202e\\u0007"')
    (shell.folder / "h.yaml").write_text(hostile)
    said = await shell("diff", "-f", str(shell.folder / "h.yaml"))
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("-f", "x", "default@1"),
        ("default@1", "default@2", "default@3"),
        ("default@1", "other@2"),
        ("default",),
        ("@1",),
        ("default@²",),
        (f"default@{2**64}",),
    ],
)
async def test_misuse(shell: Shell, argv: tuple[str, ...]) -> None:
    said = await shell("diff", *argv)
    assert said.code == MISUSE
    assert "Traceback" not in said.err
    assert said.err
