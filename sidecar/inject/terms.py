"""What is injected, as whoever runs the webhook has said it; and the names that belong to it.

Other people's manifests, policies and scripts depend on the names: they do not change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Mode = Literal["port", "redirect"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
MODES: Final[tuple[Mode, ...]] = ("port", "redirect")

SIDECAR: Final = "sidecar"  # container
REDIRECT: Final = "sidecar-redirect"  # init container
STATE: Final = "sidecar-state"  # volumes
TOKEN: Final = "sidecar-token"  # noqa: S105 - a volume's name
PREFIX: Final = "authz.sidecar/"  # of labels and annotations
INJECTED: Final = PREFIX + "injected"  # label of a pod that has a sidecar
ORIGINAL: Final = PREFIX + "original"  # annotation: what of the pod was changed, signed

TRAFFIC: Final = 7400
HEALTH: Final = 7401
ADMIN: Final = 7402  # on loopback; nothing else may have it
USER: Final = 65532  # and group
STATE_PATH: Final = "/var/lib/sidecar"
TOKEN_PATH: Final = "/var/run/secrets/sidecar"  # noqa: S105 - where it is
AUDIENCE: Final = "sidecar-control-plane"

RESOURCES: Final = ("cpu-request", "cpu-limit", "memory-request", "memory-limit")
QUANTITY: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?(?:m|k|[MGTPE]|[KMGTPE]i)?")


@dataclass(frozen=True, slots=True)
class Resources:
    """Of a sidecar, quantities of Kubernetes; an empty one is none. RESOURCES are their names."""

    cpu_request: str = "20m"
    cpu_limit: str = ""
    memory_request: str = "96Mi"
    memory_limit: str = "192Mi"


@dataclass(frozen=True, slots=True)
class Terms:
    """`control_plane` is HOST:PORT of its fleet listener. `ca` vouches for it, `trust` are the
    public keys of its releases; both PEM. `native`: the cluster runs sidecar containers (KEP-753).
    `mode` is what a pod gets that asks for none."""

    image: str
    control_plane: str
    ca: str
    trust: str
    mode: Mode
    native: bool
    pull_policy: PullPolicy = "IfNotPresent"
    resources: Resources = Resources()
    settings: Mapping[str, str] | None = None
    """More of the sidecar's environment, by name (SIDECAR_DECISION_LOG, ...)."""


class Refused(Exception):
    """A pod that cannot have a sidecar, and so is not admitted; says why and what to do.

    `reason` is one of few, for metrics.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
