"""Who a sidecar is, as the injection webhook wrote it down: a signed statement of its labels.

A sidecar cannot choose the labels by which it is sent documents: the webhook, which saw the pod
before it ran, signs them together with the namespace, the service account and the pod's name. The
control plane takes them from there, once a service-account token or a certificate has shown that
whoever presents the statement is what it speaks of (`control.identity`). By itself it proves
nothing, so it may lie in a pod's environment for all to read.

It is a JWS (RFC 7515) with Ed25519; whoever holds one key may sign for every namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sidecar.errors import IdentityRefused, Misuse
from sidecar.facts.signing import load_public_keys

TYPE: Final = "sidecar-registration+jwt"
MAX_LABELS: Final = 64
MAX_TEXT: Final = 16 * 1024  # characters of a whole statement


@dataclass(frozen=True, slots=True)
class Registration:
    """One pod's. `pod` is its name or, where the cluster makes that up, what it begins with
    (`generateName`): then `generated` is true. Empty: the webhook knew neither."""

    namespace: str
    service_account: str
    pod: str
    generated: bool
    labels: Mapping[str, str]

    def is_of(self, pod: str) -> bool:
        """Whether a pod of this name is the one, as far as the webhook could know."""
        if self.generated:
            return pod.startswith(self.pod) and len(pod) > len(self.pod)
        return not self.pod or pod == self.pod


def sign(registration: Registration, key: Ed25519PrivateKey) -> str:
    """The statement. The same for the same registration and key: it names no time, since what it
    says is true of the pod for as long as that lives."""
    payload = {
        "namespace": registration.namespace,
        "serviceAccount": registration.service_account,
        "pod": registration.pod,
        "generated": registration.generated,
        "labels": dict(sorted(registration.labels.items())),
    }
    return jwt.encode(payload, key, algorithm="EdDSA", headers={"typ": TYPE})


def read_keys(path: Path) -> frozenset[bytes]:
    """The webhook's public keys from a file of PEM, as it is now. Raises IdentityRefused."""
    try:
        return load_public_keys(path.read_bytes())
    except (OSError, Misuse) as error:
        raise IdentityRefused(f"the webhook's keys, {path}, are not there yet: {error}") from None


def verify(statement: str, keys: Iterable[bytes]) -> Registration:
    """What one of these raw Ed25519 keys has signed. Raises IdentityRefused."""
    if len(statement) > MAX_TEXT:
        raise IdentityRefused("the registration is too long")
    for raw in keys:
        key = Ed25519PublicKey.from_public_bytes(raw)
        try:
            decoded = jwt.decode_complete(statement, key, algorithms=["EdDSA"])
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError as error:
            raise IdentityRefused(f"the registration is no signed statement: {error}") from None
        if decoded["header"].get("typ") != TYPE:
            raise IdentityRefused("the registration is a signed statement of another kind")
        return _read(decoded["payload"])
    raise IdentityRefused(
        "the registration is signed by none of the webhook's keys; a pod from before a change of "
        "them has to be started anew"
    )


def _read(payload: Mapping[str, Any]) -> Registration:
    texts = [payload.get(name) for name in ("namespace", "serviceAccount", "pod")]
    labels = payload.get("labels")
    if (
        not all(isinstance(text, str) for text in texts)
        or not isinstance(payload.get("generated"), bool)
        or not isinstance(labels, dict)
        or len(labels) > MAX_LABELS
        or not all(isinstance(value, str) for value in labels.values())
    ):
        raise IdentityRefused("the registration lacks what a pod's has")
    namespace, account, pod = (str(text) for text in texts)
    return Registration(namespace, account, pod, payload["generated"], labels)
