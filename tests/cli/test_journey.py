"""`sidecar journey preview` on the demo's policies."""

from __future__ import annotations

import json

import pytest

from sidecar.cli import run

PREVIEW = [
    "journey", "preview", "--policies", "sidecar/demo/policies/bank.yaml", "--label", "app=bank",
]  # fmt: skip
PAYMENT = [
    "--request", "POST /transfers", "--body", '{"amount": 5000, "to": "bob"}',
    "--header", "content-type:application/json",
]  # fmt: skip


def test_it_shows_what_is_asked_in_which_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*PREVIEW, *PAYMENT, "--output", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in said["steps"]] == [
        "authentication", "step_up", "consent", "profile",
    ]  # fmt: skip
    assert said["steps"][2]["words"] == ["This payment"]
    assert said["admitted"] == "default/bank/transfers"


def test_for_people_and_in_their_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*PREVIEW, *PAYMENT, "--language", "de"]) == 0
    said = capsys.readouterr().out
    assert "they read: Diese Zahlung" in said
    assert said.endswith("admitted by default/bank/transfers, after 4 challenges\n")


def test_never_admitted_is_found_as_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*PREVIEW, "--request", "GET /nothing", "--token", "{}"]) == 1
    assert capsys.readouterr().out == "never admitted: denied: no_rule\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--request", "nonsense"], "--request: a method and a path"),
        (["--request", "GET /", "--token", "{"], "--token: not a JSON object"),
        (["--request", "GET /", "--subject", "{}x"], "--subject"),
    ],
)
def test_misuse(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*PREVIEW, *argv]) == 2
    assert said in capsys.readouterr().err
