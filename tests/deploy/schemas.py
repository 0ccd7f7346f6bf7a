"""Kubernetes' own schemas, strict, of the newest versions that kubernetes-validate carries.

Its `validate` reads half a megabyte of definitions for each manifest; here they are read once.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate import utils
from referencing import Registry, Resource

from tests.deploy.chart import Manifest

VERSIONS: tuple[str, ...] = tuple(utils.all_versions()[::-1])


def newest(count: int) -> list[str]:
    """As in `1.37.0-local-strict`: the strict folders, newest first."""
    return list(dict.fromkeys(name.partition("-")[0] for name in VERSIONS))[:count]


@cache
def _contents(version: str, name: str) -> Any:
    return utils.schema_contents(f"kubernetes-json-schema/v{version}-local-strict/{name}", version)


@cache
def _validator(version: str, api_version: str, kind: str) -> Any:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = _contents(version, f"{kind.lower()}-{group}.json")
    definitions = Resource.from_contents(_contents(version, "_definitions.json"))
    return Draft202012Validator(schema, registry=definitions @ Registry())


def mistakes(manifest: Manifest, version: str) -> list[str]:
    """What is wrong with it there; raises FileNotFoundError for a kind that the version has not."""
    validator = _validator(version, manifest["apiVersion"], manifest["kind"])
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(manifest)
    ]
