"""The file of subjects: strict, followed, and unchanged records are the same objects."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sidecar.decide.outcomes import Identity
from sidecar.decide.parse import Source
from sidecar.decide.subjects import NOT_KNOWN, Subject
from sidecar.errors import Misuse, Problem
from sidecar.facts import subjects
from sidecar.facts.subjects import SubjectsFile, parse_subjects

IDP = "https://idp.example"
ALICE = f"""
- issuer: {IDP}
  subject: alice
  consents: [payments, marketing]
  profile: {{phone: "+44", email: null, address: {{city: York, floor: 3}}}}
  segments: [beta]
  risk: 12.5
"""
BOB = f"- {{issuer: {IDP}, subject: bob}}\n"


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


async def nothing(_: float) -> None:
    return


def known(file: SubjectsFile, name: str, issuer: str = IDP) -> Subject:
    return file.get(Identity(issuer, name, frozenset(["x"])), 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "subjects.yaml").write_text(ALICE + BOB)
    return tmp_path / "subjects.yaml"


async def loaded(path: Path) -> tuple[SubjectsFile, list[int]]:
    file = SubjectsFile(path, sleep=nothing)
    changes: list[int] = []
    file.changed = lambda: changes.append(1)
    await file.load()
    return file, changes


async def test_what_it_says_is_known(path: Path) -> None:
    file, changes = await loaded(path)
    alice = known(file, "alice")
    assert alice.consents == {"payments", "marketing"}
    assert alice.profile == {"phone": "+44", "email": None, "address": {"city": "York", "floor": 3}}
    assert (alice.segments, alice.risk) == (frozenset({"beta"}), 12.5)
    bob = known(file, "bob")
    assert (bob.consents, bob.profile, bob.risk) == (frozenset(), {}, 0)
    assert bob is not NOT_KNOWN
    assert known(file, "carol") is NOT_KNOWN
    assert known(file, "alice", "https://other.example") is NOT_KNOWN
    assert (len(file), changes) == (2, [])


async def test_json_will_do(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write(path, f'[{{"issuer": "{IDP}", "subject": "\\ud83d\\ude00", "risk": 3}}]')
    file, _ = await loaded(path)
    assert known(file, "😀").risk == 3


async def test_records_that_did_not_change_stay_the_same(path: Path) -> None:
    file, changes = await loaded(path)
    alice, bob = known(file, "alice"), known(file, "bob")
    write(path, "# another text\n" + BOB + ALICE)
    await file.reload(only_if_changed=True)
    assert known(file, "alice") is alice
    assert (file.reloads, changes) == (1, [])
    await file.reload(only_if_changed=True)
    assert file.reloads == 1
    write(path, ALICE.replace("floor: 3", "floor: true") + BOB)
    await file.reload(only_if_changed=True)
    changed = known(file, "alice")
    assert changed is not alice
    assert changed.profile["address"]["floor"] is True
    assert known(file, "bob") is bob
    assert changes == [1]
    write(path, ALICE)
    await file.reload(only_if_changed=True)
    assert known(file, "bob") is NOT_KNOWN
    write(path, "[]")
    await file.reload(only_if_changed=True)
    assert known(file, "alice") is NOT_KNOWN
    assert (len(file), len(changes)) == (0, 3)


@pytest.mark.parametrize("text", ["", "- {issuer: a}", "half: [", None])
async def test_with_a_mistake_what_was_there_stays(
    path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file, changes = await loaded(path)
    alice = known(file, "alice")
    if text is None:
        remove(path)
    else:
        write(path, text)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await file.reload(only_if_changed=True)
        await file.reload()
    assert known(file, "alice") is alice
    assert (file.rejected, changes) == (2, [])
    assert caplog.text.count("those before stay in force") == 1
    assert file.error
    write(path, BOB)
    await file.reload(only_if_changed=True)
    assert (known(file, "alice"), file.error) == (NOT_KNOWN, "")


async def test_a_file_that_changes_while_it_is_read_is_read_again(path: Path) -> None:
    texts = [BOB * 2, ALICE]

    async def meanwhile(_: float) -> None:
        if texts:
            write(path, texts.pop())

    file = SubjectsFile(path, sleep=meanwhile)
    await file.load()
    write(path, BOB)
    await file.reload(only_if_changed=True)
    assert (file.reloads, file.rejected, len(file)) == (0, 0, 2)
    texts.clear()
    await file.reload(only_if_changed=True)
    assert (file.reloads, len(file)) == (1, 1)


async def test_to_begin_with_every_mistake_is_said(path: Path) -> None:
    write(path, ALICE + "- {issuer: 1}\n")
    with pytest.raises(Misuse) as caught:
        await SubjectsFile(path).load()
    assert [line.split(" error: ")[1] for line in caught.value.mistakes if " error: " in line]
    assert all(each.startswith("--subjects: ") for each in caught.value.mistakes)
    remove(path)
    with pytest.raises(Misuse, match="no such file"):
        await SubjectsFile(path).load()


MISTAKES = """
- issuer: https://idp.example
  subject: alice
  consent: [payments]
  risk: 101
- issuer: https://idp.example
  subject: alice
- issuer: https://idp.example
  subject: 7
  profile: {n: 9223372036854775808, d: 2024-01-01}
  risk: high
  segments: beta
- https://idp.example
- {subject: "", issuer: a, issuer: b}
"""


def test_all_mistakes_at_once_with_their_places() -> None:
    problems: list[Problem] = []
    assert parse_subjects(Source("s.yaml", MISTAKES), problems) == {}
    found = {(each.line, each.column, each.message.split(",")[0]) for each in problems}
    assert found == {
        (4, 3, "unknown field 'consent'"),
        (5, 9, "101 is not from 0 to 100"),
        (7, 12, "this subject of this issuer is already at line 2"),
        (9, 12, "expected text"),
        (10, 12, "a number beyond 64 bits"),
        (10, 40, "'2024-01-01' is not a JSON value"),
        (11, 9, "expected a number"),
        (12, 13, "expected a list"),
        (13, 3, "expected fields"),
        (14, 13, "must not be empty"),
        (14, 28, "'issuer' is given twice"),
    }
    assert all(each.file == "s.yaml" for each in problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no list"),
        ("# nothing", "holds no list"),
        ("{}", "expected a list of subjects, found a mapping"),
        ("alice", "expected a list of subjects, found text"),
        ("[" * 100, "nested more than"),
        (BOB * 2, "already at line 1"),
        (f"{BOB}---\n{BOB}", "already at line 1"),
        ("[{issuer: a, subject: b}, {issuer: a, subject: b}]", "already at line 1"),
        ("- {issuer: a, subject: 'b", "not valid YAML"),
    ],
)
def test_what_is_no_list_of_subjects(text: str, message: str) -> None:
    problems: list[Problem] = []
    assert parse_subjects(Source("s", text), problems) == {}
    (problem,) = problems
    assert message in problem.message


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[Problem] = []
    monkeypatch.setattr(subjects, "MOST", 2)
    text = "".join(BOB.replace("bob", f"b{n}") for n in range(3))
    assert parse_subjects(Source("s", text), problems) == {}
    monkeypatch.setattr(subjects, "MAX_FILE", 10)
    assert parse_subjects(Source("s", text), problems) == {}
    assert [each.message for each in problems] == [
        "more than 2 subjects", "larger than 10 characters",
    ]  # fmt: skip
