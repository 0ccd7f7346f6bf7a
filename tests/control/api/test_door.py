"""The HTTP door: the same answers as gRPC, the same rights, and no 500 whatever is sent."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import grpc
import pytest
from aiohttp import ClientSession
from google.protobuf.message import Message
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.control.api import door, routes
from sidecar.control.api.messages import json_of, plain, read
from sidecar.control.authority import Unauthenticated
from sidecar.control.server import ControlPlane, Terms
from sidecar.facts.audit import Record, broken
from sidecar.facts.signing import public_key_pem
from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import AdminStub
from tests.control.api.calling import Caller, Place, connected, document, guarded_api, open_api
from tests.control.api.test_messages import without_what_is_empty
from tests.control.test_doors import IDP, PUBLISHERS, signed
from tests.postgresql import new_database
from tests.publishing import OTHER_KEY, reached, running, sidecar

# What it answers is what gRPC answers.


async def filled(here: Place) -> None:
    """Something of everything that there is to read."""
    call = here.call
    await call.post("/v1/apply", {"documents": [document(), document("q", "shop")], "message": "m"})
    changed = {"documents": [document(path="/a")], "ttl": 600}
    assert (await call.post("/v1/apply", changed)).body["outcome"] == "published"
    canary = {"documents": [document(path="/b")], "rollout": {"stages": [{"percent": 100}]}}
    assert (await call.post("/v1/apply", canary)).body["outcome"] == "published"
    withdrawn = {"kind": "subject", "issuer": IDP, "value": "a", "beforeNow": True,
                 "expires": int(time.time()) + 600}  # fmt: skip
    assert (await call.post("/v1/revocations", {"withdrawals": [withdrawn]})).status == 200
    assert (await call.post("/v1/signing-keys/rotate", {})).status == 200


READS: list[tuple[str, str, Message]] = [
    ("/v1/documents", "Get", pb.GetRequest()),
    ("/v1/documents?namespace=shop", "Get", pb.GetRequest(namespace="shop")),
    ("/v1/documents?kind=ApiKey", "Get", pb.GetRequest(kind="ApiKey")),
    ("/v1/documents?namespace=default&version=1", "Get", pb.GetRequest(namespace="default", version=1)),
    ("/v1/namespaces/default/history", "History", pb.HistoryRequest(namespace="default")),
    ("/v1/namespaces/default/history?before=2&most=1", "History",
     pb.HistoryRequest(namespace="default", before=2, most=1)),
    ("/v1/namespaces/default/diff?from=1&to=2", "Diff",
     pb.DiffRequest(namespace="default", to=2, **{"from": 1})),
    ("/v1/rollouts?active=true", "Rollouts", pb.RolloutsRequest(active=True)),
    ("/v1/proposals?all=true", "Proposals", pb.ProposalsRequest(all=True)),
    ("/v1/audit?newest=true&most=2", "Audit", pb.AuditRequest(newest=True, most=2)),
    ("/v1/signing-keys", "SigningKeys", pb.SigningKeysRequest()),
    ("/v1/sidecars?namespace=default", "Status", pb.StatusRequest(namespace="default")),
    ("/v1/revocations", "ListRevocations", pb.ListRevocationsRequest()),
    ("/v1/whoami", "WhoAmI", pb.WhoAmIRequest()),
]  # fmt: skip


async def test_every_read_is_what_grpc_says(tmp_path: Path) -> None:
    assert {rpc for _, rpc, _ in READS} | {"Watch"} == {
        each.rpc for each in routes.ROUTES if each.verb == "GET"
    }
    async with open_api(tmp_path) as here, aio.insecure_channel(here.bound.grpc) as channel:
        mine = sidecar(here.bound.grpc)
        await filled(here)
        async with running(mine):
            await mine.enforces(2)
            await reached(here.bound.grpc, lambda reach: reach.live == 1, version=2)
            for path, rpc, request in READS:
                wanted = await getattr(AdminStub(channel), rpc)(request)
                answer = await here.call.get(path)
                assert answer.status == 200, answer.text
                assert answer.body == json.loads(json_of(wanted)), path
                found = read(type(wanted), without_what_is_empty(answer.body))
                assert found == wanted, path
                head = await here.call("HEAD", path)
                assert (head.status, head.text) == (200, "")


async def test_publishing_and_going_back(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        call = here.call
        dry = await call.post("/v1/apply", {"documents": [document()], "dryRun": True})
        assert (dry.status, dry.body["outcome"]) == (200, "would_publish")
        assert dry.body["manifests"]
        made = await call.post("/v1/apply", {"documents": [document()]})
        assert (made.status, made.body["outcome"]) == (200, "published")
        assert made.body["changes"] == [{"what": "added", "document": "AccessPolicy/default/p"}]
        again = await call.post("/v1/apply", {"documents": [document()]})
        assert (again.status, again.body["outcome"]) == (200, "unchanged")
        based = {"documents": [document(path="/b")], "baseVersions": {"default": 1}}
        assert (await call.post("/v1/apply", based)).status == 200
        late = await call.post("/v1/apply", based)
        assert (late.status, late.body["outcome"]) == (409, "conflict")
        assert late.body["releases"][0]["version"] == 2
        back = await call.post("/v1/namespaces/default/rollback", {"message": "oh"})
        assert (back.status, back.body["releases"][0]["version"]) == (200, 3)
        diff = await call.get("/v1/namespaces/default/diff?from=1&to=3")
        assert diff.body == {"changes": [], "effects": [], "documents": []}
        pruned = {"namespaces": ["default"], "prune": True}
        assert (await call.post("/v1/apply", pruned)).body["changes"][0]["what"] == "removed"
        [gone] = (await call.get("/v1/namespaces/default/diff?from=3&to=4")).body["documents"]
        assert (gone["before"]["kind"], gone["after"]) == ("AccessPolicy", None)


async def test_documents_are_read_as_apply_reads_them(tmp_path: Path) -> None:
    """In any order, with defaults filled in, and with every mistake told with its place."""
    async with open_api(tmp_path) as here:
        call = here.call
        shuffled = {
            "spec": {"rules": [{"match": {"paths": ["/"]}, "name": "r"}]}, "kind": "AccessPolicy",
            "metadata": {"name": "p"}, "apiVersion": "authz.sidecar/v1",
        }  # fmt: skip
        assert (await call.post("/v1/apply", {"documents": [shuffled]})).status == 200
        same = await call.post("/v1/apply", {"documents": [document()]})
        assert same.body["outcome"] == "unchanged"
        wrong = [
            document("a") | {"spec": {"rules": [{"name": "r", "whem": "true"}]}},
            document("b") | {"kind": "AccesPolicy"},
            document("c") | {"apiVersion": "v0"},
            document("d") | {"spec": {"rules": [{"name": "r", "when": "nope.x"}]}},
            {},
        ]
        answer = await call.post("/v1/apply", {"documents": wrong})
        assert (answer.status, answer.body["outcome"]) == (422, "refused")
        told = {(each["document"], each["pointer"]): each for each in answer.body["problems"]}
        mistake = told["AccessPolicy/default/a", "spec.rules[0].whem"]
        assert mistake["hint"] == "did you mean when?"
        assert {pointer for _, pointer in told} >= {"kind", "apiVersion"}
        unsound = await call.post("/v1/apply", {"documents": [wrong[3]]})
        assert (unsound.status, unsound.body["problems"][0]["pointer"]) == (
            422,
            "spec.rules[0].when",
        )


async def test_a_file_in_a_document_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"keys": []}')
    issuer = {
        "apiVersion": "authz.sidecar/v1", "kind": "TokenIssuer", "metadata": {"name": "i"},
        "spec": {"issuer": IDP, "audiences": ["a"], "jwks": {"file": str(secret)}},
    }  # fmt: skip
    async with open_api(tmp_path) as here:
        answer = await here.call.post("/v1/apply", {"documents": [issuer]})
        assert answer.status == 422, answer.text


async def test_a_second_person(tmp_path: Path) -> None:
    terms = Terms(approvals=frozenset(["default"]))
    async with guarded_api(tmp_path, terms=terms) as here:
        publisher, approver = here.call.as_("publisher"), here.call.as_("approver")
        asked = await publisher.post("/v1/apply", {"documents": [document()]})
        assert (asked.status, asked.body["outcome"]) == (202, "awaits_approval")
        path = f"/v1/proposals/{asked.body['proposal']}/"
        [waits] = (await approver.get("/v1/proposals")).body["proposals"]
        assert not waits.get("documents")
        [whole] = (await approver.get(f"/v1/proposals?id={waits['id']}")).body["proposals"]
        assert [each["after"]["kind"] for each in whole["documents"]] == ["AccessPolicy"]
        assert (await approver.get("/v1/proposals?id=%00")).status in (400, 404)
        assert (waits["state"], waits["author"]) == ("open", f"{IDP}#publisher")
        assert (await publisher.post(path + "approve")).status == 403
        done = await approver.post(path + "approve", {"reason": "fine"})
        assert (done.status, done.body["outcome"]) == (200, "published")
        twice = await approver.post(path + "reject")
        assert (twice.status, twice.body["code"]) == (409, "conflict")


async def test_keys_and_the_audit_trail(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        call = here.call
        pem = public_key_pem(OTHER_KEY.public_key().public_bytes_raw()).decode()
        made = await call.post("/v1/signing-keys", {"publicKey": pem, "name": "ci"})
        assert made.status == 200, made.text
        named = [(each["kind"], each["name"], each["pem"]) for each in made.body["keys"]]
        assert named[-1] == ("delegated", "ci", pem)
        none = await call.post("/v1/signing-keys", {"publicKey": "x", "name": "ci"})
        assert (none.status, none.body["code"]) == (400, "invalid_request")
        trail = (await call.get("/v1/audit")).body
        records = [
            Record(each["number"], each["content"].encode(), base64.b64decode(each["hash"]))
            for each in trail["records"]
        ]
        head, wrong = broken(records)
        assert (head.number, wrong) == (1, ""), "what is hashed comes through as it is"
        assert head.hash == base64.b64decode(trail["headHash"])
        assert json.loads(records[0].content)["action"] == "delegate-signing"


# Who may.


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda each: f"{each.verb} {each.path}")
async def test_nobody_comes_in_without_a_credential(tmp_path: Path, route: routes.Route) -> None:
    path = route.path.format(namespace="default", id="x")
    async with guarded_api(tmp_path) as here:
        nobody = await here.call(
            route.verb, path, b"no JSON, and not read" if route.verb == "POST" else None
        )
        assert (nobody.status, nobody.body["code"]) == (401, "authentication_required")
        assert nobody.headers["www-authenticate"] == 'Bearer realm="sidecar control plane"'
        stranger = await here.call.as_("mallory")(
            route.verb, path, {} if route.verb == "POST" else None
        )
        assert (stranger.status, stranger.body["code"]) == (403, "denied")


async def test_what_does_not_stand_is_counted_and_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded_api(tmp_path) as here:
        for shown, why in (
            (f"Bearer {signed('admin', aud='bank')}", "for another audience"),
            (f"Bearer {signed('admin', exp=-60)}", "expired"),
            (f"Bearer {signed('admin', header={'key': 'stranger'})}", "signature is not valid"),
            ("Bearer nonsense", "not a JWT"),
            ("Basic YTpi", "Bearer token is expected"),
            ("", "Bearer token is expected"),
        ):
            answer = await here.call.get("/v1/whoami", authorization=shown)
            assert answer.status == 401
            assert why in answer.body["detail"]
            assert answer.headers["www-authenticate"].endswith(', error="invalid_token"')
            assert not shown or shown.split()[-1] not in answer.text + caplog.text
        two = b"".join(
            f"authorization: Bearer {signed(each)}\r\n".encode() for each in ("viewer", "admin")
        )
        head = b"GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\n"
        async with connected(here.call, head + two + b"\r\n") as reader:
            assert b" 401 " in await reader.readline(), "of two neither stands"
        page = (await here.call.get("/metrics")).text
        assert 'sidecar_control_calls_refused_total{reason="signature_invalid"} 1.0' in page
        assert 'sidecar_control_calls_refused_total{reason="scheme"} 3.0' in page
    assert "refused /sidecar.v1.Admin/WhoAmI to 127.0.0.1:" in caplog.text


async def test_guessing_is_slowed(tmp_path: Path) -> None:
    async with guarded_api(tmp_path) as here:
        statuses = [
            (await here.call.get("/v1/whoami", authorization=f"Bearer x{each}")).status
            for each in range(150)
        ]
        assert statuses[0] == 401
        assert 429 in statuses
        last = await here.call.get("/v1/whoami", authorization="Bearer x")
        if last.status == 429:
            assert int(last.headers["retry-after"]) > 0


async def test_roles_and_their_limits(tmp_path: Path) -> None:
    file = PUBLISHERS + (
        f'- {{who: {{issuer: "{IDP}", subject: keys}}, role: publisher, kinds: [ApiKey]}}\n'
    )
    async with guarded_api(tmp_path, file) as here:

        def by(subject: str) -> Caller:
            return here.call.as_(subject)

        assert (await by("publisher").post("/v1/apply", {"documents": [document()]})).status == 200
        elsewhere = {"documents": [document(namespace="shop")]}
        refused = await by("publisher").post("/v1/apply", elsewhere)
        assert refused.status == 403
        assert "role publisher for AccessPolicy in namespace shop" in refused.body["detail"]
        assert (await by("keys").post("/v1/apply", elsewhere)).status == 403, "of another kind"
        assert (await by("everywhere").post("/v1/apply", elsewhere)).status == 200
        assert (await by("viewer").post("/v1/apply", elsewhere)).status == 403
        assert len((await by("viewer").get("/v1/documents")).body["documents"]) == 2
        assert (await by("publisher").get("/v1/documents")).body["releases"][0][
            "namespace"
        ] == "default"
        assert (await by("publisher").get("/v1/namespaces/shop/history")).status == 403
        assert (await by("keys").get("/v1/documents")).body["documents"] == []
        for path in ("/v1/audit", "/v1/revocations"):
            assert (await by("viewer").get(path)).status == 403
        assert (await by("admin").get("/v1/audit")).status == 200
        for subject, status in (("everywhere", 403), ("admin", 200)):
            assert (await by(subject).post("/v1/signing-keys/rotate")).status == status
        me = (await by("publisher").get("/v1/whoami")).body
        assert me["name"] == f"{IDP}#publisher"
        assert me["permissions"][0]["namespaces"] == ["default"]


# Browsers.


async def test_pages_reach_nothing(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        for headers in (
            {"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"},
            {"host": "evil.example"}, {"x_forwarded_for": "1.2.3.4"},
        ):  # fmt: skip
            for verb, path in (("POST", "/v1/signing-keys/rotate"), ("GET", "/v1/documents"),
                               ("GET", routes.OPENAPI), ("GET", "/v1/nothing")):  # fmt: skip
                answer = await here.call(verb, path, {} if verb == "POST" else None, **headers)
                assert answer.status in (403, 421), (headers, path)
        assert len((await here.call.get("/v1/signing-keys")).body["keys"]) == 1
        asked = await here.call(
            "OPTIONS", "/v1/apply", access_control_request_method="POST",
            access_control_request_headers="content-type",
        )  # fmt: skip
        assert asked.status == 405
        ours = await here.call.get("/v1/whoami")
        for answer in (asked, ours):
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert "set-cookie" not in answer.headers
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("PUT", "/v1/apply", "POST"), ("GET", "/v1/apply", "POST"), ("HEAD", "/v1/apply", "POST"),
        ("POST", "/v1/documents", "GET, HEAD"), ("DELETE", "/v1/revocations", "POST, GET, HEAD"),
        ("HEAD", "/v1/progress", "GET"), ("PATCH", "/v1/whoami", "GET, HEAD"),
    ],
)  # fmt: skip
async def test_methods(tmp_path: Path, verb: str, path: str, allowed: str) -> None:
    async with open_api(tmp_path) as here:
        answer = await here.call(verb, path)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


async def test_what_is_not_there(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        for path in ("/v1/", "/v1/nothing", "/v1/apply/", "/v1/namespaces/a/b/diff"):
            answer = await here.call.get(path)
            assert (answer.status, answer.body["code"]) == (404, "not_found")
        with_body = await here.call("GET", "/v1/whoami", {})
        assert (with_body.status, with_body.body["detail"]) == (400, "no body is expected")


async def test_beyond_loopback_http_has_no_api(tmp_path: Path) -> None:
    control = ControlPlane()
    bound = await control.start("127.0.0.1:0", "0.0.0.0:0", f"sqlite:///{tmp_path / 'store.db'}")
    try:
        async with ClientSession() as session:
            call = Caller(session, f"http://127.0.0.1:{bound.http.rpartition(':')[2]}")
            for path in ("/v1/whoami", routes.OPENAPI):
                assert (await call.get(path)).status == 404
            assert (await call.post("/v1/apply")).status == 404
            assert (await call.get("/readyz")).status == 200
    finally:
        await control.stop()


# What the service says, in HTTP's words.


class Saying:
    """Ends each call with what a test wants."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.error: Exception | None = None
        self.answer = pb.WhoAmIResponse()
        self.waits = asyncio.Event()
        self.waits.set()

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        await self.waits.wait()
        if self.code is not None:
            await context.abort(self.code, "as a test says")
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
async def saying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service that says what a test wants, and who calls it."""
    from sidecar.control import server

    service = Saying()
    made = door.Api

    def api(_admin: Any, *args: Any, **settings: Any) -> door.Api:
        return made(cast(Any, service), *args, **settings)

    monkeypatch.setattr(server, "Api", api)
    async with open_api(tmp_path) as here:
        yield service, here.call


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, 403, "denied"),
        (grpc.StatusCode.UNAUTHENTICATED, 401, "invalid_token"),
        (grpc.StatusCode.NOT_FOUND, 404, "not_found"),
        (grpc.StatusCode.FAILED_PRECONDITION, 409, "conflict"),
        (grpc.StatusCode.INVALID_ARGUMENT, 400, "invalid_request"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "too_many"),
        (grpc.StatusCode.ABORTED, 503, "unavailable"),
        (grpc.StatusCode.UNKNOWN, 500, "internal"),
        (grpc.StatusCode.INTERNAL, 500, "internal"),
        (grpc.StatusCode.OK, 500, "internal"),
    ],
)
async def test_codes(saying: Any, code: grpc.StatusCode, status: int, name: str) -> None:
    service, call = saying
    service.code = code
    answer = await call.get("/v1/whoami")
    assert (answer.status, answer.body["code"], answer.body["status"]) == (status, name, status)
    assert ("as a test says" in answer.text) == (status != 500)
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert ("retry-after" in answer.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("secret"), TimeoutError("secret"), ConnectionError("secret"),
              Unauthenticated("secret"), KeyError("secret")],
)  # fmt: skip
async def test_errors_of_ours_are_told_to_the_log_alone(
    saying: Any, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    service, call = saying
    service.error = error
    answer = await call.get("/v1/whoami")
    assert (answer.status, answer.body["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "WhoAmI failed" in caplog.text


async def test_calls_are_bounded(saying: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service, call = saying
    monkeypatch.setattr(door, "AT_ONCE", 2)
    service.waits.clear()
    held = [asyncio.create_task(call.get("/v1/whoami")) for _ in range(3)]
    done, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
    [refused] = [each.result() for each in done]
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    service.waits.set()
    assert sorted([(await each).status for each in held]) == [200, 200, 503]
    assert (await call.get("/v1/whoami")).status == 200


async def test_a_call_that_takes_too_long_may_still_be_done(
    saying: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, call = saying
    monkeypatch.setattr(door, "WITHIN", 0.01)
    service.waits.clear()
    answer = await call.get("/v1/whoami")
    assert (answer.status, answer.body["code"]) == (504, "unknown_outcome")


async def test_large_answers_are_the_same(saying: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service, call = saying
    monkeypatch.setattr(door, "LARGE", 10)
    service.answer = pb.WhoAmIResponse(name="x" * 100)
    assert (await call.get("/v1/whoami")).body == plain(service.answer)


# Whatever is sent.


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["default", "shop", "token", "p", IDP]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def bodies(route: routes.Route) -> st.SearchStrategy[bytes]:
    """Of members that there are, with values that fit and that do not."""
    names = [each.json_name for each in route.open_fields]
    inner = {
        "documents": st.lists(st.just(document()) | st.dictionaries(st.sampled_from(["kind", "metadata", "spec", "apiVersion"]), JSON), max_size=2),
        "withdrawals": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "kind": st.sampled_from(["token", "session", "subject", "key"]),
                    "issuer": st.text(max_size=6), "value": st.text(max_size=6),
                    "beforeMs": st.integers(-(2**63), 2**63 - 1),
                    "expires": st.integers(-(2**63), 2**63 - 1) | st.just(int(time.time()) + 60),
                    "beforeNow": st.booleans(),
                },
            ), max_size=2,
        ),
        "rollout": st.fixed_dictionaries(
            {"stages": st.lists(st.fixed_dictionaries({}, optional={"percent": st.floats(), "labels": st.dictionaries(st.text(max_size=3), st.text(max_size=3))}), max_size=3)},
            optional={"bake": st.integers(0, 2**32 - 1), "minRequests": st.integers(0, 2**32 - 1)},
        ),
        "manifests": st.lists(st.fixed_dictionaries({"manifest": st.sampled_from(["", "e30=", "AAAA"])}), max_size=2),
        "to": st.integers(0, 2**64), "version": st.integers(0, 2**64), "ttl": st.integers(0, 2**64),
        "baseVersions": st.dictionaries(st.text(max_size=4) | st.just("default"), st.integers(0, 2**64), max_size=2),
    }  # fmt: skip
    members = st.fixed_dictionaries(
        {}, optional={name: inner.get(name, JSON) | JSON for name in [*names, "x"]}
    )
    return (members | JSON).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def living(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Caller]]:
    """One control plane for all examples, on a loop of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('living') / 'store.db'}"
    if request.param == "postgresql":
        url = new_database()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()
    begun: asyncio.Future[Caller] = loop.create_future()

    async def live() -> None:
        control = ControlPlane()
        bound = await control.start("127.0.0.1:0", "127.0.0.1:0", url)
        async with ClientSession() as session:
            call = Caller(session, f"http://{bound.http}")
            await call.post("/v1/apply", {"documents": [document()]})
            begun.set_result(call)
            await ending.wait()
        await control.stop()

    living = loop.create_task(live())
    call = loop.run_until_complete(begun)
    yield loop, call
    ending.set()
    loop.run_until_complete(living)
    loop.close()


POSTS = [each for each in routes.ROUTES if each.verb == "POST"]
GETS = [each for each in routes.ROUTES if each.verb == "GET" and not each.streams]
FUZZ = settings(
    deadline=None, max_examples=250,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip


@FUZZ
@given(st.data())
def test_no_body_makes_an_error_of_ours(living: tuple[Any, Caller], data: st.DataObject) -> None:
    loop, call = living
    route = data.draw(st.sampled_from(POSTS))
    path = route.path.format(namespace="default", id="abc")
    answer = loop.run_until_complete(call("POST", path, data.draw(bodies(route))))
    assert answer.status < 500, answer.text
    json.loads(answer.text)


@FUZZ
@given(st.data())
def test_no_query_makes_an_error_of_ours(living: tuple[Any, Caller], data: st.DataObject) -> None:
    loop, call = living
    route = data.draw(st.sampled_from(GETS))
    namespace = data.draw(st.just("default") | st.text(min_size=1, max_size=5))
    path = route.path.format(namespace=quote(namespace, safe="", errors="replace"), id="x")
    names = st.sampled_from([*(each.json_name for each in route.open_fields), "x"])
    values = (
        st.integers(-1, 2**64).map(str) | st.text(max_size=5) | st.sampled_from(["true", "default"])
    )
    pairs = data.draw(
        st.lists(st.tuples(names, values), max_size=4, unique_by=lambda each: each[0])
    )
    query = urlencode([(name, value.encode(errors="replace")) for name, value in pairs])
    answer = loop.run_until_complete(call.get(f"{path}?{query}"))
    assert answer.status in (200, 400, 404, 409), answer.text
    json.loads(answer.text)
