"""The shipped alerts in a real Prometheus, which scrapes a real sidecar and control plane: the fault is
caused, the alert fires, the fault is mended, the alert resolves."""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.world import free_ports
from tests.deploy import promql
from tests.e2e.processes import Running, Sidecar, get, program, until
from tests.e2e.test_control import ControlPlane, policies

# The rules' own times, in a copy of their files: what takes minutes takes seconds here.
WINDOW = re.compile(r"\[\d+m\]")
FOR = re.compile(r"^(\s+for:) \w+$", re.M)


def shortened(text: str) -> str:
    """The same rules, over seconds; whatever else they say stays."""
    return FOR.sub(r"\1 1s", WINDOW.sub("[4s]", text))


class Prometheus:
    """Scrapes twice a second, with the labels that the chart's monitors give."""

    def __init__(self, folder: Path, sidecar: Sidecar, control: ControlPlane) -> None:
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        root = folder / "prometheus"
        (root / "rules").mkdir(parents=True)
        for file in promql.RULES:
            (root / "rules" / file.name).write_text(shortened(file.read_text()))
        jobs = {
            "sidecar": (sidecar.health_port, {"namespace": "shop", "pod": "shop-1"}),
            "sidecar-control-plane": (
                control.http_port, {"namespace": "sidecar-system", "pod": "control-plane-0"},
            ),
        }  # fmt: skip
        config = {
            "global": {
                "scrape_interval": "500ms",
                "scrape_timeout": "500ms",
                "evaluation_interval": "500ms",
            },
            "rule_files": ["rules/*.yaml"],
            "scrape_configs": [
                {
                    "job_name": job,
                    "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": labels}],
                }
                for job, (port, labels) in jobs.items()
            ],
        }
        (root / "prometheus.yml").write_text(json.dumps(config))
        self.running = Running(
            [
                program("prometheus"), f"--config.file={root}/prometheus.yml",
                f"--storage.tsdb.path={root}/data", f"--web.listen-address=127.0.0.1:{port}",
            ],
            root, "prometheus",
        )  # fmt: skip
        until(lambda: get(f"{self.url}/-/ready")[0] == 200, f"Prometheus: {self.running.said}")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Labels and value of each series, now."""
        asked = urllib.parse.urlencode({"query": expression})
        status, _, body = get(f"{self.url}/api/v1/query?{asked}")
        assert status == 200, (expression, body)
        result: list[dict[str, Any]] = json.loads(body)["data"]["result"]
        return result

    def firing(self, name: str) -> dict[str, Any] | None:
        """The alert with its labels and annotations, or None."""
        _, _, body = get(f"{self.url}/api/v1/alerts")
        for alert in json.loads(body)["data"]["alerts"]:
            if alert["labels"]["alertname"] == name and alert["state"] == "firing":
                found: dict[str, Any] = alert
                return found
        return None


class Upstream:
    """A service that can go and come back."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder / "site"
        self.folder.mkdir()
        self.start()

    def start(self) -> None:
        arguments = ["-m", "http.server", str(self.port), "--bind", "127.0.0.1"]
        self.running = Running([sys.executable, *arguments], self.folder, "upstream")
        until(lambda: get(self.url)[0] == 200, f"upstream: {self.running.said}")


class Scene:
    """All of it, running after `start`; `stop` ends what has been started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = ControlPlane(folder)
        self._open = ExitStack()

    def start(self) -> None:
        folder = self.folder
        self.control.start()
        self._open.callback(lambda: self.control.running and self.control.running.stop())
        self.upstream = Upstream(folder)
        self._open.callback(lambda: self.upstream.running.stop())
        self.sidecar = Sidecar(
            folder, self.upstream.url, "--control-plane", self.control.server,
            "--state", str(folder / "state"),
        )  # fmt: skip
        self._open.callback(self.sidecar.stop)
        code, said = self.control.apply(policies(folder), "--wait")
        assert code == 0, said
        self.sidecar.ready()
        self.prometheus = Prometheus(folder, self.sidecar, self.control)
        self._open.callback(self.prometheus.running.stop)

    def stop(self) -> None:
        self._open.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    program("prometheus")
    found = Scene(tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def test_faults_fire_and_their_mending_resolves(scene: Scene) -> None:
    prometheus, sidecar, control = scene.prometheus, scene.sidecar, scene.control

    def ask() -> int:
        return get(f"{sidecar.url}/")[0]

    def asked(condition: Callable[[], Any]) -> Callable[[], Any]:
        """The condition, looked at while callers go on."""

        def look() -> Any:
            ask()
            return condition()

        return look

    until(lambda: [each["value"][1] for each in prometheus.query("up")] == ["1", "1"], "scraped")
    assert ask() == 200
    by_release = (
        'sum by (version) (rate(sidecar_decisions_total{outcome="permit"}[4s])'
        " * on (namespace, pod) group_left (version) sidecar_snapshot_info) > 0"
    )
    [found] = until(asked(lambda: prometheus.query(by_release)), "decisions by release")
    assert found["metric"]["version"].startswith("default@1")
    for expression in promql.queries():
        prometheus.query(expression)  # each is answered
    # Before the first scrape it was absent indeed.
    until(lambda: not prometheus.firing("SidecarControlPlaneDown"), "scraped for a while")
    for name in ("SidecarControlPlaneLost", "SidecarUpstreamFailing", "SidecarNoPolicy"):
        assert prometheus.firing(name) is None, name

    control.kill()
    alert = until(lambda: prometheus.firing("SidecarControlPlaneLost"), "control plane lost")
    assert alert["labels"] == {
        "alertname": "SidecarControlPlaneLost", "namespace": "shop", "severity": "warning",
    }  # fmt: skip
    assert alert["annotations"]["summary"] == "Sidecars in shop have lost the control plane"
    assert alert["annotations"]["description"].startswith("1 of them")
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#control-plane-lost"
    until(lambda: prometheus.firing("SidecarControlPlaneDown"), "control plane down")
    assert ask() == 200, "the last release stays in force"
    control.start()
    until(lambda: not prometheus.firing("SidecarControlPlaneLost"), "connected again")
    until(lambda: not prometheus.firing("SidecarControlPlaneDown"), "scraped again")

    scene.upstream.running.stop()
    until(lambda: ask() == 502, "the service is gone")
    assert prometheus.firing("SidecarControlPlaneLost") is None
    alert = until(asked(lambda: prometheus.firing("SidecarUpstreamFailing")), "upstream failing")
    assert alert["labels"]["pod"] == "shop-1"
    assert "callers see 502, 503 or 504" in alert["annotations"]["description"]
    scene.upstream.start()
    until(asked(lambda: not prometheus.firing("SidecarUpstreamFailing")), "the service is back")
    assert ask() == 200


def test_only_times_are_shortened() -> None:
    for file in promql.RULES:
        text = file.read_text()
        short = shortened(text)
        assert not WINDOW.search(short)
        assert short.count("[4s]") == len(WINDOW.findall(text)) > 0
        assert short.count(" for: 1s") == len(FOR.findall(text)) > 0
