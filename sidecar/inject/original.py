"""What a pod was before it got its sidecar: kept in an annotation, signed, so that injecting again
begins from there and comes to the same.

The API server may call a webhook a second time for one pod, after others have changed it
(`reinvocationPolicy`), and people copy manifests of running pods. Nobody can pretend that a pod has
its sidecar already: what the annotation says is only where to begin from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.inject import evictable
from sidecar.inject.terms import INJECTED, ORIGINAL, REDIRECT, SIDECAR, STATE, TOKEN, Refused

TYPE: Final = "sidecar-original+jwt"
_CHANGED: Final = (
    "ports", "startupProbe", "livenessProbe", "readinessProbe", "lifecycle",
)  # fmt: skip
_LISTS: Final = {"containers": (SIDECAR,), "initContainers": (SIDECAR, REDIRECT),
                 "volumes": (STATE, TOKEN)}  # fmt: skip


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By container, what it had where it has something else now."""
    now = {each["name"]: each for each in _containers(after)}
    found = {}
    for container in _containers(before):
        other = now[container["name"]]
        parts = {
            field: container.get(field)
            for field in _CHANGED
            if container.get(field) != other.get(field)
        }
        if parts:
            found[container["name"]] = parts
    return found


def seal(parts: Mapping[str, Any], key: Ed25519PrivateKey) -> str:
    """The annotation. The same for the same parts and key."""
    return jwt.encode({"containers": dict(parts)}, key, algorithm="EdDSA", headers={"typ": TYPE})


def restore(pod: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Mapping[str, Any]]:
    """Takes everything of ours out of a pod; gives the containers that are taken out, by name, as
    others have left them. Raises Refused where something has our names that is not ours."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    sealed = (metadata.get("annotations") or {}).get(ORIGINAL)
    present = [
        str(each.get("name"))
        for name, ours in _LISTS.items()
        for each in spec.get(name) or []
        if each.get("name") in ours
    ]
    if sealed is None:
        if present:
            raise Refused(
                "name_taken",
                f"the pod has {', '.join(present)} already, and the names are the sidecar's: "
                'choose others, or leave the pod out with authz.sidecar/inject: "false"',
            )
        return {}
    parts = _opened(str(sealed), key)
    held: dict[str, Mapping[str, Any]] = {
        str(each["name"]): each for each in _containers(pod) if each["name"] in (SIDECAR, REDIRECT)
    }
    for name, ours in _LISTS.items():
        if name in spec:
            spec[name] = [each for each in spec[name] if each.get("name") not in ours]
            if not spec[name] and name != "containers":
                del spec[name]
    for container in _containers(pod):
        for field, value in parts.get(container.get("name"), {}).items():
            if value is None:
                container.pop(field, None)
            else:
                container[field] = value
    for field, name in (("annotations", ORIGINAL), ("labels", INJECTED)):
        marks = metadata.get(field) or {}
        marks.pop(name, None)
        if field == "annotations":
            evictable.unmark(marks)
        if not marks:
            metadata.pop(field, None)
    return held


def unmarked(pod: Mapping[str, Any], key: Ed25519PrivateKey) -> Mapping[str, Any]:
    """A pod that gets no sidecar without what would say that it has one, and without one that was
    copied along; the same object where there is neither. Raises Refused."""
    metadata = pod.get("metadata") or {}
    sealed = ORIGINAL in (metadata.get("annotations") or {})
    if not sealed and INJECTED not in (metadata.get("labels") or {}):
        return pod
    after = copy.deepcopy(dict(pod))
    if sealed:
        restore(after, key)
    else:
        del after["metadata"]["labels"][INJECTED]
    return after


def _opened(sealed: str, key: Ed25519PrivateKey) -> Mapping[Any, Any]:
    try:
        decoded = jwt.decode_complete(sealed, key.public_key(), algorithms=["EdDSA"])
        parts = decoded["payload"].get("containers")
        if decoded["header"].get("typ") != TYPE or not isinstance(parts, dict):
            raise jwt.InvalidTokenError
    except jwt.InvalidTokenError:
        raise Refused(
            "original",
            f"annotation {ORIGINAL} is not what this webhook has written; a manifest that was "
            "copied from a running pod has to be without it and without the sidecar's containers",
        ) from None
    return parts


def _containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    spec = pod.get("spec") or {}
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
