"""What becomes of each pod of cases.yaml, as files. `python -m tests.inject.golden` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sidecar.inject.terms import Refused
from tests.inject.common import injected

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "cases.yaml").read_text())


def file(name: str) -> Path:
    return HERE / "golden" / f"{name}.yaml"


def came_to(name: str) -> dict[str, Any]:
    """What the webhook makes of a case, without the two signed texts, which nobody can read."""
    case = CASES[name]
    try:
        found = injected(case["pod"], labels=case.get("namespaceLabels"), **case.get("terms", {}))
    except Refused as refused:
        return {"refused": refused.reason, "message": str(refused)}
    result: dict[str, Any] = {"result": found.result}
    if found.warnings:
        result["warnings"] = list(found.warnings)
    if found.pod is not case["pod"]:
        text = yaml.safe_dump(dict(found.pod), sort_keys=False, width=200)
        result["pod"] = _readable(yaml.safe_load(text))
    return result


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _readable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_readable(each) for each in value]
    return "SIGNED" if isinstance(value, str) and value.startswith("eyJ") else value


def text(name: str) -> str:
    return yaml.safe_dump(came_to(name), sort_keys=False, width=100)


def main() -> None:
    for name in CASES:
        file(name).parent.mkdir(exist_ok=True)
        file(name).write_text(text(name))
    for found in file("x").parent.glob("*.yaml"):
        if found.stem not in CASES:
            found.unlink()


if __name__ == "__main__":
    main()
