"""The sidecar's emptyDir keeps no node from being scaled down: Cluster Autoscaler takes each volume
of that kind for data, but for those that an annotation names. Ours holds a copy.

Source: https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md ("What types
of pods can prevent CA from removing a node?"): names, comma separated, without spaces.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.inject.terms import STATE

SAFE: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"


def mark(metadata: dict[str, Any]) -> None:
    """Names our volume last, after those that the pod names, whether it names ours or not."""
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {**annotations, SAFE: ",".join([*_others(annotations), STATE])}


def unmark(annotations: dict[str, Any]) -> None:
    """Takes ours out; the annotation with it, where it names no other."""
    if SAFE not in annotations:
        return
    if others := _others(annotations):
        annotations[SAFE] = ",".join(others)
    else:
        del annotations[SAFE]


def _others(annotations: dict[str, Any]) -> list[str]:
    names = str(annotations.get(SAFE) or "").split(",")
    return [name for name in names if name.strip() not in ("", STATE)]
