"""Every metric that an alert or the dashboard reads is one that a real sidecar, a real control plane or
a real webhook has; with the labels that they go by."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.demo.world import free_ports
from tests.certificates import Authority
from tests.deploy import promql
from tests.e2e.processes import Running, Sidecar, get, nginx, until
from tests.e2e.test_control import ControlPlane, policies

# Of kube-state-metrics and of the API server, which nothing here has.
ELSEWHERE = {
    "kube_pod_container_status_restarts_total",
    "kube_pod_init_container_status_restarts_total",
    "apiserver_admission_webhook_rejection_count",
    "apiserver_admission_webhook_fail_open_count",
}
# Given by Prometheus: to each target, and by the scrape configuration of the chart's monitors.
GIVEN = {"up", "ALERTS"}
TARGET_LABELS = {"job", "namespace", "pod"}
# Labels of the above.
ELSEWHERE_LABELS = {"container", "name", "error_type"}
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", re.M)


class Scraped:
    """Names of series, with `_bucket`, `_sum`, `_count`, and of labels where there are samples."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.labels: set[str] = set()

    def read(self, page: str) -> None:
        for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", page, re.M):
            self.names.add(name)
            if kind == "histogram":
                self.names |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")}
        for name, labels in SAMPLE.findall(page):
            assert name in self.names, name
            self.labels |= set(re.findall(r"(\w+)=", labels))


class Webhook(Running):
    """`sidecar inject` without an API server: alive, and scraped."""

    def __init__(self, folder: Path, pair: tuple[Path, Path]) -> None:
        port, http = free_ports(2)
        self.url = f"http://127.0.0.1:{http}"
        missing = str(folder / "not-there-yet")
        super().__init__(
            [
                sys.executable, "-m", "sidecar", "inject", "--image", "sidecar",
                "--control-plane", "127.0.0.1:1", "--control-plane-ca", missing, "--trust", missing,
                "--secret", "sidecar-system/webhook", "--kubernetes", "http://127.0.0.1:1",
                "--listen", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http}",
                "--tls-cert", str(pair[0]), "--tls-key", str(pair[1]),
            ],
            folder, "webhook",
        )  # fmt: skip
        until(lambda: get(f"{self.url}/healthz")[0] == 200, f"webhook: {self.said}")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """With everything on: workers, TLS, a control plane, a published release."""
    folder = tmp_path_factory.mktemp("scraped")
    found = Scraped()
    control = ControlPlane(folder)
    authority = Authority("ca")
    cert, key = authority.issue().write(folder, "server")
    [fleet] = free_ports(1)
    control.start(
        "--fleet-listen", f"127.0.0.1:{fleet}", "--tls-cert", str(cert), "--tls-key", str(key),
        "--workload-tokens", "tokenreview", "--kubernetes", "http://127.0.0.1:1",
        "--registration-keys", str(folder / "not-there-yet"),
        "--events", str(folder / "events"),
    )  # fmt: skip
    context = authority.client_context()
    try:
        with nginx(folder) as upstream:
            sidecar = Sidecar(
                folder, upstream, "--control-plane", control.server, "--state", str(folder / "state"),
                "--workers", "2", "--tls-cert", str(cert), "--tls-key", str(key),
            )  # fmt: skip
            webhook = Webhook(folder, (cert, key))
            try:
                code, said = control.apply(policies(folder), "--wait")
                assert code == 0, said
                sidecar.ready()
                refused = Sidecar(  # it shows nothing
                    folder, upstream, "--control-plane", f"127.0.0.1:{fleet}",
                    "--control-plane-ca", authority.pem.decode(), name="refused",
                )  # fmt: skip
                until(lambda: "nothing shows whose" in refused.said, f"refused: {refused.said}")
                refused.stop()
                assert get(f"https://127.0.0.1:{sidecar.port}/", context=context)[0] == 200
                for _ in range(20):  # the workers take turns: each is told of one
                    get(f"https://127.0.0.1:{sidecar.port}/nowhere", context=context)
                for address in (
                    sidecar.health,
                    f"http://127.0.0.1:{control.http_port}",
                    webhook.url,
                ):
                    status, _, page = get(f"{address}/metrics")
                    assert status == 200
                    found.read(page.decode())
            finally:
                sidecar.stop()
                webhook.stop()
        yield found
    finally:
        assert control.running is not None
        control.running.stop()


def test_what_alerts_and_dashboard_read_is_there(scraped: Scraped) -> None:
    recorded = {rule["record"] for rule in promql.rules() if "record" in rule}
    known = scraped.names | recorded | ELSEWHERE | GIVEN
    for expression in [*(rule["expr"] for rule in promql.rules()), *promql.queries()]:
        read = promql.metrics(expression)
        assert read, expression
        assert read <= known, expression


def test_nothing_is_listed_as_of_elsewhere_that_nobody_reads() -> None:
    read = {name for rule in promql.rules() for name in promql.metrics(rule["expr"])}
    assert read >= ELSEWHERE


# Of samples that only what goes wrong makes.
RARE_LABELS = {"kind", "enricher", "shadow", "state"}


def test_labels_are_those_of_the_metrics(scraped: Scraped) -> None:
    known = scraped.labels | TARGET_LABELS | ELSEWHERE_LABELS | RARE_LABELS
    for expression in [*(rule["expr"] for rule in promql.rules()), *promql.queries()]:
        assert promql.labels(expression) <= known, expression
