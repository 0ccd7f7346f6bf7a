"""The table of routes, and what stands in paths and queries."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.control.api.messages import Unreadable
from sidecar.control.api.routes import ROUTES, Route, find, message, of_query
from sidecar.wire import admin_pb2 as pb


def route(path: str, verb: str = "GET") -> Route:
    return find(path)[0][verb]


def test_every_method_of_the_service_is_reached() -> None:
    methods = {each.name for each in pb.DESCRIPTOR.services_by_name["Admin"].methods}
    assert {each.rpc for each in ROUTES} == methods
    assert len({(each.verb, each.path) for each in ROUTES}) == len(ROUTES)
    actions = {each.fixed["action"] for each in ROUTES if each.rpc == "Steer"}
    assert actions == {"pause", "resume", "abort"}
    for each in ROUTES:
        fields = {field.name for field in each.method.input_type.fields}
        assert {*each.named, *each.fixed} <= fields, each.path


def test_reads_are_get_and_changes_are_post() -> None:
    """A GET that changes something could be sent by any page."""
    reads = {each.rpc for each in ROUTES if each.verb == "GET"}
    assert reads == {
        "Get", "History", "Diff", "Rollouts", "Proposals", "Audit", "SigningKeys", "Status", "Watch",
        "ListRevocations", "WhoAmI",
    }  # fmt: skip
    assert not reads & {each.rpc for each in ROUTES if each.verb == "POST"}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/v1/apply", {}),
        ("/v1/namespaces/shop/diff", {"namespace": "shop"}),
        ("/v1/namespaces/sh%6Fp/diff", {"namespace": "shop"}),
        ("/v1/proposals/abc/approve", {"id": "abc"}),
    ],
)
def test_paths(path: str, values: dict[str, str]) -> None:
    assert find(path)[0]
    assert find(path)[1] == values


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/v1", "/v1/", "/v1/apply/", "//v1/apply", "/v1//apply", "/v1/Apply", "/v1/%61pply",
        "/v1/namespaces//diff", "/v1/namespaces/a%2Fb/diff", "/v1/namespaces/a/b/diff",
        "/v1/namespaces/%ff/diff", "/v1/namespaces/%4/diff", "/v1/namespaces/../apply",
        "/v1/namespaces/{namespace}/rollout/stop", "/v2/apply",
    ],
)  # fmt: skip
def test_what_is_no_path(path: str) -> None:
    assert find(path) == ({}, {})


def test_queries_have_types() -> None:
    def asked(path: str, query: str) -> Any:
        found = route(path)
        _, values = find(path)
        return message(found, values, of_query(found, query))

    assert asked("/v1/documents", "namespace=a&kind=ApiKey&name=b&version=7") == pb.GetRequest(
        namespace="a", kind="ApiKey", name="b", version=7
    )
    assert asked("/v1/documents", "") == pb.GetRequest()
    assert asked("/v1/documents", "name=a%20b+c") == pb.GetRequest(name="a b c")
    assert asked("/v1/namespaces/a/diff", "from=1&to=2") == pb.DiffRequest(
        namespace="a", to=2, **{"from": 1}
    )
    assert asked("/v1/audit", "after=3&most=4&newest=true") == pb.AuditRequest(
        after=3, most=4, newest=True
    )
    assert asked("/v1/audit", "newest=false") == pb.AuditRequest()
    assert asked("/v1/sidecars", "sidecarId=x") == pb.StatusRequest(sidecar_id="x")
    assert asked("/v1/progress", "releases=a@1&releases=b@2&withdrawal=3") == pb.WatchRequest(
        releases=[
            pb.NamespaceVersion(namespace="a", version=1),
            pb.NamespaceVersion(namespace="b", version=2),
        ],
        withdrawal=3,
    )


@pytest.mark.parametrize(
    ("path", "query", "mistake"),
    [
        ("/v1/documents", "nmae=a", "?nmae: unknown; there are: namespace, kind, name, version"),
        ("/v1/whoami", "a=b", "?a: unknown; there are: none"),
        ("/v1/documents", "name=a&name=b", "?name: given twice"),
        ("/v1/documents", "name", "the query cannot be read"),
        ("/v1/documents", "name=%zz", "the query cannot be read"),
        ("/v1/documents", "name=%ff", "the query cannot be read"),
        ("/v1/documents", "name=%00", "name: no NUL"),
        ("/v1/documents", "version=x", "version: a whole number"),
        ("/v1/documents", "version=-1", "version: a whole number"),
        ("/v1/documents", "version=", "version: a whole number"),
        ("/v1/documents", "&".join(["name=a"] * 300), "the query cannot be read"),
        ("/v1/audit", "newest=1", "newest: true or false"),
        ("/v1/progress", "releases=a", "releases[0]: an object"),
        ("/v1/progress", "releases=a@x", "releases[0].version: a whole number"),
        ("/v1/sidecars", "sidecar_id=x", "?sidecar_id: unknown"),
        ("/v1/namespaces/a/diff", "namespace=b", "?namespace: unknown"),
        ("/v1/namespaces/A/diff", "from=1", "the path: this is not the name of a namespace"),
        ("/v1/namespaces/a%00/diff", "from=1", "namespace: no NUL"),
    ],
)
def test_queries_that_are_refused(path: str, query: str, mistake: str) -> None:
    found, values = find(path)
    with pytest.raises(Unreadable) as error:
        message(found["GET"], values, of_query(found["GET"], query))
    assert str(error.value).startswith(mistake)


def test_a_post_has_no_query() -> None:
    with pytest.raises(Unreadable, match="unknown; there are: none"):
        of_query(route("/v1/apply", "POST"), "dryRun=true")


def test_the_path_decides() -> None:
    path = "/v1/namespaces/a/rollout/pause"
    _, values = find(path)
    found = message(route(path, "POST"), values, {"reason": "x"})
    assert found == pb.SteerRequest(namespace="a", action=pb.SteerRequest.ACTION_PAUSE, reason="x")
    with pytest.raises(Unreadable, match="action: it is said by the path"):
        message(route(path, "POST"), values, {"action": "abort"})
    rejected = "/v1/proposals/x/reject"
    assert message(route(rejected, "POST"), {"id": "x"}, {}) == pb.ReviewRequest(id="x")
