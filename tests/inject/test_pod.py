"""Pods of every shape, as golden files; and what must be true of all of them."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config_probes import to_probes
from sidecar.facts.registration import verify
from sidecar.inject.evictable import SAFE
from sidecar.inject.original import seal
from sidecar.inject.patch import difference
from sidecar.inject.pod import inject
from sidecar.inject.terms import ORIGINAL, Refused, Resources
from tests.inject.common import KEY, PLAIN, PUBLIC, TERMS, container, environment, injected, pod
from tests.inject.golden import CASES, came_to, file, text


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_it(name: str) -> None:
    assert text(name) == file(name).read_text(), "python -m tests.inject.golden, and read the diff"


def test_no_golden_file_is_left_over() -> None:
    assert {found.stem for found in file("x").parent.glob("*.yaml")} == set(CASES)


WITH_SIDECAR = [name for name in CASES if "pod" in came_to(name)]


@pytest.mark.parametrize("name", WITH_SIDECAR)
def test_a_second_time_comes_to_the_same(name: str) -> None:
    case = CASES[name]
    before = copy.deepcopy(case["pod"])
    terms = case.get("terms", {})
    once = injected(case["pod"], labels=case.get("namespaceLabels"), **terms)
    again = injected(dict(once.pod), labels=case.get("namespaceLabels"), **terms)
    assert again.pod == once.pod
    assert difference(once.pod, again.pod) == []
    assert case["pod"] == before, "the pod that came in is left alone"


@pytest.mark.parametrize("name", WITH_SIDECAR)
def test_the_patch_makes_that_pod(name: str) -> None:
    case = CASES[name]
    found = injected(case["pod"], labels=case.get("namespaceLabels"), **case.get("terms", {}))
    operations = json.loads(json.dumps(difference(case["pod"], found.pod)))
    assert jsonpatch.apply_patch(copy.deepcopy(case["pod"]), operations) == found.pod


@pytest.mark.parametrize("name", WITH_SIDECAR)
def test_other_terms_begin_from_what_the_pod_was(name: str) -> None:
    case = CASES[name]
    once = injected(case["pod"], labels=case.get("namespaceLabels"), **case.get("terms", {}))
    other = {"image": "registry.example/sidecar:9", "native": True, **case.get("terms", {})}
    fresh = injected(case["pod"], labels=case.get("namespaceLabels"), **other)
    assert injected(dict(once.pod), labels=case.get("namespaceLabels"), **other).pod == fresh.pod


@pytest.mark.parametrize("name", WITH_SIDECAR)
def test_the_sidecar_keeps_to_the_restricted_standard(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    case = CASES[name]
    found = injected(case["pod"], labels=case.get("namespaceLabels"), **case.get("terms", {}))
    security = container(found.pod)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"] is True
    names = {volume["name"] for volume in found.pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container(found.pod)["volumeMounts"]} <= names


def test_what_others_changed_meanwhile_stays() -> None:
    once = copy.deepcopy(dict(injected(pod(PLAIN)).pod))
    once["spec"]["containers"].append({"name": "mesh", "image": "m"})
    once["spec"]["containers"][0]["env"] = [{"name": "ADDED", "value": "1"}]
    container(once)["image"] = "somebody/elses:1"
    again = injected(once).pod
    assert [each["name"] for each in again["spec"]["containers"]] == ["app", "mesh"]
    assert container(again, "app")["env"] == [{"name": "ADDED", "value": "1"}]
    assert container(again)["image"] == TERMS.image


def test_what_the_cluster_adds_to_our_containers_stays() -> None:
    """The API server runs its own plugins again after a webhook has changed a pod, and then the
    webhook once more, as they have: https://kubernetes.io/docs/reference/access-authn-authz/
    extensible-admission-controllers/#reinvocation-policy"""
    once = copy.deepcopy(dict(injected(pod(PLAIN), mode="redirect").pod))
    for name in ("sidecar", "sidecar-redirect"):
        ours = container(once, name)
        ours["imagePullPolicy"] = "Always"  # AlwaysPullImages
        ours["resources"]["limits"]["cpu"] = "2"  # LimitRanger, of a LimitRange's `default`
        ours["resources"]["limits"]["ephemeral-storage"] = "1Gi"
        ours["volumeMounts"] = [*ours.get("volumeMounts", []), {"name": "api", "mountPath": "/t"}]
        ours["args"] = ["--version"]
    again = injected(once, mode="redirect").pod
    for name in ("sidecar", "sidecar-redirect"):
        ours = container(again, name)
        assert ours["imagePullPolicy"] == "Always"
        assert ours["resources"]["limits"]["cpu"] == "2"
        assert ours["resources"]["limits"]["ephemeral-storage"] == "1Gi"
        assert "/t" not in str(ours.get("volumeMounts"))  # the application's token is not ours
        assert ours["args"][0] in ("run", "redirect")
    assert injected(dict(again), mode="redirect").pod == again


def test_what_the_pod_asks_for_comes_before_defaults() -> None:
    once = copy.deepcopy(dict(injected(pod(PLAIN)).pod))
    container(once)["resources"]["limits"].update({"cpu": "100m", "memory": "1Gi"})
    once["metadata"]["annotations"]["authz.sidecar/cpu-limit"] = "2"
    limits = container(injected(once).pod)["resources"]["limits"]
    assert limits == {"cpu": "2", "memory": "192Mi"}


def test_resources_are_the_pods_else_the_webhooks() -> None:
    given = pod(PLAIN)
    given["metadata"]["annotations"] = {"authz.sidecar/cpu-limit": "2"}
    resources = Resources(cpu_request="100m", cpu_limit="1", memory_limit="")
    found = injected(given, mode="redirect", resources=resources).pod
    for name in ("sidecar", "sidecar-redirect"):
        assert container(found, name)["resources"] == {
            "requests": {"cpu": "100m", "memory": "96Mi"},
            "limits": {"cpu": "2"},
        }


@pytest.mark.parametrize(
    "forged",
    [
        "yes",
        "",
        seal({}, Ed25519PrivateKey.from_private_bytes(bytes(32))),
        # What this webhook signs elsewhere is no statement of what a pod was.
        environment(injected(pod(PLAIN)).pod)["SIDECAR_REGISTRATION"],
    ],
)
def test_nobody_can_pretend_that_a_pod_has_its_sidecar(forged: str) -> None:
    given = pod(PLAIN)
    given["metadata"]["annotations"] = {ORIGINAL: forged}
    with pytest.raises(Refused, match="is not what this webhook has written"):
        injected(given)


def test_an_annotation_of_another_pod_puts_the_sidecar_in_all_the_same() -> None:
    given = pod(PLAIN)
    sealed = injected(CASES["probes"]["pod"]).pod["metadata"]["annotations"][ORIGINAL]
    given["metadata"]["annotations"] = {ORIGINAL: sealed}
    found = injected(given).pod
    assert container(found)["image"] == TERMS.image
    assert environment(found)["SIDECAR_UPSTREAM"] == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("metadata", "spec", "expected"),
    [
        ({"generateName": "web-"}, {"serviceAccountName": "web"}, ("web", "web-", True)),
        ({"generateName": "w" * 60 + "-"}, {}, ("default", "w" * 58, True)),
        ({"name": "web-0"}, {}, ("default", "web-0", False)),
        ({"name": "web-0", "generateName": "web-"}, {}, ("default", "web-0", False)),
        ({}, {"serviceAccount": "old"}, ("old", "", False)),
    ],
)
def test_the_registration_is_of_this_pod(
    metadata: dict[str, Any], spec: dict[str, Any], expected: tuple[str, str, bool]
) -> None:
    given = pod(PLAIN)
    del given["spec"]["serviceAccountName"]
    given["metadata"] = {"labels": {"app": "web", "pod-template-hash": "x"}, **metadata}
    given["spec"].update(spec)
    variables = environment(injected(given, "bank").pod)
    found = verify(variables["SIDECAR_REGISTRATION"], [PUBLIC])
    assert (found.service_account, found.pod, found.generated) == expected
    assert (found.namespace, found.labels) == ("bank", {"app": "web"})
    assert variables["SIDECAR_NAMESPACE"] == "bank"
    assert variables["SIDECAR_LABEL"] == "app=web"


@pytest.mark.parametrize(
    ("grace", "native", "drain"),
    [
        (None, True, "20s"),
        (30, False, "20s"),
        (10, True, "8s"),
        (10, False, "3s"),
        (0, True, "1s"),
        (300, True, "290s"),
        (300, False, "285s"),  # whose requests take long has said so
    ],
)
def test_requests_in_flight_end_before_the_pod_does(
    grace: int | None, native: bool, drain: str
) -> None:
    given = pod(PLAIN)
    if grace is not None:
        given["spec"]["terminationGracePeriodSeconds"] = grace
    assert environment(injected(given, native=native).pod)["SIDECAR_DRAIN"] == drain


def test_the_sidecar_takes_every_probe_that_a_pod_may_have() -> None:
    given = pod(PLAIN)
    app = given["spec"]["containers"][0]
    app["name"] = "a" * 63
    app["readinessProbe"] = {
        "httpGet": {"port": "http", "path": "ready now?é=1"}, "timeoutSeconds": 7200,
    }  # fmt: skip
    app["lifecycle"] = {"postStart": {"httpGet": {"port": 8080}}}
    app["livenessProbe"] = {"grpc": {"port": 9000}, "terminationGracePeriodSeconds": 5}
    found = injected(given, mode="redirect").pod
    probes = to_probes(environment(found)["SIDECAR_PROBES"])
    ready = probes[f"{'a' * 63}-readiness"]
    assert ready.http is not None
    assert (ready.http.path, ready.timeout) == ("/ready%20now?%C3%A9=1", 3600)
    assert container(found, "a" * 63)["readinessProbe"]["timeoutSeconds"] == 7201
    assert len(probes) == 3


def test_a_pod_can_stay_guaranteed() -> None:
    """https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/: every container, init containers
    too, has limits, and requests that are the same."""
    given = pod(PLAIN)
    given["metadata"]["annotations"] = {
        f"authz.sidecar/{kind}-{part}": quantity
        for kind, quantity in (("cpu", "250m"), ("memory", "192Mi"))
        for part in ("request", "limit")
    }
    found = injected(given, mode="redirect").pod
    for name in ("sidecar", "sidecar-redirect"):
        resources = container(found, name)["resources"]
        assert resources["limits"] == resources["requests"] == {"cpu": "250m", "memory": "192Mi"}


NAMES = st.sampled_from(["app", "other", "third"])
PORTS = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.integers(1, 7300)},
        optional={
            "name": st.sampled_from(["http", "metrics", "admin"]),
            "protocol": st.sampled_from(["TCP", "UDP"]),
        },
    ),
    max_size=3,
)
PROBE = st.one_of(
    st.fixed_dictionaries({"httpGet": st.fixed_dictionaries({"port": st.integers(1, 65535)})}),
    st.fixed_dictionaries({"tcpSocket": st.fixed_dictionaries({"port": st.just("http")})}),
    st.fixed_dictionaries({"exec": st.just({"command": ["true"]})}),
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "image": st.just("i")},
        optional={"ports": PORTS, "readinessProbe": PROBE, "livenessProbe": PROBE},
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda each: str(each["name"]),
)


@settings(max_examples=200)
@given(
    containers=CONTAINERS,
    annotations=st.dictionaries(
        st.sampled_from(["authz.sidecar/port", "authz.sidecar/mode", "authz.sidecar/inject"]),
        st.sampled_from(["http", "8080", "port", "redirect", "true", "false"]),
    ),
    evictable=st.none()
    | st.lists(st.sampled_from(["cache", "a b", "sidecar-state", " sidecar-state", "", " "])).map(
        ",".join
    ),
    native=st.booleans(),
)
def test_any_pod_is_refused_with_a_reason_or_injected_idempotently(
    containers: list[dict[str, Any]],
    annotations: dict[str, str],
    evictable: str | None,
    native: bool,
) -> None:
    if evictable is not None:
        annotations = {**annotations, SAFE: evictable}
    given_pod: dict[str, Any] = {
        "metadata": {"name": "p", "annotations": annotations},
        "spec": {"containers": containers},
    }
    try:
        once = injected(given_pod, native=native)
    except Refused:
        return
    again = injected(dict(once.pod), native=native)
    assert again.pod == once.pod
    if once.result != "injected":
        assert once.pod == given_pod
        return
    named = once.pod["metadata"]["annotations"][SAFE].split(",")
    others = {each for each in (evictable or "").split(",") if each.strip()}
    assert {*named} == {*others - {" sidecar-state"}, "sidecar-state"}
    assert named.count("sidecar-state") == 1
    if environment(once.pod)["SIDECAR_UPSTREAM"] != "original-destination":
        # A Service that knows the port by name finds the sidecar, and nothing else; on a container
        # that is no init container, where every version of Kubernetes looks.
        ports = [
            port
            for each in once.pod["spec"]["containers"]
            for port in each.get("ports") or []
            if port.get("protocol", "TCP") == "TCP"
        ]
        [name] = [port["name"] for port in ports if port["containerPort"] == 7400]
        assert [port["containerPort"] for port in ports if port.get("name") == name] == [7400]


def test_a_pod_is_yaml_that_kubectl_reads() -> None:
    found = inject(pod(PLAIN), "shop", {}, TERMS, KEY)
    assert yaml.safe_load(yaml.safe_dump(dict(found.pod))) == found.pod


def test_each_probe_and_hook_is_asked_for_with_a_key_of_its_own() -> None:
    """Else whoever reaches the health port would stop the application, or keep it busy."""
    case = CASES["probes"]["pod"]
    found = injected(case, mode="redirect").pod
    asked = json.loads(environment(found)["SIDECAR_PROBES"])
    keys = {name: probe["key"] for name, probe in asked.items() if "key" in probe}
    assert set(keys) == set(asked)
    assert len(set(keys.values())) == len(keys)
    ready = container(found, "app")["readinessProbe"]["httpGet"]
    assert ready["httpHeaders"] == [{"name": "probe-key", "value": keys["app-readiness"]}]
    hook = container(found, "app")["lifecycle"]["preStop"]["httpGet"]
    assert hook["httpHeaders"] == [{"name": "probe-key", "value": keys["app-prestop"]}]
    elsewhere = injected(case, namespace="other", mode="redirect").pod
    assert json.loads(environment(elsewhere)["SIDECAR_PROBES"])["app-prestop"]["key"] not in (
        keys["app-prestop"], "",
    )  # fmt: skip


def test_what_a_pod_says_is_not_taken_for_other_variables() -> None:
    """A kubelet would put the value of another variable there, and probes be no JSON any more."""
    given = pod(PLAIN)
    path = "/$(SIDECAR_CONTROL_PLANE_CA)/$$(SIDECAR_LISTEN)/$$/$"
    given["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": path, "port": "http"}}
    found = injected(given, mode="redirect").pod
    asked = json.loads(environment(found)["SIDECAR_PROBES"])
    assert asked["app-readiness"]["http"]["path"] == path


@pytest.mark.parametrize(
    ("probe", "asked"),
    [
        ({"path": "ready"}, {"path": "/ready"}),
        ({"path": "/a b?c=d#e"}, {"path": "/a%20b?c=d"}),
        ({"path": "/%41\u00e9"}, {"path": "/%41%C3%A9"}),
        ({"path": ""}, {"path": "/"}),
        ({"httpHeaders": [{"name": "a"}]}, {"path": "/", "headers": {"a": ""}}),
    ],
)
def test_the_sidecar_can_read_every_probe(probe: dict[str, Any], asked: dict[str, Any]) -> None:
    """What the API server admits must not keep the sidecar from starting."""
    given = pod(PLAIN)
    app = given["spec"]["containers"][0]
    app["name"] = "a" * 63
    app["readinessProbe"] = {"httpGet": {"port": "http", **probe}, "timeoutSeconds": 100_000}
    text = environment(injected(given, mode="redirect").pod)["SIDECAR_PROBES"]
    [[name, found]] = json.loads(text).items()
    assert found.pop("key")
    assert found == {"http": {"port": 8080, "scheme": "HTTP", **asked}, "timeout": 3600}
    assert list(to_probes(text)) == [name]


def test_probes_that_no_sidecar_can_do_are_refused() -> None:
    for probe in (
        {"path": "/" + "a" * 4096},
        {"httpHeaders": [{"name": "a", "value": "b\r\nc: d"}]},
    ):
        given = pod(PLAIN)
        given["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": "http", **probe}}
        with pytest.raises(Refused, match="a probe's"):
            injected(given, mode="redirect")
    given = pod(PLAIN)
    given["spec"]["containers"] = [
        {"name": f"c{i}", "image": "i", "livenessProbe": {"tcpSocket": {"port": 9000}}}
        for i in range(65)
    ]
    with pytest.raises(Refused, match="65 probes"):
        injected(given, mode="redirect")


@pytest.mark.parametrize("annotation", ["left out", "nothing to protect"])
def test_no_pod_without_a_sidecar_says_that_it_has_one(annotation: str) -> None:
    """NetworkPolicies and monitors go by the label."""
    given = pod(PLAIN)
    if annotation == "left out":
        given["metadata"]["annotations"] = {"authz.sidecar/inject": "false"}
    else:
        del given["spec"]["containers"][0]["ports"]
        del given["spec"]["containers"][0]["readinessProbe"]
    marked = copy.deepcopy(given)
    marked["metadata"]["labels"]["authz.sidecar/injected"] = "true"
    found = injected(marked)
    assert found.result == annotation.replace(" ", "_")
    assert found.pod == given


def test_a_copied_sidecar_goes_when_its_pod_is_left_out() -> None:
    """Its registration is another pod's; it would stand before the application and serve nobody."""
    copied = copy.deepcopy(dict(injected(pod(PLAIN)).pod))
    copied["metadata"]["annotations"]["authz.sidecar/inject"] = "false"
    expected = pod(PLAIN)
    expected["metadata"]["annotations"] = {"authz.sidecar/inject": "false"}
    found = injected(copied)
    assert (found.result, found.pod) == ("left_out", expected)


@pytest.mark.parametrize(
    ("named", "after", "taken_out"),
    [
        (None, "sidecar-state", None),
        ("", "sidecar-state", None),
        ("cache", "cache,sidecar-state", "cache"),
        ("sidecar-state", "sidecar-state", None),  # as it had to be set by hand
        ("a,sidecar-state,b", "a,b,sidecar-state", "a,b"),
        ("a, sidecar-state", "a,sidecar-state", "a"),
    ],
)
def test_its_volume_keeps_no_node(named: str | None, after: str, taken_out: str | None) -> None:
    """Cluster Autoscaler: an emptyDir that the annotation does not name is data."""
    given = pod(PLAIN)
    if named is not None:
        given["metadata"]["annotations"] = {SAFE: named}
    once = injected(given)
    assert once.pod["metadata"]["annotations"][SAFE] == after
    again = injected(copy.deepcopy(dict(once.pod)))
    assert again.pod == once.pod
    between = copy.deepcopy(dict(once.pod))
    between["metadata"]["annotations"][SAFE] += ",added"  # by a webhook that comes between
    found = injected(between).pod["metadata"]["annotations"][SAFE]
    assert found == f"{taken_out + ',' if taken_out else ''}added,sidecar-state"
    copied = copy.deepcopy(dict(once.pod))
    copied["metadata"]["annotations"]["authz.sidecar/inject"] = "false"
    left = injected(copied).pod["metadata"]["annotations"]
    assert left.get(SAFE) == taken_out


@pytest.mark.parametrize(
    "labels",
    [
        {f"a{i}": "" for i in range(60)},
        {f"{'a' * 200}.{i}/{'b' * 60}": "c" * 63 for i in range(50)},
    ],
    ids=["with those of the annotation too many", "too long"],
)
def test_a_registration_that_no_control_plane_takes_is_not_made(labels: dict[str, str]) -> None:
    given = pod(PLAIN)
    given["metadata"]["labels"] = labels
    more = ",".join(f"b{i}=" for i in range(10))
    given["metadata"]["annotations"] = {"authz.sidecar/labels": more}
    with pytest.raises(Refused, match="the control plane takes 64 labels"):
        injected(given)


@pytest.mark.parametrize("kind", ["httpGet", "tcpSocket"])
def test_a_probe_of_another_host_stays_the_kubelets(kind: str) -> None:
    given = pod(PLAIN)
    probe = {kind: {"host": "10.1.1.1", "port": 5432}}
    given["spec"]["containers"][0]["readinessProbe"] = probe
    found = injected(given, mode="redirect").pod
    assert container(found, "app")["readinessProbe"] == probe
    assert "SIDECAR_PROBES" not in environment(found)


def test_null_is_as_nothing() -> None:
    given = pod(PLAIN)
    given["metadata"] = {"name": "a", "labels": None, "annotations": None}
    assert injected(given).pod["metadata"]["labels"] == {"authz.sidecar/injected": "true"}
