"""What the webhook makes of pods is what the newest versions of Kubernetes take, strictly."""

from __future__ import annotations

import pytest
import yaml

from tests.deploy.schemas import mistakes, newest
from tests.inject.golden import CASES, file


@pytest.mark.parametrize("version", newest(3))
def test_mutated_pods_are_valid(version: str) -> None:
    checked = 0
    for name in CASES:
        found = yaml.safe_load(file(name).read_text()).get("pod")
        if found is None:
            continue
        pod = {"apiVersion": "v1", "kind": "Pod", **found}
        assert mistakes(pod, version) == [], name
        checked += 1
    assert checked > 15
