"""AdmissionReview v1 in, AdmissionReview v1 out.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.inject.patch import difference
from sidecar.inject.pod import Injection
from sidecar.inject.terms import Refused

VERSION: Final = "admission.k8s.io/v1"
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
MAX_WARNING: Final = 250  # characters; the API server cuts what is longer


class BadReview(Exception):
    """Not a request for a review of a pod that is created; says what it is."""


@dataclass(frozen=True, slots=True)
class Request:
    """One pod that is to be created in a namespace."""

    uid: str
    namespace: str
    pod: Mapping[str, Any]


def read(data: bytes) -> Request:
    """Raises BadReview."""
    try:
        review = json.loads(data)
    except (ValueError, RecursionError):
        raise BadReview("not JSON") from None
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise BadReview("not an AdmissionReview with a request")
    if review.get("apiVersion") != VERSION or review.get("kind") != "AdmissionReview":
        raise BadReview(f"an AdmissionReview of {VERSION} is expected")
    pod, kind = request.get("object"), request.get("kind")
    of_pod = isinstance(kind, dict) and (kind.get("group"), kind.get("kind")) == ("", "Pod")
    if not of_pod or request.get("operation") != "CREATE" or request.get("subResource"):
        raise BadReview("it is about something else than a pod that is created; mend the rules")
    if not isinstance(pod, dict) or not isinstance(pod.get("spec"), dict):
        raise BadReview("its pod has no spec")
    if not isinstance(pod["spec"].get("containers"), list) or not pod["spec"]["containers"]:
        raise BadReview("its pod has no containers")
    namespace = request.get("namespace") or "default"
    # It becomes part of a path of the API, and not only the API server can reach us.
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise BadReview("its namespace is none")
    return Request(request["uid"], namespace, pod)


def answer(request: Request, inject: Callable[[], Injection]) -> tuple[dict[str, Any], str]:
    """The review of a request, and in one word how it went."""
    try:
        found = inject()
    except Refused as refused:
        return refuse(request.uid, str(refused)), f"refused_{refused.reason}"
    response: dict[str, Any] = {"uid": request.uid, "allowed": True}
    operations = difference(request.pod, found.pod)
    if operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(operations).encode()).decode("ascii")
    if found.warnings:
        response["warnings"] = [f"sidecar: {each}"[:MAX_WARNING] for each in found.warnings]
    return _review(response), found.result


def refuse(uid: str, message: str) -> dict[str, Any]:
    """The pod is not created."""
    status = {"code": 403, "message": f"sidecar: {message}"}
    return _review({"uid": uid, "allowed": False, "status": status})


def leave(uid: str, message: str) -> dict[str, Any]:
    """The pod is created as it is, with a warning."""
    return _review({"uid": uid, "allowed": True, "warnings": [f"sidecar: {message}"[:MAX_WARNING]]})


def _review(response: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": VERSION, "kind": "AdmissionReview", "response": dict(response)}
