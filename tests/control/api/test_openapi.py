"""The OpenAPI document is one, and what is answered is what it says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from sidecar import __version__
from sidecar.control.api import openapi, routes
from sidecar.control.api.problems import CODES
from tests.control.api.calling import document, open_api
from tests.publishing import running, sidecar

DOCUMENT: dict[str, Any] = json.loads(openapi.document())


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """A schema of the document, with what it refers to."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_it_is_one() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert DOCUMENT["info"]["version"] == __version__
    ids = [
        operation["operationId"]
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
    ]
    assert len(set(ids)) == len(ids)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert f'"#/components/schemas/{name}"' in json.dumps(DOCUMENT), f"{name} is of no use"


def test_each_route_is_in_it() -> None:
    there = {(verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    assert there == {(each.verb, each.path) for each in routes.ROUTES} | {("GET", routes.OPENAPI)}
    for route in routes.ROUTES:
        operation = DOCUMENT["paths"][route.path][route.verb.lower()]
        named = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert named == list(route.named)
        assert ("requestBody" in operation) == (route.verb == "POST")
        if route.rpc in ("Apply", "Rollback", "Review"):
            assert {"200", "202", "409", "422"} <= set(operation["responses"])


def test_what_the_path_says_is_not_in_the_body() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["SteerRequest"]["properties"]) == {"reason", "version"}
    assert set(schemas["ReviewRequest"]["properties"]) == {"reason"}
    assert "namespace" not in schemas["RollbackRequest"]["properties"]
    assert set(CODES.values()) <= set(schemas["Refusal"]["properties"]["code"]["enum"])


def schema_of(verb: str, path: str, status: int, kind: str = "application/json") -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][verb.lower()]["responses"][str(status)]
    schema: dict[str, Any] = found["content"][kind]["schema"]
    return schema


async def test_what_is_answered_is_what_it_says(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        served = await here.call.get(routes.OPENAPI)
        assert (served.status, served.body) == (200, DOCUMENT)
        assert (await here.call("HEAD", routes.OPENAPI)).text == ""
        assert (await here.call.post(routes.OPENAPI)).status == 405

        async def checked(
            verb: str, path: str, status: int, target: str = "", body: Any = None
        ) -> Any:
            sent = DOCUMENT["paths"][path][verb.lower()].get("requestBody")
            if sent is not None:
                validator(sent["content"]["application/json"]["schema"]).validate(body)
            answer = await here.call(verb, target or path, body)
            assert answer.status == status, answer.text
            validator(schema_of(verb, path, status)).validate(answer.body)
            return answer.body

        namespace = "/v1/namespaces/{namespace}/"
        ours = "/v1/namespaces/default/"
        async with running(sidecar(here.bound.grpc)):
            await checked("POST", "/v1/apply", 200, body={"documents": [document()]})
            await checked(
                "POST", "/v1/apply", 422, body={"documents": [{**document(), "spec": {}}]}
            )
            await checked(
                "POST", "/v1/apply", 409,
                body={"documents": [document(path="/a")], "baseVersions": {"default": "7"}},
            )  # fmt: skip
            canary = {
                "documents": [document(path="/b")],
                "rollout": {"stages": [{"percent": 10}, {"percent": 100}], "bake": 600},
            }
            await checked("POST", "/v1/apply", 200, body=canary)
            for action in ("pause", "resume", "abort"):
                path = f"rollout/{action}"
                await checked("POST", namespace + path, 200, ours + path, {"reason": "x"})
            withdrawal = {
                "kind": "token",
                "issuer": "https://i",
                "value": "j",
                "expires": int(time.time()) + 3600,
            }
            await checked("POST", "/v1/revocations", 200, body={"withdrawals": [withdrawal]})
            await checked("POST", namespace + "rollback", 422, ours + "rollback", {"to": 7})
            await checked("POST", "/v1/signing-keys/rotate", 200, body={})
            for path in (
                "/v1/documents", "/v1/rollouts", "/v1/proposals", "/v1/audit", "/v1/signing-keys",
                "/v1/sidecars", "/v1/revocations", "/v1/whoami",
            ):  # fmt: skip
                await checked("GET", path, 200)
            history = await checked("GET", namespace + "history", 200, ours + "history")
            assert history["entries"][0]["rollout"]["state"] == "aborted"
            diff = await checked("GET", namespace + "diff", 200, ours + "diff?from=1&to=2")
            assert diff["documents"][0]["before"]["kind"] == "AccessPolicy"


@pytest.mark.parametrize(
    ("verb", "path", "target", "status"),
    [
        ("GET", "/v1/documents", "/v1/documents?x=1", 400),
        ("GET", "/v1/whoami", "/v1/whoami", 405),
        ("GET", "/v1/namespaces/{namespace}/diff", "/v1/namespaces/default/diff?from=7", 404),
        ("POST", "/v1/namespaces/{namespace}/rollout/abort", "/v1/namespaces/a/rollout/abort", 409),
        ("POST", "/v1/proposals/{id}/approve", "/v1/proposals/x/approve", 409),
        ("POST", "/v1/revocations", "/v1/revocations", 400),
    ],
)
async def test_problems_are_what_it_says(
    tmp_path: Path, verb: str, path: str, target: str, status: int
) -> None:
    async with open_api(tmp_path) as here:
        body: Any = {} if verb == "POST" else None
        answer = await here.call("PUT" if status == 405 else verb, target, body)
        assert answer.status == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        validator(schema_of(verb, path, status, "application/problem+json")).validate(answer.body)
        assert answer.body["status"] == status
        assert answer.body["code"] == CODES[status]


def test_it_says_what_the_proto_files_say() -> None:
    fields = DOCUMENT["components"]["schemas"]["ApplyRequest"]["properties"]
    assert fields["baseVersions"]["description"].startswith("Refuse with `conflict` unless")
    assert "description" not in fields["documents"], "that speaks of bytes"
    before_now = DOCUMENT["components"]["schemas"]["Withdrawal"]["properties"]["beforeNow"]
    assert "`beforeMs`" in before_now["description"]
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert operation["operationId"] == "openapi" or operation["description"]
