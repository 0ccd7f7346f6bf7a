"""Which API server is asked, and who is shown what."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import ClusterUnreachable
from sidecar.facts import kubernetes
from sidecar.facts.kubernetes import Cluster


def nothing(name: str) -> str | None:
    return None


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a pod's service account."""
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    return tmp_path


def test_the_cluster_of_the_pod(account: Path) -> None:
    variables = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert Cluster.named("", variables.get) == Cluster(
        "https://[fd00::1]:443", account / "token", account / "ca.crt"
    )
    with pytest.raises(ClusterUnreachable, match="no pod of a cluster"):
        Cluster.named("", nothing)


def test_another_one_gets_the_token_by_tls_alone(account: Path) -> None:
    assert Cluster.named("https://10.0.0.1", nothing).token == account / "token"
    assert Cluster.named("http://10.0.0.1", nothing) == Cluster("http://10.0.0.1", None, None)
