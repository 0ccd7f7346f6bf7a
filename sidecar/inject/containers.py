"""The containers and volumes that a pod gets.

Everything keeps to the restricted Pod Security Standard, but for the init step of mode `redirect`,
which changes the pod's network rules and so needs NET_ADMIN, as root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sidecar.inject.terms import (
    AUDIENCE,
    HEALTH,
    REDIRECT,
    SIDECAR,
    STATE,
    STATE_PATH,
    TOKEN,
    TOKEN_PATH,
    TRAFFIC,
    USER,
    Resources,
    Terms,
)

FOREWARNED: Final = 5  # seconds between the end of new traffic and SIGTERM
DRAIN: Final = 20
ENDING: Final = 8  # seconds that the end of a sidecar may take beside its drain
TOKEN_LIFE: Final = 3600  # seconds; the kubelet replaces it in time


def environment(
    terms: Terms,
    *,
    namespace: str,
    labels: Mapping[str, str],
    registration: str,
    upstream: str,
    probes: Mapping[str, Any],
    drain: int,
) -> dict[str, str]:
    """What the sidecar reads its settings from, by variable."""
    found = {
        **(terms.settings or {}),
        "SIDECAR_UPSTREAM": upstream,
        "SIDECAR_LISTEN": f"[::]:{TRAFFIC}",
        "SIDECAR_HEALTH": f"[::]:{HEALTH}",
        "SIDECAR_NAMESPACE": namespace,
        "SIDECAR_CONTROL_PLANE": terms.control_plane,
        "SIDECAR_CONTROL_PLANE_CA": terms.ca,
        "SIDECAR_CONTROL_PLANE_TOKEN": f"{TOKEN_PATH}/token",
        "SIDECAR_TRUST": terms.trust,
        "SIDECAR_REGISTRATION": registration,
        "SIDECAR_STATE": f"{STATE_PATH}/state",
        "SIDECAR_DRAIN": f"{drain}s",
    }
    if labels:
        found["SIDECAR_LABEL"] = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    if probes:
        found["SIDECAR_PROBES"] = json.dumps(probes, sort_keys=True, separators=(",", ":"))
    return found


def sidecar(
    terms: Terms, resources: Resources, variables: Mapping[str, str], port: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The container; `port` is the one for traffic, where no other container has it."""
    ports = [{"name": "sidecar-health", "containerPort": HEALTH, "protocol": "TCP"}]
    health = {"path": "/healthz", "port": HEALTH, "scheme": "HTTP"}
    container: dict[str, Any] = {
        "name": SIDECAR,
        "image": terms.image,
        "imagePullPolicy": terms.pull_policy,
        "args": ["run"],
        # The kubelet puts other variables where a value says $(NAME); $$ is a $ to it.
        "env": [
            {"name": name, "value": variables[name].replace("$", "$$")}
            for name in sorted(variables)
        ],
        "ports": [*([dict(port)] if port else []), *ports],
        "startupProbe": {"httpGet": health, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"httpGet": health, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {"httpGet": {**health, "path": "/readyz"}, "periodSeconds": 2},
        "resources": _resources(resources),
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": STATE, "mountPath": STATE_PATH},
            {"name": TOKEN, "mountPath": TOKEN_PATH, "readOnly": True},
        ],
    }  # fmt: skip
    if terms.native:
        container["restartPolicy"] = "Always"  # started before, and stopped after, the others
    else:
        # Both are told to end at once; until nobody sends new requests it serves on.
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(FOREWARNED)]}}}
    return container


def redirect(terms: Terms, resources: Resources, excluded: tuple[int, ...]) -> dict[str, Any]:
    """The init step that puts the sidecar in every inbound connection's way. It asks for what the
    sidecar does, which comes after it: so it costs nothing, and what a ResourceQuota wants of each
    container, or the class Guaranteed, can be had by annotation."""
    arguments = ["redirect", "--to", str(TRAFFIC), "--user", str(USER)]
    for port in excluded:
        arguments += ["--exclude-port", str(port)]
    return {
        "name": REDIRECT,
        "image": terms.image,
        "imagePullPolicy": terms.pull_policy,
        "args": arguments,
        "resources": _resources(resources),
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }  # fmt: skip


def keep_defaults(container: dict[str, Any], held: Mapping[str, Any]) -> None:
    """What the cluster has added to one of ours since the webhook was first asked stays: defaults
    of a LimitRange, AlwaysPullImages. They are not added a third time, and a pod without them is
    refused there. Nothing that says what runs is taken from there."""
    resources = held.get("resources") or {}
    for kind, ours in container["resources"].items():
        container["resources"][kind] = {**(resources.get(kind) or {}), **ours}
    if held.get("imagePullPolicy") == "Always":
        container["imagePullPolicy"] = "Always"


def volumes() -> list[dict[str, Any]]:
    """Where the last-known-good release is kept, and the token for the control plane."""
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_LIFE, "path": "token"}
    return [
        {"name": STATE, "emptyDir": {"sizeLimit": "256Mi"}},
        {"name": TOKEN, "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]


def drain_seconds(grace: int, native: bool) -> int:
    """How long requests in flight may take at the end of a pod that is given so many seconds."""
    left = grace - 2 - (0 if native else FOREWARNED)
    return max(1, min(left, max(DRAIN, left - ENDING)))


def _resources(resources: Resources) -> dict[str, dict[str, str]]:
    requests = {"cpu": resources.cpu_request, "memory": resources.memory_request}
    limits = {"cpu": resources.cpu_limit, "memory": resources.memory_limit}
    return {
        "requests": {name: text for name, text in requests.items() if text},
        "limits": {name: text for name, text in limits.items() if text},
    }
