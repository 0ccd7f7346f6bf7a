"""Terms and pods that tests of the webhook share."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.inject.pod import Injection, inject
from sidecar.inject.terms import Terms

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
TERMS = Terms(
    image="registry.example/sidecar:1.2.3",
    control_plane="sidecar-control-plane.sidecar-system.svc:7444",
    ca="-----BEGIN CERTIFICATE-----\nCA\n-----END CERTIFICATE-----\n",
    trust="-----BEGIN PUBLIC KEY-----\nTRUST\n-----END PUBLIC KEY-----\n",
    mode="port",
    native=True,
)


def pod(text: str) -> dict[str, Any]:
    """From YAML; only what is not there yet of kind and name is added."""
    found = yaml.safe_load(text)
    return {"apiVersion": "v1", "kind": "Pod", **found}


PLAIN = """
metadata: {generateName: web-7d9f-, labels: {app: web, pod-template-hash: 7d9f}}
spec:
  serviceAccountName: web
  containers:
  - name: app
    image: example/web:1
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 5}
"""


def injected(
    given: dict[str, Any], namespace: str = "shop", labels: dict[str, str] | None = None,
    **terms: Any,
) -> Injection:  # fmt: skip
    return inject(given, namespace, labels or {}, replace(TERMS, **terms), KEY)


def container(pod: Any, name: str = "sidecar") -> dict[str, Any]:
    spec = pod["spec"]
    [found] = [
        each
        for each in [*spec["containers"], *spec.get("initContainers", [])]
        if each["name"] == name
    ]
    assert isinstance(found, dict)
    return found


def environment(pod: Any) -> dict[str, str]:
    """The sidecar's variables, as a kubelet sets them."""
    found: dict[str, str] = {}
    for each in container(pod)["env"]:
        found[each["name"]] = expanded(each["value"], found)
    return found


def expanded(text: str, known: dict[str, str]) -> str:
    """As k8s.io/kubernetes/third_party/forked/golang/expansion does it."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else known.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)
