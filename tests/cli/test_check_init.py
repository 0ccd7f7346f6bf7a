"""`sidecar check` and `sidecar init`, and what every command has in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sidecar.cli import COMMANDS, run


def test_init_writes_documents_that_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "policies"
    assert (
        run(["init", "--into", str(folder), "--issuer", "https://i.example", "--audience", "bank"])
        == 0
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "issuer.yaml", "policy.yaml", "service.yaml",
    ]  # fmt: skip
    assert run(["check", str(folder)]) == 0
    assert "3 documents, 0 errors, 0 warnings" in capsys.readouterr().out
    assert run(["init", "--into", str(folder)]) == 2
    assert "already holds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--issuer", "http://far.example"], "sidecar init: --issuer: "),
        (["--issuer", "a: ["], "sidecar init: --issuer: "),
        (["--name", "Not A Name"], "sidecar init: --audience, --name: 'Not A Name' is not a name"),
    ],
)
def test_init_refuses_what_no_document_could_hold(
    tmp_path: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "policies"
    assert run(["init", "--into", str(folder), *flags]) == 2
    assert not folder.exists()
    said = capsys.readouterr().err
    assert says in said
    assert ".yaml" not in said


@pytest.mark.parametrize("described", [False, True])
def test_init_writes_for_a_namespace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], described: bool
) -> None:
    folder, openapi = tmp_path / "policies", tmp_path / "openapi.yaml"
    openapi.write_text("{openapi: 3.0.3, info: {title: a, version: '1'}, paths: {/a: {get: {}}}}")
    given = [str(openapi)] if described else []
    assert run(["init", *given, "--into", str(folder), "--namespace", "shop"]) == 0
    assert "--namespace shop" in capsys.readouterr().out
    found = [yaml.safe_load(file.read_text()) for file in folder.iterdir()]
    assert [each["metadata"]["namespace"] for each in found] == ["shop"] * 3
    assert run(["check", str(folder)]) == 0


def test_nothing_of_a_document_reaches_the_terminal_as_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    head = (
        "apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
    )
    rule = "  - {name: b, effect: deny, when: \"token['\\e[2J'] == 1\"}\n"
    file.write_text(head + rule)
    assert run(["check", str(file)]) == 0
    file.write_text(head + '  - {name: b, "a\\e[2Jb": 1}\n')
    assert run(["check", str(file)]) == 1
    assert run(["explain", "--request", "GET /", "--policies", str(file)]) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\n    hint: known: " in said.err


def test_check_reports_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
        "  - {name: a, when: foo}\n  - {name: b, effect: deny, when: token.x == 1}\n"
    )
    assert run(["check", str(file)]) == 1
    said = capsys.readouterr()
    assert f"{file}:6:21: error: undeclared reference to 'foo'" in said.err
    assert f"{file}:7:35: warning: token.x is read unguarded" in said.err
    assert "1 documents, 1 errors, 1 warnings" in said.out
    assert run(["check", "--output", "json", str(file)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [problem["line"] for problem in found] == [6, 7]
    assert run(["check", str(tmp_path / "none")]) == 1


def test_warnings_count_where_they_shall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
        "  - {name: a}\n  - {name: b, match: {paths: [/b]}, require: {scopes: [x]}}\n"
        "  - {name: c, auth: none}\n"
    )
    assert run(["check", str(file)]) == 0
    said = capsys.readouterr().err
    assert "(spec.rules[1].require) [narrowed-by-allow]\n    hint: " in said
    assert said.index(":7:") < said.index(":8:")
    assert run(["check", "--strict", str(file)]) == 1
    capsys.readouterr()
    assert run(["check", "--strict", "--output", "json", str(file)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(each["severity"], each["code"]) for each in found] == [
        ("warning", "narrowed-by-allow"), ("warning", "open"),
    ]  # fmt: skip


def test_mistakes_of_what_can_be_read_come_with_those_of_what_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = (
        "apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
    )
    (tmp_path / "b.yaml").write_text(head + "  - {name: a, when: 'a' in b}\n")
    (tmp_path / "a.yaml").write_text(head + "  - {name: a, when: foo}\n")
    assert run(["check", "--output", "json", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(Path(each["file"]).name, each["line"]) for each in found] == [
        ("a.yaml", 6),
        ("b.yaml", 6),
    ]


def test_check_says_where_there_are_no_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.yaml").write_text("# nothing\n")
    run(["init", "--into", str(tmp_path / "policies")])
    for paths in (["empty"], ["blank.yaml"], ["policies", "empty"], ["policies/", "blank.yaml"]):
        assert run(["check", *(str(tmp_path / path) for path in paths)]) == 1
        assert f"{tmp_path / paths[-1]}:1:1: error: no documents found" in capsys.readouterr().err
    assert run(["check", "--output", "json", str(tmp_path / "empty")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["message"] for each in found if each["severity"] == "error"] == [
        "no documents found"
    ]
    both = [str(tmp_path / "policies"), str(tmp_path / "policies" / "issuer.yaml")]
    assert run(["check", *both]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run([command, "--help"])
    assert caught.value.code == 0
    assert "example" in capsys.readouterr().out


def test_misuse_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    with pytest.raises(SystemExit) as caught:
        run(["nonsense"])
    assert caught.value.code == 2
    assert run(["run"]) == 2
