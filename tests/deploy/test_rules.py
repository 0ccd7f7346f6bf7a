"""Alerts and dashboard as files: well formed, tested, and each alert with its section of the runbook."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy import promql
from tests.e2e.processes import program

CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
RUNBOOK = ROOT / "docs" / "runbook.md"
SECTION = ("What it means", "What callers see", "Look first at", "Mend")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_each_alert_is_tested_both_ways() -> None:
    assert [file.stem for file in CASES] == [file.stem for file in promql.RULES]
    fired: set[str] = set()
    silent: set[str] = set()
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for look in case["promql_expr_test"]:
                [name] = re.findall(r'alertname="(\w+)"', look["expr"])
                assert case["name"].startswith(f"{name}:")
                (fired if look["exp_samples"] else silent).add(name)
    names = [alert["alert"] for alert in promql.alerts()]
    assert len(names) == len(set(names)) >= 10
    assert fired == silent == set(names)


def test_the_dashboard_shows_each_certificate_that_the_alert_watches() -> None:
    [alert] = [each for each in promql.alerts() if each["alert"] == "SidecarCertificateExpiring"]
    [panel] = [each for each in promql.panels() if each["title"] == "Certificates end in"]
    shown = set().union(*(promql.metrics(target["expr"]) for target in panel["targets"]))
    assert shown == promql.metrics(alert["expr"])
    assert len(shown) == 3


def test_promtool_takes_the_rules_and_every_query_of_the_dashboard(tmp_path: Path) -> None:
    done = promtool("check", "rules", *map(str, promql.RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    queries = promql.queries()
    assert len(queries) > 20
    group = [{"record": f"q:{index}", "expr": query} for index, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": group}]}))
    done = promtool("check", "rules", "--lint=none", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", promql.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert alert["labels"] in ({"severity": each} for each in ("critical", "warning", "info"))
    # What the texts name of the labels must be there once the expression has grouped by them.
    recorded = {rule["record"]: rule["expr"] for rule in promql.rules() if "record" in rule}
    read = [recorded[name] for name in promql.metrics(str(alert["expr"])) if name in recorded]
    kept = {name for each in (str(alert["expr"]), *read) for name in promql.labels(each)}
    used = set(re.findall(r"\$labels\.(\w+)", f"{notes['summary']} {notes['description']}"))
    assert used <= kept
    page, _, anchor = str(notes["runbook_url"]).partition("#")
    assert ROOT / page == RUNBOOK
    assert anchor in sections()
    assert alert["alert"] in sections()[anchor], "its section names it"


def sections() -> dict[str, str]:
    """The runbook's by anchor, as forges make them of headings."""
    parts = re.split(r"^## (.+)$", RUNBOOK.read_text(), flags=re.M)[1:]
    return {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"): text
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_each_section_of_the_runbook_is_an_alert_s_and_whole() -> None:
    anchors = [
        str(alert["annotations"]["runbook_url"]).partition("#")[2] for alert in promql.alerts()
    ]
    assert sorted(sections()) == sorted(anchors)
    for name, text in sections().items():
        for part in SECTION:
            assert f"**{part}.**" in text, name


def test_names_are_found_in_expressions() -> None:
    """Else the tests that look them up would pass over what they cannot read."""
    text = """
      histogram_quantile(0.99, sum by (le, namespace) (rate(a_bucket{x=~"b{2} c",y!="d"}[5m] offset 1d)))
        / on (pod) group_left (version) e:f:g > bool 1e3 and time() - h < 7 * 86400 or i unless j
    """
    assert promql.metrics(text) == {"a_bucket", "e:f:g", "h", "i", "j"}
    assert promql.labels(text) == {"le", "namespace", "x", "y", "pod", "version"}


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in promql.panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        if panel["type"] not in ("row", "text"):
            assert panel["description"], panel["title"]
            assert panel["targets"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    ids = [panel["id"] for panel in promql.panels()]
    assert len(ids) == len(set(ids))
