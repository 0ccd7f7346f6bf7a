"""examples/kubernetes is what kubectl takes, and its documents are about its pods."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.inject.pod import inject
from sidecar.inject.terms import Terms
from tests.conftest import ROOT
from tests.deploy import schemas
from tests.deploy.chart import Manifest, containers, find, read, rendered, tool
from tests.e2e.processes import sidecar

EXAMPLE = ROOT / "examples" / "kubernetes"


def kubectl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Without a cluster."""
    return subprocess.run(
        [tool("kubectl"), *arguments], input=stdin, capture_output=True, text=True, timeout=60,
        env={**os.environ, "KUBECONFIG": os.devnull},
    )  # fmt: skip


@cache
def built() -> list[Manifest]:
    done = kubectl("kustomize", str(EXAMPLE))
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def test_kubernetes_takes_it() -> None:
    assert {each["kind"] for each in built()} >= {"Namespace", "Deployment", "Service", "Ingress"}
    for each in built():
        for version in schemas.newest(3):
            assert not schemas.mistakes(each, version), each["metadata"]["name"]


def injected() -> Manifest:
    """A pod of the example's as the webhook makes it."""
    terms = Terms(
        image="sidecar",
        control_plane="control:7444",
        ca="CA",
        trust="TRUST",
        mode="port",
        native=True,
    )
    pod = {"apiVersion": "v1", "kind": "Pod", **find(built(), "Deployment")["spec"]["template"]}
    pod["metadata"] = {**pod["metadata"], "generateName": "shop-"}
    labels = find(built(), "Namespace")["metadata"]["labels"]
    found = inject(pod, "shop", labels, terms, Ed25519PrivateKey.generate())
    assert found.result == "injected"
    made: Manifest = json.loads(json.dumps(found.pod))
    return made


def test_the_service_leads_to_the_sidecar_alone() -> None:
    service = find(built(), "Service")
    pod = injected()
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    [port] = service["spec"]["ports"]
    named = [
        (each["name"], each_port["containerPort"])
        for each in containers(pod["spec"])
        for each_port in each.get("ports", [])
        if each_port.get("name") == port["targetPort"]
    ]
    assert named == [("shop", 7400)]  # its port, where the sidecar listens
    [rule] = find(built(), "Ingress")["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    assert path["backend"]["service"]["port"]["name"] == port["name"]


def test_monitor_and_policy_of_the_chart_are_about_injected_pods() -> None:
    pod = injected()
    monitor = find(rendered("monitored"), "PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {
        port["name"]: port["containerPort"]
        for each in containers(pod["spec"])
        for port in each.get("ports", [])
        if "name" in port
    }
    assert ports[monitor["podMetricsEndpoints"][0]["port"]] == 7401
    policy = find(rendered("everything"), "NetworkPolicy", "sidecar-authz-injected")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [rule] = policy["ingress"]
    assert {port["port"] for port in rule["ports"]} == set(ports.values())


def test_the_namespace_opts_in_as_the_webhook_asks() -> None:
    [webhook] = find(rendered("defaults"), "MutatingWebhookConfiguration")["webhooks"]
    labels = find(built(), "Namespace")["metadata"]["labels"]
    assert webhook["namespaceSelector"]["matchLabels"].items() <= labels.items()


def test_documents_are_sound_and_select_the_pods() -> None:
    done = sidecar("check", "--strict", str(EXAMPLE / "documents"))
    assert done.returncode == 0, done.stdout + done.stderr
    env = next(each["env"] for each in containers(injected()["spec"]) if each["name"] == "sidecar")
    told = dict(
        pair.split("=")
        for each in env
        if each["name"] == "SIDECAR_LABEL"
        for pair in each["value"].split(",")
    )
    assert told == {"app": "shop", "tier": "front"}
    documents: list[dict[str, Any]] = list(
        yaml.safe_load_all((EXAMPLE / "documents" / "shop.yaml").read_text())
    )
    for document in documents:
        assert document["metadata"]["namespace"] == find(built(), "Namespace")["metadata"]["name"]
        selector = document["spec"].get("selector", {})
        assert selector.items() <= told.items()


def seen(text: str) -> subprocess.CompletedProcess[str]:
    """Read by kubectl's own types, which `set image` decodes into."""
    return kubectl("set", "image", "--local", "-f", "-", "*=seen:1", "-o", "json", stdin=text)


@pytest.mark.parametrize("case", ["defaults", "postgresql", "documents", "ipv6, pinned, placed"])
def test_kubectl_reads_the_workloads(case: str) -> None:
    found = [each for each in rendered(case) if each["kind"] in ("Deployment", "StatefulSet")]
    assert len(found) == 2
    for each in found:
        done = seen(yaml.safe_dump(each))
        assert done.returncode == 0, done.stderr
        kept = yaml.safe_load(done.stdout)["spec"]["template"]["spec"]
        images = {container["image"] for container in kept["containers"]}
        assert images == {"seen:1"}
        # Nothing was dropped on the way, as names that its types do not know would be.
        assert kept["securityContext"] == each["spec"]["template"]["spec"]["securityContext"]
        for before, after in zip(
            each["spec"]["template"]["spec"]["containers"], kept["containers"], strict=True
        ):
            assert before.keys() - {"image"} <= after.keys()
        wrong = yaml.safe_dump({**each, "spec": {**each["spec"], "replicas": "two"}})
        assert "cannot unmarshal string" in seen(wrong).stderr
