"""The names of metrics and labels in a PromQL expression, by taking away all that is neither."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.deploy.chart import CHART

DASHBOARD = CHART / "dashboards" / "sidecar.json"
RULES = sorted((CHART / "rules").glob("*.yaml"))

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHERS = re.compile(r"\{[^}]*\}")
_LABELS = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_WINDOW = re.compile(r"\[[^\]]*\]")
_OFFSET = re.compile(r"\boffset\s+\w+")
_NAME = re.compile(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\s*\()\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset", "group_left", "group_right"}


def metrics(expression: str) -> set[str]:
    """Names of time series that it reads."""
    text = _STRING.sub('""', expression)
    for pattern in (_MATCHERS, _LABELS, _WINDOW, _OFFSET):
        text = pattern.sub(" ", text)
    text = re.sub(r"\b(by|without|on|ignoring)\b", " ", text)
    return {name for name in _NAME.findall(text) if name not in _WORDS}


def labels(expression: str) -> set[str]:
    """Labels that it matches or groups by."""
    text = _STRING.sub('""', expression)
    found = {
        name
        for matchers in _MATCHERS.findall(text)
        for name in re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", matchers)
    }
    for _, names in _LABELS.findall(text):
        found |= {name.strip() for name in names.split(",") if name.strip()}
    return found


def rules() -> list[dict[str, Any]]:
    """All rules, recording ones included."""
    return [
        rule
        for file in RULES
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    """Of the dashboard, those in rows included."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [*found, *(inner for panel in found for inner in panel.get("panels", []))]


def queries() -> list[str]:
    """Every expression of the dashboard, variables and annotations included, with Grafana's own
    variables filled in."""
    board = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    found += [each["expr"] for each in board["annotations"]["list"] if "expr" in each]
    for variable in board["templating"]["list"]:
        asked = re.fullmatch(r"label_values\((.+), \w+\)", str(variable.get("definition", "")))
        found += [asked[1]] if asked else []
    for name, value in (
        ("$__rate_interval", "5m"),
        ("$__range", "1h"),
        ("$namespace", ".+"),
        ("$pod", ".+"),
    ):
        found = [expression.replace(name, value) for expression in found]
    return found
