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
LONGEST_DRAIN: Final = 20
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
    terms: Terms, resources: Resources, variables: Mapping[str, str], port: Mapping[str, Any]
) -> dict[str, Any]:
    """The container; `port` is the one for traffic, whose name a Service may know."""
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
        "ports": [
            dict(port), {"name": "sidecar-health", "containerPort": HEALTH, "protocol": "TCP"},
        ],
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


def redirect(terms: Terms, excluded: tuple[int, ...]) -> dict[str, Any]:
    """The init step that puts the sidecar in every inbound connection's way."""
    arguments = ["redirect", "--to", str(TRAFFIC), "--user", str(USER)]
    for port in excluded:
        arguments += ["--exclude-port", str(port)]
    return {
        "name": REDIRECT,
        "image": terms.image,
        "imagePullPolicy": terms.pull_policy,
        "args": arguments,
        "resources": {
            "requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"},
        },
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
    return max(1, min(LONGEST_DRAIN, left))


def _resources(resources: Resources) -> dict[str, dict[str, str]]:
    requests = {"cpu": resources.cpu_request, "memory": resources.memory_request}
    limits = {"cpu": resources.cpu_limit, "memory": resources.memory_limit}
    return {
        "requests": {name: text for name, text in requests.items() if text},
        "limits": {name: text for name, text in limits.items() if text},
    }
