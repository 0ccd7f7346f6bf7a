"""The committed stubs are what the proto files generate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = sorted((ROOT / "proto" / "sidecar" / "v1").glob("*.proto"))


def is_generated(path: Path) -> bool:
    return "_pb2" in path.name or path.name == "comments.json"


def test_generated_stubs_are_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    subprocess.run(
        [ROOT / "proto" / "generate.sh", tmp_path],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    generated = {path.name: path.read_text() for path in tmp_path.iterdir()}
    wire = ROOT / "sidecar" / "wire"
    committed = {path.name: path.read_text() for path in wire.iterdir() if is_generated(path)}
    assert generated.keys() == committed.keys(), "run `make proto`"
    for name, text in generated.items():
        assert text == committed[name], f"{name}: run `make proto`"


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_every_proto_imports_without_help(proto: Path) -> None:
    modules = [f"sidecar.wire.{proto.stem}_pb2", f"sidecar.wire.{proto.stem}_pb2_grpc"]
    code = "; ".join(f"import {module}" for module in modules)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)
