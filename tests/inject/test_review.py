"""AdmissionReviews as an API server sends them, and what it gets."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch
import pytest

from sidecar.inject.pod import Injection
from sidecar.inject.review import BadReview, answer, leave, read
from tests.inject.common import PLAIN, injected, pod


def review(**changes: Any) -> dict[str, Any]:
    """As Kubernetes 1.34 sends it, but for the parts that nobody here reads."""
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod(PLAIN),
        "oldObject": None,
        "dryRun": False,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        **changes,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def test_a_pod_is_answered_with_a_patch() -> None:
    request = read(json.dumps(review()).encode())
    found, result = answer(request, lambda: injected(dict(request.pod), request.namespace))
    assert result == "injected"
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = found["response"]
    assert (response["uid"], response["allowed"]) == (request.uid, True)
    assert response["patchType"] == "JSONPatch"
    operations = json.loads(base64.b64decode(response["patch"]))
    assert jsonpatch.apply_patch(pod(PLAIN), operations) == injected(pod(PLAIN)).pod
    assert json.loads(json.dumps(found)) == found


def test_a_pod_that_cannot_have_one_is_refused_with_the_reason() -> None:
    given = pod(PLAIN)
    given["spec"]["hostNetwork"] = True
    request = read(json.dumps(review(object=given)).encode())
    found, result = answer(request, lambda: injected(dict(request.pod)))
    assert result == "refused_host_network"
    response = found["response"]
    assert (response["uid"], response["allowed"]) == (request.uid, False)
    assert response["status"]["message"].startswith("sidecar: with hostNetwork")
    assert "patch" not in response


def test_one_that_is_left_as_it_is_has_no_patch() -> None:
    request = read(json.dumps(review()).encode())
    found, _ = answer(request, lambda: Injection(request.pod, "left_out", ("x" * 1000,)))
    assert "patch" not in found["response"]
    assert "patchType" not in found["response"]
    [warning] = found["response"]["warnings"]
    assert len(warning) == 250
    assert leave("u", "why")["response"] == {
        "uid": "u", "allowed": True, "warnings": ["sidecar: why"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an AdmissionReview"),
        (
            json.dumps({**review(), "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
            "of admission",
        ),
        (json.dumps({**review(), "kind": "Pod"}).encode(), "of admission"),
        (json.dumps(review(uid=None)).encode(), "not an AdmissionReview"),
        (json.dumps(review(operation="UPDATE")).encode(), "something else"),
        (json.dumps(review(subResource="ephemeralcontainers")).encode(), "something else"),
        (
            json.dumps(review(kind={"group": "apps", "kind": "Deployment"})).encode(),
            "something else",
        ),
        (json.dumps(review(namespace="../secrets")).encode(), "namespace"),
        (json.dumps(review(namespace="shop/../../nodes")).encode(), "namespace"),
        (json.dumps(review(namespace="shop?watch=1")).encode(), "namespace"),
        (json.dumps(review(namespace={"a": 1})).encode(), "namespace"),
        (json.dumps(review(object=None)).encode(), "no spec"),
        (json.dumps(review(object={"spec": {}})).encode(), "no containers"),
        (json.dumps(review(object={"spec": {"containers": "x"}})).encode(), "no containers"),
    ],
)
def test_what_is_no_review_of_a_pod(data: bytes, why: str) -> None:
    with pytest.raises(BadReview, match=why):
        read(data)
