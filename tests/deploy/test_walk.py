"""What holds for every pod, reference, rule and argument that the chart makes, whatever the values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from sidecar import config
from tests.deploy.chart import (
    MATRIX,
    NAMESPACE,
    Manifest,
    container,
    containers,
    find,
    flags,
    of_kind,
    pods,
    rendered,
)

EVERY = pytest.mark.parametrize("case", MATRIX)


@EVERY
def test_pods_are_restricted(case: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, `restricted`."""
    volumes = {
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
        "projected", "secret",
    }  # fmt: skip
    walked = list(pods(rendered(case)))
    assert len(walked) >= 2
    for name, _, spec in walked:
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(key), name
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not security.get("sysctls")
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= volumes, name
        for each in containers(spec):
            inner = each["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False, each["name"]
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert inner["readOnlyRootFilesystem"] is True
            assert inner["runAsNonRoot"] is True
            assert not inner.get("privileged")
            assert inner.get("runAsUser", 65532) != 0
            assert "hostPort" not in str(each.get("ports"))


@EVERY
def test_pods_are_bounded_probed_and_spread(case: str) -> None:
    for name, _, spec in pods(rendered(case)):
        for each in containers(spec):
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), each["name"]
            assert "memory" in each["resources"]["limits"]
        if name.endswith("-test"):
            assert spec["activeDeadlineSeconds"] <= 300
            continue
        assert spec["terminationGracePeriodSeconds"] >= 10
        assert {each["topologyKey"] for each in spec["topologySpreadConstraints"]} == {
            "kubernetes.io/hostname", "topology.kubernetes.io/zone",
        }  # fmt: skip
        serving = [each for each in containers(spec) if each["name"] != "documents"]
        for each in serving:
            ports = {port["name"] for port in each["ports"]}
            for probe, path in (
                ("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz"),
            ):  # fmt: skip
                assert each[probe]["httpGet"]["path"] == path
                assert each[probe]["httpGet"]["port"] in ports


@EVERY
def test_selectors_find_pods_and_nothing_else(case: str) -> None:
    manifests = rendered(case)
    labelled = {name: meta["labels"] for name, meta, _ in pods(manifests)}

    def found(selector: dict[str, str]) -> list[str]:
        return [name for name, labels in labelled.items() if selector.items() <= labels.items()]

    for each in manifests:
        kind, name, spec = each["kind"], each["metadata"]["name"], each.get("spec", {})
        if kind in ("Deployment", "StatefulSet"):
            assert found(spec["selector"]["matchLabels"]) == [name]
            for spread in spec["template"]["spec"]["topologySpreadConstraints"]:
                assert found(spread["labelSelector"]["matchLabels"]) == [name]
        elif kind == "Service":
            assert found(spec["selector"]) == [name]
            [inner] = [inner for other, _, inner in pods(manifests) if other == name]
            ports = {port["name"] for each in containers(inner) for port in each.get("ports", [])}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif kind == "PodDisruptionBudget":
            assert found(spec["selector"]["matchLabels"]) == [name]
            replicas = next(
                other["spec"]["replicas"]
                for other in manifests
                if other["kind"] in ("Deployment", "StatefulSet")
                and other["metadata"]["name"] == name
            )
            assert replicas > 1, "a budget of one would hold up every drain"
        elif kind == "ServiceMonitor":
            services = [
                other["metadata"]["name"]
                for other in of_kind(manifests, "Service")
                if spec["selector"]["matchLabels"].items() <= other["metadata"]["labels"].items()
            ]
            assert len(services) == 1
            ports = {
                port["name"] for port in find(manifests, "Service", services[0])["spec"]["ports"]
            }
            assert {end["port"] for end in spec["endpoints"]} <= ports


@EVERY
def test_what_pods_refer_to_is_there(case: str) -> None:
    manifests = rendered(case)
    values = MATRIX[case].get("controlPlane", {})
    by_others = {
        values.get("tls", {}).get("existingSecret"),
        values.get("store", {}).get("postgresql", {}).get("existingSecret"),
    }
    secrets = {each["metadata"]["name"] for each in of_kind(manifests, "Secret")} | by_others
    secrets |= {each["spec"]["secretName"] for each in of_kind(manifests, "Certificate")}
    maps = {each["metadata"]["name"] for each in of_kind(manifests, "ConfigMap")}
    accounts = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceAccount")}
    for name, _, spec in pods(manifests):
        assert spec.get("serviceAccountName", "default") in accounts | {"default"}
        claims = {"store"} if find_stateful(manifests, name) else set()
        volumes = {each["name"]: each for each in spec.get("volumes", [])}
        mounted = {mount["name"] for each in containers(spec) for mount in each["volumeMounts"]}
        assert mounted == volumes.keys() | claims, name
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets, name
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
        for each in containers(spec):
            for env in each.get("env", []):
                if "valueFrom" in env:
                    assert env["valueFrom"]["secretKeyRef"]["name"] in by_others
            paths = [mount["mountPath"] for mount in each["volumeMounts"]]
            for flag, value in (flags(each) if "args" in each else {}).items():
                if value.startswith("/"):
                    assert any(value.startswith(f"{path}/") for path in paths), (flag, value)


def find_stateful(manifests: list[Manifest], name: str) -> bool:
    return any(each["metadata"]["name"] == name for each in of_kind(manifests, "StatefulSet"))


@EVERY
def test_the_api_token_is_only_where_the_api_is_spoken_to(case: str) -> None:
    for each in of_kind(rendered(case), "ServiceAccount"):
        assert each["automountServiceAccountToken"] is False
    for name, _, spec in pods(rendered(case)):
        assert spec["automountServiceAccountToken"] is not name.endswith("-test")


# What a rule is for: the flag, and its value if it matters, without which nobody needs the rule.
NEEDED_BY: dict[str, tuple[str, str]] = {
    "tokenreviews": ("--workload-tokens", "tokenreview"),
    "namespaces": ("--mode", ""),  # a pod may ask for redirect whatever the default is
    "mutatingwebhookconfigurations": ("--webhook-configuration", ""),
    "secrets": ("--secret", ""),
    "configmaps": ("--publish-keys", ""),
}


@EVERY
def test_every_permission_is_used_and_bound_to_its_object(case: str) -> None:
    manifests = rendered(case)
    checked = 0
    for role in of_kind(manifests, "Role") + of_kind(manifests, "ClusterRole"):
        name = role["metadata"]["name"]
        binding = find(manifests, f"{role['kind']}Binding", name)
        assert binding["roleRef"]["name"] == name
        assert binding["roleRef"]["kind"] == role["kind"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
        ]
        program = name.rpartition("control-plane")[1] or "webhook"
        given = flags(container(manifests, program))
        for rule in role["rules"]:
            assert "*" not in str(rule)
            [resource] = rule["resources"]
            flag, value = NEEDED_BY[resource]
            assert flag in given, f"{name}: {resource} is of no use"
            assert not value or given[flag] == value
            if resource in ("tokenreviews", "namespaces"):
                assert rule["verbs"] == [{"tokenreviews": "create", "namespaces": "get"}[resource]]
                continue
            assert rule["verbs"] == (["patch"] if resource == "configmaps" else ["get", "patch"])
            target = given[flag].rpartition("/")[2]
            assert rule["resourceNames"] == [target]
            kinds = {
                "secrets": "Secret", "configmaps": "ConfigMap",
                "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
            }  # fmt: skip
            made = find(manifests, kinds[resource], target)
            assert "data" not in made, "an upgrade would take it back"
            for webhook in made.get("webhooks", []):
                [(kind, service)] = webhook["clientConfig"].items()
                assert kind == "service", "an upgrade would take the CA back"
                assert service.keys() == {"name", "namespace", "port"}, "or the path"
            checked += 1
    assert checked >= 1


@EVERY
def test_each_program_is_given_what_the_other_publishes(case: str) -> None:
    manifests = rendered(case)
    control = flags(container(manifests, "control-plane"))
    if not of_kind(manifests, "MutatingWebhookConfiguration"):
        assert "--registration-keys" not in control
        assert "--insecure-self-asserted-labels" in control
        return
    webhook = flags(container(manifests, "webhook"))

    def source(program: str, path: str) -> str:
        [spec] = [
            spec for _, _, spec in pods(manifests) if spec["containers"][0]["name"] == program
        ]
        [mount] = [
            mount["name"]
            for mount in spec["containers"][0]["volumeMounts"]
            if path.startswith(f"{mount['mountPath']}/")
        ]
        [volume] = [each for each in spec["volumes"] if each["name"] == mount]
        return str(volume["configMap"]["name"])

    assert control["--publish-keys"] == f"{NAMESPACE}/{source('webhook', webhook['--trust'])}"
    assert webhook["--publish-keys"] == (
        f"{NAMESPACE}/{source('control-plane', control['--registration-keys'])}"
    )
    assert webhook["--trust"].endswith("/release.pem")
    assert control["--registration-keys"].endswith("/registration.pem")
    host, _, port = webhook["--control-plane"].partition(":")
    service = find(manifests, "Service", host.partition(".")[0])
    assert int(port) in {each["port"] for each in service["spec"]["ports"]}
    assert host == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert control["--fleet-listen"].endswith(f":{port}")


@EVERY
def test_publishers_are_admitted_on_loopback_or_with_tokens(case: str) -> None:
    control = container(rendered(case), "control-plane")
    if MATRIX[case].get("controlPlane", {}).get("publishers", {}).get("file"):
        given = flags(control)
        assert given["--listen"].endswith(":7443")
        assert given["--publishers"] == "/etc/sidecar/publishers/publishers.yaml"
        assert given["--tls-cert"]
        assert "--insecure-unauthenticated" not in given
        return
    assert flags(control)["--listen"] == "127.0.0.1:7443"
    assert 7443 not in {port["containerPort"] for port in control["ports"]}
    assert 7443 not in {
        port["port"]
        for each in of_kind(rendered(case), "Service")
        for port in each["spec"]["ports"]
    }


@EVERY
def test_network_policies_admit_what_is_meant(case: str) -> None:
    manifests = rendered(case)
    given: dict[str, Any] = MATRIX[case].get("networkPolicy", {})
    policies = of_kind(manifests, "NetworkPolicy")
    injected = {
        each["metadata"]["namespace"]: each["spec"]
        for each in policies
        if each["metadata"]["name"].endswith("-injected")
    }
    assert sorted(injected) == sorted(given.get("injectedNamespaces", []))
    for spec in injected.values():
        assert spec["podSelector"]["matchLabels"] == {"authz.sidecar/injected": "true"}
        [rule] = spec["ingress"]
        assert [port["port"] for port in rule["ports"]] == [7400, 7401]
    own = [each for each in policies if not each["metadata"]["name"].endswith("-injected")]
    components = {
        name: meta["labels"] for name, meta, _ in pods(manifests) if not name.endswith("-test")
    }
    if given.get("enabled") is False:
        assert not own
        return
    assert {each["metadata"]["name"] for each in own} == components.keys()
    for each in own:
        selector = each["spec"]["podSelector"]["matchLabels"]
        assert selector.items() <= components[each["metadata"]["name"]].items()
        rules = each["spec"]["ingress"]
        if given.get("publishersNamespace") and each["metadata"]["name"].endswith("control-plane"):
            publishers = rules.pop(1)
            assert [port["port"] for port in publishers["ports"]] == ["publishers"]
            assert given["publishersNamespace"] in str(publishers["from"])
        traffic, metrics, *events = rules
        if given.get("eventsNamespace") and each["metadata"]["name"].endswith("control-plane"):
            [event] = events
            assert given["eventsNamespace"] in str(event["from"])
            assert [port["port"] for port in event["ports"]] == ["http"]
        else:
            assert not events
        assert [port["port"] for port in metrics["ports"]] == ["http"]
        spaces = [
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            for peer in metrics["from"]
            if "namespaceSelector" in peer
        ]
        wanted = given.get("metricsNamespace")
        assert spaces == ([wanted] if wanted else [])
        if each["metadata"]["name"].endswith("-webhook"):
            blocks = [{"ipBlock": {"cidr": cidr}} for cidr in given.get("apiServerCidrs", [])]
            assert traffic.get("from") == (blocks or None)
            assert [port["port"] for port in traffic["ports"]] == ["https"]
        else:
            assert traffic["from"] == [{"namespaceSelector": {}}]
            assert [port["port"] for port in traffic["ports"]] == ["fleet"]


SETTINGS: dict[str, tuple[Any, Any]] = {
    "control-plane": (config.CONTROL_PLANE, config.control_plane_settings),
    "inject": (config.INJECT, config.inject_settings),
}


@EVERY
def test_the_programs_take_their_arguments(case: str, tmp_path: Path) -> None:
    """Read as they read them, with files where the pod has volumes."""
    for _, _, spec in pods(rendered(case)):
        for each in containers(spec):
            if "args" not in each:
                continue
            command, *rest = each["args"]
            settings, read = SETTINGS[command]
            here = []
            for argument in rest:
                flag, equals, value = argument.partition("=")
                if value.startswith("/"):
                    (tmp_path / value[1:]).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / value[1:]).touch()
                    value = str(tmp_path / value[1:])
                here.append(f"{flag}{equals}{value}")
            parser = argparse.ArgumentParser()
            config.add_flags(parser, settings)
            assert read(parser.parse_args(here), {}).http.host in ("0.0.0.0", "::")


def test_settings_of_sidecars_are_settings_of_sidecars() -> None:
    given = MATRIX["redirect"]["webhook"]["sidecarSettings"]
    known = {setting.key for setting in config.RUN}
    assert given.keys() <= known
    arguments = container(rendered("redirect"), "webhook")["args"]
    for name, value in given.items():
        assert f"--sidecar-setting={name}={value}" in arguments


def test_resources_of_sidecars_come_to_the_webhook() -> None:
    found = container(rendered("redirect"), "webhook")["args"]
    assert [each for each in found if each.startswith("--sidecar-resource")] == [
        "--sidecar-resource=cpu-request=100m",
        "--sidecar-resource=memory-limit=",
    ]
