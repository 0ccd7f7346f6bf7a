"""`sidecar explain`: requests described by flags, and those of test cases."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import run
from tests.cli.test_test import CASES, DEMO, POLICIES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "bank.yaml").write_text(POLICIES)
    (tmp_path / "cases.yaml").write_text(CASES)
    return tmp_path


def explained(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    known = ["--policies", str(folder / "policies"), "--label", "app=bank", "--output", "json"]
    assert run(["explain", *known, *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_tree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--policies", str(folder / "policies"), "--label", "app=bank"]
    body = '{"amount": 500}'
    assert run(["explain", *flags, "--request", "POST /pay", "--body", body,
                "--token", '{"sub": "alice", "scope": "pay"}']) == 0  # fmt: skip
    out = capsys.readouterr().out
    for line in (
        "POST https://localhost/pay",
        "├─ caller: alice of https://idp.example, by a token",
        "│  ├─ allow default/p/pay: permits",
        "│  ├─ guard default/p/large: is not met  <- decisive",
        "│  │  │  └─ request.body.amount = 500",
        "│  │  └─ no  login with acr mfa",
        "│  └─ 3 more are about other paths",
        "├─ refused by default/p/large: insufficient_user_authentication, step_up_required",
        "│  │  └─ default/p/pay: 5 for login with acr mfa  <- the cheapest",
        '│  ├─ asked for: step_up {"acr_values": ["mfa"]}',
        "│  └─ answered with 401",
        '│     ├─ WWW-Authenticate: Bearer realm="sidecar", error="insufficient_user_authentication"',
        "   └─ The caller: a login with acr mfa.",
    ):
        assert line in out, out
    assert "\x1b" not in out  # colour only on a terminal


def test_what_comes_from_a_request_moves_no_cursor(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--policies", str(folder / "policies"), "--label", "app=bank"]
    token = json.dumps({"sub": "a\x1b[2Jb", "scope": "pay"})
    assert run(["explain", *flags, "--request", "POST /pay", "--token", token]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_files_and_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "body.json").write_text('{"amount": 5}')
    (folder / "token.json").write_text('{"scope": "pay"}')
    flags = ["--request", "POST /pay", "--body", f"@{folder / 'body.json'}"]
    found = explained(folder, capsys, *flags, "--token", f"@{folder / 'token.json'}")
    assert (found["outcome"], found["effects"]["setHeaders"]) == (
        "permitted",
        {"x-who": "somebody"},
    )
    claims = {"iss": "https://idp.example", "aud": "bank", "sub": "bob", "scope": "pay", "exp": 1}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    (folder / "jwt").write_text(f"Bearer e30.{body}.AA\n")
    found = explained(
        folder, capsys, *flags, "--jwt", str(folder / "jwt"), "--time", "2026-01-01T00:00:00Z"
    )
    assert found["reason"] == "not_yet_valid" or found["outcome"] == "permitted"
    found = explained(folder, capsys, *flags, "--token", "bad")
    assert found["caller"]["kind"] == "bad"


def test_of_a_case(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--case", f"{folder / 'cases.yaml'}:large"]) == 0
    assert "refused by default/p/large" in capsys.readouterr().out
    assert run(["explain", "--case", f"{DEMO / 'bank.yaml'}:transfers need their scope"]) == 0
    assert run(["explain", "--case", f"{folder / 'cases.yaml'}:lrge"]) == 2
    assert "did you mean large?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--request", "/pay"], "--request: a method and a path"),
        (["--request", "GET /pay", "--token", "{"], "--token: not a JSON object"),
        (["--request", "GET /pay", "--token", "@nowhere"], "--token: nowhere cannot be read"),
        (["--request", "GET /pay", "--jwt", "nowhere"], "--jwt: nowhere cannot be read"),
        (["--request", "GET /pay", "--header", "x"], "is not NAME:VALUE"),
        (["--request", "GET /pay", "--header", "Authorization: Bearer x"], "say --token"),
        (["--request", "GET /pay", "--subject", '{"consent": []}'], "unknown field `consent`"),
        (["--request", "GET /pay", "--enriched", '{"a": 5}'], "neither an object nor null"),
        (["--request", "GET /pay", "--time", "now"], "is not a time"),
        (["--request", "GET /a/../..", "--token", "{}"], "no sidecar lets this request in"),
        (["--request", "GET /pay", "--workload", "x"], "--workload: not a SPIFFE id"),
        (
            ["--request", "GET /pay", "--address", "1.2.3"],
            "--address: '1.2.3' is not an IP address",
        ),
        (
            ["--request", "GET /pay", "--token", "{}", "--enriched", '{"a": {}}'],
            "--enriched: a: there is no such Enricher",
        ),
        (["--case", "x"], "--case: FILE:NAME"),
        (["--case", "f:x", "--token", "{}"], "--token: the request is that of --case"),
    ],
)
def test_misuse(
    folder: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["--policies", str(folder / "policies"), "--label", "app=bank"]
    assert run(["explain", *known, *flags]) == 2
    assert says in capsys.readouterr().err


def test_policies_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--request", "GET /"]) == 2
    assert "--policies" in capsys.readouterr().err
