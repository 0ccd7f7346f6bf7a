"""What the pages on Kubernetes name is there: values, alerts, annotations' commands, headings."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy import promql
from tests.deploy.chart import CHART

PAGES = [ROOT / "docs" / "kubernetes.md", ROOT / "docs" / "runbook.md"]
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
SETTING = re.compile(
    r"\b((?:image|certificates|controlPlane|webhook|networkPolicy|monitoring)(?:\.[a-zA-Z]+)+)"
)


@EVERY
def test_values_that_are_named_are_values(page: Path) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(SETTING.findall(page.read_text()))
    assert named
    for name in named:
        found: Any = values
        for part in name.split("."):
            assert part in found, name
            found = found[part]


@cache
def anchors(page: Path) -> set[str]:
    """As forges make them of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@EVERY
def test_links_lead_to_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text())
    assert len(links) >= 5
    for target, anchor in links:
        assert anchor in anchors((page.parent / target).resolve() if target else page), anchor


@EVERY
def test_metrics_and_commands_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    operations = (ROOT / "docs" / "operations.md").read_text()
    for name in re.findall(r"`(sidecar_[a-z_]+)", text):
        assert f"`{name}" in operations, name
    usage = subprocess.run(
        [sys.executable, "-m", "sidecar", "--help"], capture_output=True, text=True
    )
    known = set(re.findall(r"[\w-]+", usage.stdout))
    commands = re.findall(r"(?:`|-- |^)sidecar ([a-z][a-z-]+)", text, re.M)
    assert commands
    assert set(commands) <= known


def test_alerts_that_are_named_are_alerts() -> None:
    names = {alert["alert"] for alert in promql.alerts()}
    runbook = set(re.findall(r"`(Sidecar[A-Z]\w+)`", (ROOT / "docs" / "runbook.md").read_text()))
    assert runbook == names
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    template = (CHART / "templates" / "monitoring" / "rules.yaml").read_text()
    assert set(re.findall(r"\bSidecar[A-Z]\w+", notes + template)) <= names
