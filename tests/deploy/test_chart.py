"""The chart over a matrix of values: it lints, renders, and is what Kubernetes takes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import sidecar
from sidecar.control import transmitters
from sidecar.decide.parse import Source, parse
from tests.conftest import ROOT
from tests.deploy import schemas
from tests.deploy.chart import (
    CHART,
    MATRIX,
    NAMESPACE,
    Manifest,
    container,
    find,
    flags,
    helm,
    load,
    of_kind,
    rendered,
    template,
)

REFUSED = load("refused.yaml")
# What the schemas of Kubernetes do not know, and the fields that each must have and may have.
CUSTOM: dict[str, tuple[str, set[str], set[str]]] = {
    "PodMonitor": ("monitoring.coreos.com/v1", {"selector", "podMetricsEndpoints"}, {"namespaceSelector"}),
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}, {"namespaceSelector"}),
    "PrometheusRule": ("monitoring.coreos.com/v1", {"groups"}, set()),
    "Issuer": ("cert-manager.io/v1", set(), {"selfSigned", "ca"}),
    "Certificate": (
        "cert-manager.io/v1", {"secretName", "issuerRef"},
        {"isCA", "commonName", "dnsNames", "duration", "renewBefore", "usages", "privateKey"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MATRIX)
def test_it_lints(case: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(MATRIX[case]))
    done = helm("lint", "--strict", str(CHART), "--namespace", NAMESPACE, "--values", str(values))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


def test_a_mistake_does_not_lint(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("webhook: {mode: iptables}")
    assert helm("lint", "--strict", str(CHART), "--values", str(values)).returncode == 1


@pytest.mark.parametrize("case", MATRIX)
def test_kubernetes_takes_it(case: str) -> None:
    for manifest in rendered(case):
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] in CUSTOM:
            version, must, may = CUSTOM[manifest["kind"]]
            assert manifest["apiVersion"] == version
            assert must <= manifest["spec"].keys() <= must | may, name
            continue
        for version in schemas.newest(3):
            assert not schemas.mistakes(manifest, version), f"{name} in {version}"


def test_the_schemas_are_strict_and_the_newest() -> None:
    broken = copy.deepcopy(find(rendered("defaults"), "StatefulSet"))
    broken["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    broken["spec"]["replicas"] = "one"
    for version in schemas.newest(3):
        said = " ".join(schemas.mistakes(broken, version))
        assert "'livenesProbe' was unexpected" in said
        assert "spec.replicas: 'one' is not of type" in said
    assert len(schemas.newest(3)) == 3


@pytest.mark.parametrize("case", MATRIX)
def test_nothing_is_made_twice_or_without_its_namespace(case: str) -> None:
    everywhere = {"ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"}
    seen = set()
    for each in rendered(case):
        meta = each["metadata"]
        assert (each["kind"] in everywhere) == ("namespace" not in meta), meta["name"]
        key = (each["kind"], meta.get("namespace"), meta["name"])
        assert key not in seen
        seen.add(key)
        assert meta["labels"]["app.kubernetes.io/instance"] == "sidecar"


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["says"])
def test_what_cannot_work_does_not_render_and_says_why(case: dict[str, Any]) -> None:
    done = template(case["values"])
    assert done.returncode == 1
    assert case["says"] in done.stderr


def test_the_schema_knows_each_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    def compare(values: dict[str, Any], node: dict[str, Any], path: str) -> None:
        if not isinstance(node.get("properties"), dict):
            return  # a map with names of the user's
        assert node["additionalProperties"] is False, path
        if path.endswith(("resources", "requests", "limits")):
            return
        assert values.keys() == node["properties"].keys() - {"global"}, path
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, resolve(node["properties"][name]), f"{path}.{name}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


def test_each_value_is_explained_and_used() -> None:
    text = (CHART / "values.yaml").read_text()
    used = "".join(each.read_text() for each in CHART.rglob("templates/**/*") if each.is_file())

    def leaves(values: dict[str, Any]) -> list[str]:
        return [
            leaf
            for name, value in values.items()
            for leaf in ([name, *leaves(value)] if isinstance(value, dict) else [name])
        ]

    beyond = {"grafana_dashboard", "kind", "group", "requests", "limits", "cpu", "memory"}
    for name in set(leaves(yaml.safe_load(text))) - beyond:
        assert f".{name}" in used or f'"{name}"' in used, name
    assert text.count("#") > 40


def test_chart_and_program_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == sidecar.__version__
    assert chart["version"] == sidecar.__version__
    assert f"sidecar:{sidecar.__version__} " in (ROOT / "docs" / "kubernetes.md").read_text()


def test_one_control_plane_keeps_its_store_and_several_share_a_database() -> None:
    alone = find(rendered("defaults"), "StatefulSet")
    assert alone["spec"]["replicas"] == 1
    [claim] = alone["spec"]["volumeClaimTemplates"]
    [mount] = [
        each
        for each in container(rendered("defaults"), "control-plane")["volumeMounts"]
        if each["name"] == claim["metadata"]["name"]
    ]
    store = flags(container(rendered("defaults"), "control-plane"))["--store"]
    assert store.startswith(f"sqlite:///{mount['mountPath']}/")

    shared = rendered("postgresql")
    assert not of_kind(shared, "StatefulSet")
    assert find(shared, "Deployment", "sidecar-control-plane")["spec"]["replicas"] == 3
    control = container(shared, "control-plane")
    assert "--store" not in flags(control)
    [env] = control["env"]
    assert env["name"] == "SIDECAR_STORE"
    assert env["valueFrom"]["secretKeyRef"] == {"name": "sidecar-database", "key": "dsn"}


def test_injection_fails_closed_unless_a_setting_named_insecure_says_otherwise() -> None:
    def policy(case: str) -> str:
        [webhook] = find(rendered(case), "MutatingWebhookConfiguration")["webhooks"]
        return str(webhook["failurePolicy"])

    for case in MATRIX:
        if case == "insecure":
            assert policy(case) == "Ignore"
            assert "--insecure-allow-uninjected" in flags(container(rendered(case), "webhook"))
        elif of_kind(rendered(case), "MutatingWebhookConfiguration"):
            assert policy(case) == "Fail"
            assert "--insecure-allow-uninjected" not in flags(container(rendered(case), "webhook"))


def test_namespaces_opt_in_and_no_pod_opts_out_by_label() -> None:
    [webhook] = find(rendered("insecure"), "MutatingWebhookConfiguration")["webhooks"]
    selector = webhook["namespaceSelector"]
    assert selector["matchLabels"] == {"authz.sidecar/inject": "enabled"}
    [kept_out] = selector["matchExpressions"]
    assert kept_out["operator"] == "NotIn"
    assert kept_out["values"] == ["kube-system", NAMESPACE, "kube-node-lease"]
    assert "objectSelector" not in webhook
    assert webhook["rules"] == [
        {
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
            "operations": ["CREATE"], "scope": "Namespaced",
        }
    ]  # fmt: skip
    assert webhook["sideEffects"] == "None"
    assert webhook["reinvocationPolicy"] == "IfNeeded"


def test_one_ca_is_announced_by_the_webhook_or_by_cert_manager() -> None:
    own = find(rendered("defaults"), "MutatingWebhookConfiguration")
    assert "annotations" not in own["metadata"]
    managed = find(rendered("cert-manager"), "MutatingWebhookConfiguration")
    source = managed["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    certificate = find(rendered("cert-manager"), "Certificate", source.partition("/")[2])
    service = managed["webhooks"][0]["clientConfig"]["service"]
    assert f"{service['name']}.{service['namespace']}.svc" in certificate["spec"]["dnsNames"]
    for case in ("defaults", "cert-manager"):
        [webhook] = find(rendered(case), "MutatingWebhookConfiguration")["webhooks"]
        assert "caBundle" not in webhook["clientConfig"], "an upgrade would take it away"
        assert "path" not in webhook["clientConfig"]["service"], "so it would"
        given = flags(container(rendered(case), "webhook"))
        assert given["--webhook-configuration"] == own["metadata"]["name"]


def test_an_issuer_of_the_cluster_signs_all_certificates() -> None:
    manifests = rendered("cert-manager, an issuer of the cluster")
    assert not of_kind(manifests, "Issuer")
    issuers = [each["spec"]["issuerRef"] for each in of_kind(manifests, "Certificate")]
    assert (
        issuers == [{"name": "internal", "kind": "ClusterIssuer", "group": "cert-manager.io"}] * 2
    )


def test_documents_arrive_as_they_were_written() -> None:
    given = MATRIX["documents"]["controlPlane"]["documents"]
    made = find(rendered("documents"), "ConfigMap", "sidecar-control-plane-documents")["data"]
    assert made == given
    for name, text in made.items():
        found, problems = parse([Source(name, text)])
        assert found
        assert not [each for each in problems if not each.warning]


def test_alerts_can_be_left_out_and_are_where_they_can_never_resolve() -> None:
    def alerts(case: str) -> set[str]:
        groups = find(rendered(case), "PrometheusRule")["spec"]["groups"]
        return {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}

    every = alerts("everything")
    assert len(every) >= 10
    assert every - alerts("monitored") == {"SidecarInsecure"}
    assert every - alerts("monitored, no webhook") == {
        "SidecarWebhookDown", "SidecarWebhookFailing", "SidecarPodsUninjected",
    }  # fmt: skip
    groups = find(rendered("monitored"), "PrometheusRule")["spec"]["groups"]
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        assert rule["annotations"]["runbook_url"].startswith(
            "https://git.example/sidecar/docs/runbook.md#"
        )
        assert (
            "$value" in json.dumps(rule)
            or "$labels" in json.dumps(rule)
            or "absent" in rule["expr"]
        )


def test_the_dashboard_is_the_file_and_rules_are_the_files() -> None:
    board = find(rendered("monitored"), "ConfigMap", "sidecar-dashboard")
    assert board["data"]["sidecar.json"] == (CHART / "dashboards" / "sidecar.json").read_text()
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    groups = find(rendered("everything"), "PrometheusRule")["spec"]["groups"]
    files = [
        group
        for file in sorted((CHART / "rules").iterdir())
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    assert groups == files


def test_who_may_push_events_is_a_file_that_is_read_anew_by_a_restart(tmp_path: Path) -> None:
    manifests = rendered("security events")
    path = flags(container(manifests, "control-plane"))["--ssf-transmitters"]
    made = find(manifests, "ConfigMap", "sidecar-control-plane-ssf")["data"]
    assert made == {
        path.rpartition("/")[2]: MATRIX["security events"]["controlPlane"]["ssfTransmitters"]
    }
    pod = find(manifests, "StatefulSet")["spec"]["template"]["metadata"]
    assert "checksum/ssf" in pod["annotations"]
    file = tmp_path / "transmitters.yaml"
    file.write_text(made["transmitters.yaml"])
    assert list(transmitters.load(file)) == ["https://idp.example"]
    assert (
        "annotations"
        not in find(rendered("defaults"), "StatefulSet")["spec"]["template"]["metadata"]
    )


def test_what_sidecars_hold_on_to_outlives_an_uninstall() -> None:
    for case, kept in (
        ("defaults", {"sidecar-control-plane-ca", "sidecar-webhook"}),
        ("cert-manager", {"sidecar-webhook"}),
    ):
        policy = "helm.sh/resource-policy"
        assert kept == {
            each["metadata"]["name"]
            for each in rendered(case)
            if each["metadata"].get("annotations", {}).get(policy) == "keep"
        }


def test_what_is_monitored_has_the_jobs_that_the_alerts_name() -> None:
    manifests = rendered("monitored")
    jobs = set()
    for each in of_kind(manifests, "PodMonitor") + of_kind(manifests, "ServiceMonitor"):
        ends: list[Manifest] = each["spec"].get("podMetricsEndpoints") or each["spec"]["endpoints"]
        for end in ends:
            [relabelling] = end["relabelings"]
            assert relabelling["targetLabel"] == "job"
            jobs.add(relabelling["replacement"])
    assert jobs == {"sidecar", "sidecar-control-plane", "sidecar-webhook"}
    rules = "".join(each.read_text() for each in (CHART / "rules").iterdir())
    for job in jobs:
        assert f'job="{job}"' in rules


NOTES = {
    "defaults": [
        "statefulset/sidecar-control-plane",
        "sidecar init",
        "Close those ports",
        "back it up",
    ],
    "postgresql": ["deployment/sidecar-control-plane"],
    "documents": ["-c documents"],
    "redirect": ["refused it", "authz.sidecar/mode=port"],
    "insecure": ["WARNING: webhook.insecureAllowUninjected"],
    "no webhook": ["nothing is injected"],
    "closed namespaces": ["shop, bank"],
    "without policies and budgets": ["WARNING: networkPolicy.enabled"],
    "monitored": ["helm test sidecar"],
}
NOT_IN_NOTES = {
    "postgresql": ["back it up", "statefulset"],
    "monitored": ["Not looked at"],
    "no webhook": ["kubectl label namespace"],
    "closed namespaces": ["Close those ports"],
    "defaults": ["WARNING", "-c documents"],
}


@pytest.mark.parametrize("case", NOTES)
def test_the_notes_tell_what_to_do_next(case: str) -> None:
    values = json.dumps(MATRIX[case])
    done = helm(
        "install", "sidecar", str(CHART), "--namespace", NAMESPACE, "--dry-run=client",
        "--values", "-", stdin=values,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, _, notes = done.stdout.partition("NOTES:")
    for text in NOTES[case]:
        assert text in notes
    for text in NOT_IN_NOTES.get(case, []):
        assert text not in notes
