"""The chart rendered by the real helm: manifests as dictionaries, and what can be read off them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

CHART = ROOT / "deploy" / "helm" / "sidecar"
NAMESPACE = "sidecar-system"
_TOOLS = ROOT / "build" / "kubectl"  # by the Makefile
_HERE = Path(__file__).parent

Manifest = dict[str, Any]


class _Strict(yaml.CSafeLoader):
    """A key that stands twice is a mistake of a template, which YAML would pass over."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> Manifest:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
    return {
        key: loader.construct_object(value, deep=True)
        for key, (_, value) in zip(keys, node.value, strict=True)
    }


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def tool(name: str) -> str:
    """The path of helm or kubectl, or a skip; never a skip in CI."""
    path = _TOOLS / name
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; `make test` installs it")
        pytest.skip(f"{name} is not installed")
    return str(path)


def helm(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Without a cluster, and without what the user has set up."""
    nowhere = {"KUBECONFIG": os.devnull, "HELM_NAMESPACE": ""}
    return subprocess.run(
        [tool("helm"), *arguments],
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **nowhere},
    )  # fmt: skip


def template(values: Mapping[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    return helm(
        "template", "sidecar", str(CHART), "--namespace", NAMESPACE, "--values", "-", *more,
        stdin=json.dumps(values),
    )  # fmt: skip


def read(text: str) -> list[Manifest]:
    return [each for each in yaml.load_all(text, Loader=_Strict) if each]


def load(name: str) -> Any:
    """A file of cases beside this one."""
    return yaml.safe_load((_HERE / name).read_text())


MATRIX: dict[str, dict[str, Any]] = load("matrix.yaml")


@cache
def rendered(case: str) -> list[Manifest]:
    """The manifests of a case of matrix.yaml."""
    done = template(MATRIX[case])
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def find(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The only one of that kind, or of that kind and name."""
    [found] = [
        each
        for each in manifests
        if each["kind"] == kind and name in ("", each["metadata"]["name"])
    ]
    return found


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == kind]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name, metadata and spec of every pod, be it a pod or a template of one."""
    for each in manifests:
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], each["metadata"], each["spec"]
        elif "template" in each.get("spec", {}):
            inner = each["spec"]["template"]
            yield each["metadata"]["name"], inner["metadata"], inner["spec"]


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def container(manifests: list[Manifest], name: str) -> Manifest:
    [found] = [
        each for _, _, spec in pods(manifests) for each in containers(spec) if each["name"] == name
    ]
    return found


def flags(found: Manifest) -> dict[str, str]:
    """The arguments of a container by flag; a bare one has an empty value."""
    return {
        flag: value
        for flag, _, value in (
            argument.partition("=") for argument in found["args"] if argument.startswith("--")
        )
    }
