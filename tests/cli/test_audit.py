"""`sidecar audit`: whoever alters the record is found out, at the control plane or in a file."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from sidecar.cli import FINE, FOUND_PROBLEMS, MISUSE
from sidecar.facts.audit import content_of, hash_of
from tests.cli.shell import Shell


@pytest.fixture
async def head(shell: Shell) -> str:
    """Where the record ends once some things were done."""
    for number in range(4):
        await shell.publish(f"/{number}", "-m", f"change {number}")
    return (await shell("audit", "verify")).out.split()[-1]


def altered(shell: Shell, *statements: str) -> None:
    """As somebody does who has the database, and got rid of what stands in the way."""
    with sqlite3.connect(shell.folder.parent / "store.db") as store:
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'"
        triggers = store.execute(query).fetchall()
        assert triggers, "the trail is for adding to alone"
        for (name,) in triggers:
            store.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            store.execute(statement)
    store.close()


async def test_what_was_done_newest_first(shell: Shell, head: str) -> None:
    said = await shell("audit")
    assert said.code == FINE
    assert "  apply  by " in said.lines[0]
    assert '"AccessPolicy/default/p": "changed"' in said.lines[0]
    numbers = [int(line.split()[0]) for line in said.lines]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == int(head.partition(":")[0])
    body = (await shell("audit", "--most", "2", "--output", "json")).json
    assert [each["number"] for each in body] == numbers[:2]
    assert body[0]["action"] == "apply"


async def test_a_whole_one(shell: Shell, head: str) -> None:
    number, _, digest = head.partition(":")
    said = await shell("audit", "verify")
    assert (said.code, said.out) == (FINE, f"{number} records, whole; head {head}\n")
    said = await shell("audit", "verify", "--head", head, "--output", "json")
    assert said.json == {"whole": True, "number": int(number), "hash": digest, "problem": None}
    await shell.publish("/more")
    assert (await shell("audit", "verify", "--head", head)).code == FINE  # it has gone on since


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE audit SET content = CAST(replace(content, 'apply', 'other') AS BLOB) WHERE number = 3",
         "record 3 is not what its hash says: it was changed"),
        ("UPDATE audit SET hash = zeroblob(32) WHERE number = 3", "record 3 is not what its hash"),
        ("DELETE FROM audit WHERE number = 2", "record 2 is missing: 3 follows"),
        ("DELETE FROM audit WHERE number = 1", "record 1 is missing: 2 follows"),
        ("UPDATE audit SET content = 'x' WHERE number = 1", "record 1 is not what its hash"),
    ],
)  # fmt: skip
async def test_what_was_altered_in_the_store(
    shell: Shell, head: str, statement: str, says: str
) -> None:
    altered(shell, statement)
    said = await shell("audit", "verify", "--head", head)
    assert said.code == FOUND_PROBLEMS
    assert says in said.err
    said = await shell("audit", "verify", "--output", "json")
    assert (said.code, said.json["whole"]) == (FOUND_PROBLEMS, False)
    assert says in said.json["problem"]


async def test_one_put_in_between(shell: Shell, head: str) -> None:
    with sqlite3.connect(shell.folder.parent / "store.db") as store:
        (previous,) = store.execute("SELECT hash FROM audit WHERE number = 2").fetchone()
        content = content_of(3, 1.0, "mallory", "apply", {}, previous)
    store.close()
    altered(
        shell,
        "UPDATE audit SET number = -number WHERE number >= 3",
        "UPDATE audit SET number = 1 - number WHERE number < 0",
        f"INSERT INTO audit (number, content, hash) VALUES (3, X'{content.hex()}', "
        f"X'{hash_of(content).hex()}')",
    )
    said = await shell("audit", "verify")
    assert said.code == FOUND_PROBLEMS
    assert "record 4 does not follow on the one before it" in said.err


async def test_what_was_cut_off_shows_by_a_head_that_was_noted(shell: Shell, head: str) -> None:
    number = int(head.partition(":")[0])
    altered(shell, f"DELETE FROM audit WHERE number >= {number - 1}")
    assert (await shell("audit", "verify")).code == FINE  # nobody can tell, from what is left
    said = await shell("audit", "verify", "--head", head)
    assert said.code == FOUND_PROBLEMS
    assert f"the record ends before {number}, whose head was noted" in said.err
    for path in ("/x", "/y"):
        await shell.publish(path)  # as many as before, and others
    said = await shell("audit", "verify", "--head", head)
    assert said.code == FOUND_PROBLEMS
    assert f"record {number} is another one than the head that was noted" in said.err


async def test_what_was_exported_is_verified_without_a_control_plane(
    shell: Shell, head: str, tmp_path: Path
) -> None:
    file = tmp_path / "trail.jsonl"
    exported = await shell("audit", "export")
    assert exported.code == FINE
    file.write_text(exported.out)

    async def verified(text: str, *more: str) -> tuple[int, str]:
        file.write_text(text)
        offline = Shell("127.0.0.1:1", shell.folder, shell.captured)
        said = await offline("audit", "verify", "--file", str(file), *more)
        return said.code, said.out + said.err

    lines = exported.out.splitlines(keepends=True)
    code, said = await verified(exported.out, "--head", head)
    assert (code, said) == (FINE, f"{len(lines)} records, whole; head {head}\n")
    first = json.loads(lines[0])
    other = {**first, "content": json.loads(lines[1])["content"]}
    for text, says in (
        ("".join(lines[1:]), "record 1 is missing"),
        ("".join([*lines[:2], *lines[3:]]), "record 3 is missing"),
        ("".join([json.dumps(other) + "\n", *lines[1:]]), "record 1 is not what its hash says"),
        ("".join([lines[1], lines[0], *lines[2:]]), "record 1 is missing"),
        ("".join([*lines[:3], *lines[2:]]), "record 4 is missing: 3 follows"),
        ("nothing\n" + "".join(lines), f"{file}:1: it is not a line of `sidecar audit export`"),
        ('{"number": null, "content": "", "hash": ""}\n', "is not a line of"),
        ("".join(lines[:-1]), ""),
    ):
        code, said = await verified(text)
        assert (code, says in said) == (FOUND_PROBLEMS if says else FINE, True), text
    code, said = await verified("".join(lines[:-1]), "--head", head)
    assert (code, "its end was cut off" in said) == (FOUND_PROBLEMS, True)
    assert (await verified(""))[0] == FINE


async def test_names_and_reasons_in_it_move_no_cursor(shell: Shell) -> None:
    await shell.publish("/", "-m", "\x1b[2J\u202eall is well")
    await shell.publish("/2", "--canary", "10%")
    await shell("rollout", "abort", "default", "-m", "\x1b]0;title\x07")
    said = await shell("audit")
    assert all(line.isprintable() for line in said.lines)


async def test_a_record_that_says_nothing_is_shown_as_it_is(shell: Shell, head: str) -> None:
    altered(shell, "UPDATE audit SET content = X'1B5B324AFF' WHERE number = 3")
    altered_ = await shell("audit")
    assert altered_.code == FINE
    assert any("not a record" in line and line.isprintable() for line in altered_.lines)


@pytest.mark.parametrize(
    "argv",
    [
        ("burn",),
        ("verify", "--head", "41"),
        ("verify", "--head", "x:00"),
        ("verify", "--head", "41:00"),
        ("verify", "--head", "0:00"),
        ("verify", "--head", "1:zz"),
        ("--most", "0"),
        ("list", "--file", "x"),
        ("verify", "--file", "/nowhere/at/all"),
    ],
)
async def test_misuse(shell: Shell, argv: tuple[str, ...]) -> None:
    said = await shell("audit", *argv)
    assert said.code == MISUSE
    assert "Traceback" not in said.err
