"""The house's directions: who may import whom, and that each module imports alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sidecar"

# Each layer may import those after it; layers side by side may not import each other.
LAYERS = (
    {"__main__"}, {"cli"}, {"demo"}, {"app"}, {"plane"}, {"edge", "control", "inject"}, {"facts"},
    {"telemetry", "wire"}, {"decide"}, {"errors"},
)  # fmt: skip
CONFIG = {
    "config",
    "config_fleet",
    "config_inject",
    "config_limits",
    "config_setting",
    "config_probes",
    "config_publishers",
    "config_run",
    "config_server",
    "config_tls",
    "config_values",
}  # below the top, and for it alone
PURE = {
    "jwt", "cryptography", "orjson", "cachetools", "msgspec", "yaml", "cel", "cel_expr_python",
    "google", "re2", "iregexp_check", "jsonpath_rfc9535",
}  # fmt: skip
IMPURE_STANDARD = {
    "asyncio", "socket", "ssl", "os", "pathlib", "logging", "time", "random", "secrets",
    "subprocess", "threading", "selectors", "tempfile", "shutil", "uuid", "io",
}  # fmt: skip
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if "migrations" not in path.parts
)


def imports(module: str) -> set[str]:
    """Everything a module imports, wherever in it."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            assert node.module is not None
            found |= (
                {f"sidecar.{alias.name}" for alias in node.names}
                if node.module == "sidecar"
                else {node.module}
            )
    return found


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def rank(name: str) -> int:
    return next(place for place, names in enumerate(LAYERS) if name in names)


KNOWN = set().union(*LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_directions(module: str) -> None:
    own = layer(module)
    if own not in KNOWN:
        assert own in ("", *CONFIG), f"{module} has no place in the house"
        return
    for name in imports(module):
        if not name.startswith("sidecar."):
            continue
        other = layer(name)
        if other in CONFIG:
            assert own in ("cli", "app", "plane", "demo"), f"{module} imports {name}"
        elif other in KNOWN and other != own:
            assert rank(other) > rank(own), f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m) == "decide"])
def test_the_decision_is_pure(module: str) -> None:
    for name in imports(module):
        top = name.split(".")[0]
        assert top not in IMPURE_STANDARD, f"{module} imports {name}"
        assert (
            top in PURE
            or top in sys.stdlib_module_names
            or name.startswith(("sidecar.decide", "sidecar.errors"))
        ), f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m) != "config"])
def test_only_config_reads_the_environment(module: str) -> None:
    if module in ("sidecar.demo.world",):
        return  # hands its own on to the processes that it starts
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert not re.search(r"os\.environ|getenv|import environ", file.read_text())


def test_each_module_imports_alone_without_warnings() -> None:
    def alone(module: str) -> str:
        command = [sys.executable, "-W", "error", "-c", f"import {module}"]
        done = subprocess.run(command, capture_output=True, text=True)
        return f"{module}: {done.stderr}" if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        assert [found for found in pool.map(alone, MODULES) if found] == []
