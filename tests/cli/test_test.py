"""`sidecar test`: what passes, what fails and why, coverage, JUnit, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import sidecar
from sidecar.cli import run
from sidecar.decide.cases import read_cases
from sidecar.decide.parse import Source

DEMO = Path(sidecar.__file__).parent / "demo" / "cases"
POLICIES = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank]}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  selector: {app: bank}
  rules:
  - {name: open, match: {paths: [/open]}, auth: none}
  - {name: pay, match: {methods: [POST], paths: [/pay]}, require: {scopes: [pay]}, limit: {rate: 10/m}, then: {setHeaders: {x-who: token.sub}, redact: [{drop: [$.ssn]}]}}
  - {name: large, effect: guard, match: {paths: [/pay]}, when: "request.body.amount > 100", require: {stepUp: {acr: [mfa]}}}
  - {name: never, effect: deny, match: {paths: [/no]}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec: {selector: {app: bank}, mode: shadow, rules: [{name: closed, effect: deny, match: {paths: [/open]}}]}
"""
CASES = """
policies: policies
labels: {app: bank}
cases:
- {name: open, request: {path: /open}, expect: {permit: p/open, shadow: refuse}}
- name: pay
  request: {method: POST, path: /pay, body: {amount: 5}}
  token: {sub: alice, scope: pay}
  expect: {permit: default/p/pay, headers: {X-Who: alice, x-other: null}, redacted: true, limited: true}
- name: large
  request: {method: POST, path: /pay, body: {amount: 500}}
  token: {scope: pay}
  expect: {refuse: 401, code: insufficient_user_authentication, rule: p/large, kind: step_up, needs: {acr_values: [mfa]}}
- {name: "no", request: {path: /no}, token: {}, expect: {refuse: 403, reason: denied_by_rule}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "bank.yaml").write_text(POLICIES)
    (tmp_path / "cases.yaml").write_text(CASES)
    return tmp_path


def test_all_is_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # In a folder, documents are passed over: they are in this one as well.
    assert run(["test", str(folder), "--coverage-at-least", "100"]) == 0
    out = capsys.readouterr().out
    assert "4 cases, 0 failed" in out
    assert "5 of 5 rules covered (100.0 %)" in out
    assert "half covered: guard default/p/large never held" in out


def test_the_demos_policies_are_covered(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", str(DEMO), "--coverage-at-least", "100"]) == 0
    assert "0 failed" in capsys.readouterr().out


def test_a_failure_says_what_and_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cases.yaml").write_text(
        CASES.replace("scope: pay}", "scope: read}", 1).replace("x-other: null", "x-other: a")
    )
    assert run(["test", str(folder / "cases.yaml")]) == 1
    out = capsys.readouterr().out
    assert "FAIL  pay" in out
    assert 'expected  {"permit": "default/p/pay"}' in out
    assert '"code": "insufficient_scope"' in out
    assert (
        "because: refused by default/p/pay (insufficient_scope, scope_missing); lacks scope pay"
        in out
    )
    assert "4 cases, 1 failed" in out
    assert "not covered: allow default/p/pay" in out
    assert "half covered: guard default/p/large never held" in out


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("x-other: null", "x-other: a", "headers.x-other"),
        ("redacted: true", "redacted: false", "redacted"),
        ("shadow: refuse", "shadow: permit", "shadow"),
        ("acr_values: [mfa]", "acr_values: [pin]", "needs"),
        ("kind: step_up", "kind: scope", "kind"),
        ("refuse: 401", "refuse: 403", "outcome"),
        ("reason: denied_by_rule", "reason: no_rule", "reason"),
        ("rule: p/large", "rule: p/pay", "rule"),
        ("permit: p/open", "refuse: 401", "outcome"),
        ("reason: denied_by_rule", "challenge: Bearer", "challenge"),
    ],
)
def test_each_expectation_can_fail(
    folder: Path, was: str, now: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cases.yaml").write_text(CASES.replace(was, now))
    assert run(["test", str(folder / "cases.yaml"), "--output", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    [failed] = [case for case in report["cases"] if not case["passed"]]
    assert [mismatch["what"] for mismatch in failed["mismatches"]] == [says]
    assert report["failed"] == 1


def test_coverage_can_be_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cases.yaml").write_text(CASES.split('- {name: "no"')[0])
    path = str(folder / "cases.yaml")
    assert run(["test", path]) == 0
    assert run(["test", path, "--coverage-at-least", "80"]) == 0
    capsys.readouterr()
    assert run(["test", path, "--coverage-at-least", "81%"]) == 1
    assert "80.0 % of the rules are covered, 81 % are asked for" in capsys.readouterr().err
    with pytest.raises(SystemExit) as misuse:
        run(["test", path, "--coverage-at-least", "101"])
    assert misuse.value.code == 2


def test_junit_holds_whatever_a_name_holds(folder: Path) -> None:
    odd = 'a "<b>" & \\x07 name'
    (folder / "cases.yaml").write_text(
        CASES.replace("name: large", f'name: "{odd.replace(chr(34), chr(92) + chr(34))}"').replace("kind: step_up", "kind: scope")
    )  # fmt: skip
    report = folder / "report.xml"
    assert run(["test", str(folder / "cases.yaml"), "--junit", str(report)]) == 1
    root = ElementTree.parse(report).getroot()
    [suite] = root
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    [failed] = [case for case in suite if len(case)]
    assert failed.get("name") == odd
    assert "expected  scope" in (failed[0].text or "")
    assert run(["test", str(folder / "cases.yaml"), "--junit", str(folder / "no" / "x.xml")]) == 2


def test_policies_may_be_named_instead(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policies = folder / "policies" / "bank.yaml"
    (folder / "cases.yaml").write_text(
        CASES.replace("policies: policies\n", "").replace("labels: {app: bank}\n", "")
    )
    path = str(folder / "cases.yaml")
    assert run(["test", path]) == 2
    assert "say policies: PATH in it, or --policies" in capsys.readouterr().err
    assert run(["test", path, "--policies", str(policies)]) == 1
    assert "say --label KEY=VALUE" in capsys.readouterr().err
    assert run(["test", path, "--policies", str(policies), "--label", "app=bank"]) == 0
    capsys.readouterr()
    labelled = ["--label", "app=bank", "--namespace", "shop"]
    assert run(["test", path, "--policies", str(policies), *labelled]) == 1
    assert "they are in default; choose with --namespace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("p/open", "p/opn", "cases.yaml:5:57: error: there is no rule 'p/opn'"),
        ("p/open", "p/opn", "did you mean p/open?"),
        ("policies: policies", "policies: elsewhere", "elsewhere does not exist"),
        ("path: /no", "path: /a/../../b", "no sidecar lets this in: path climbs above the root"),
        ("method: POST", "methd: POST", "did you mean method?"),
    ],
)
def test_mistakes_in_cases(
    folder: Path, was: str, now: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cases.yaml").write_text(CASES.replace(was, now))
    assert run(["test", str(folder / "cases.yaml")]) == 1
    said = capsys.readouterr()
    assert says in said.err + said.out


def test_mistakes_in_policies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "policies" / "bank.yaml").write_text(
        POLICIES.replace("scopes: [pay]", "scops: [pay]")
    )
    assert run(["test", str(folder / "cases.yaml")]) == 1
    assert "bank.yaml:14:" in capsys.readouterr().err


def test_no_cases_is_misuse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", str(folder / "policies")]) == 2
    assert "no file in it has cases:" in capsys.readouterr().err
    assert run(["test", str(folder / "policies" / "bank.yaml")]) == 1


def test_the_cases_that_the_docs_show_can_be_read() -> None:
    page = (Path(sidecar.__file__).parent.parent / "docs" / "testing.md").read_text()
    [text] = [each for each in re.findall(r"```yaml\n(.*?)```", page, re.S) if "cases:" in each]
    assert len(read_cases(Source("docs", text)).cases) == 3
