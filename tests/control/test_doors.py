"""Who comes in at `--listen`: real gRPC over TLS, real tokens and certificates; and what it refuses
to begin with."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
from aiohttp import ClientSession
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.control.authority import (
    ANYBODY,
    Caller,
    Forbidden,
    Permission,
    Role,
    Unauthenticated,
    acting,
    current,
)
from sidecar.control.certificates import ServerCertificates
from sidecar.control.credentials import Authority
from sidecar.control.doors import ADMIN, METHODS, SUBJECTS, Doorkeeper, Guard, admitted
from sidecar.control.publisher_listener import PublisherListener, check
from sidecar.control.server import Bound, ControlPlane
from sidecar.errors import ControlPlaneRefused, ControlPlaneUnreachable, Misuse
from sidecar.facts.admin import AdminClient
from sidecar.facts.server import Server
from sidecar.facts.subjects_admin import SubjectsClient
from sidecar.wire import admin_pb2, discovery_pb2, subject_pb2
from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import (
    AdminServicer,
    AdminStub,
    add_AdminServicer_to_server,
)
from sidecar.wire.discovery_pb2_grpc import DiscoveryStub
from tests import certificates
from tests.casebook import jwks, token
from tests.publishing import WITHIN, policy

IDP = "https://idp.example"
PUBLISHERS = f"""issuers:
- issuer: {IDP}
  audience: sidecar-control-plane
  jwks: {{inline: {json.dumps(jwks())}}}
permissions:
- {{who: {{issuer: "{IDP}", subject: viewer}}, role: viewer}}
- {{who: {{issuer: "{IDP}", subject: publisher}}, role: publisher, namespaces: [default]}}
- {{who: {{issuer: "{IDP}", subject: everywhere}}, role: publisher}}
- {{who: {{issuer: "{IDP}", subject: approver}}, role: approver, namespaces: [default]}}
- {{who: {{issuer: "{IDP}", subject: admin}}, role: admin}}
- {{who: {{issuer: "{IDP}", subject: support}}, role: viewer, customers: true}}
- {{who: {{spiffe: spiffe://prod/ns/ci/sa/deploy}}, role: publisher}}
- {{who: {{certificate: deploy.ci.example}}, role: viewer}}
"""


def signed(subject: str, **more: Any) -> str:
    claims = {"sub": subject, "aud": "sidecar-control-plane", **more}
    header = claims.pop("header", None)
    return token(time.time(), claims, header)


@dataclass(frozen=True)
class Place:
    """A control plane behind its doors, and what its clients need."""

    bound: Bound
    folder: Path
    ca: Path
    authority: certificates.Authority

    def server(self, subject: str = "", address: str = "", **more: Any) -> Server:
        port = (address or self.bound.grpc).rpartition(":")[2]
        found = Server(f"localhost:{port}", ca=self.ca, timeout=WITHIN, **more)
        if not subject:
            return found
        file = self.folder / f"{subject}.token"
        file.write_text(signed(subject) + "\n")
        return replace(found, token_file=file)

    def client(self, subject: str = "", **more: Any) -> AdminClient:
        return AdminClient(self.server(subject, **more))

    async def metrics(self) -> str:
        async with (
            ClientSession() as session,
            session.get(f"http://{self.bound.http}/metrics") as page,
        ):
            return await page.text()


@asynccontextmanager
async def place(
    folder: Path,
    *,
    mtls: bool = False,
    both: bool = False,
    listen: str = "127.0.0.1:0",
    second: str = "127.0.0.1:0",
) -> AsyncIterator[Place]:
    """With tokens; `mtls`: with certificates of everybody; `both`: at an address of its own."""
    ca = certificates.Authority()
    pem = ca.write(folder)
    pair = ca.issue().write(folder, "server")
    file = folder / "publishers.yaml"
    file.write_text(PUBLISHERS)
    asking = ServerCertificates(*pair, pem)
    listener = PublisherListener(
        Authority(file),
        asking if mtls else ServerCertificates(*pair, None),
        (second, asking) if both else None,
    )
    control = ControlPlane()
    bound = await control.start(
        listen, "127.0.0.1:0", f"sqlite:///{folder / 'store.db'}", publishers=listener
    )
    try:
        yield Place(bound, folder, pem, ca)
    finally:
        await control.stop()


DOCUMENT = pb.ApplyRequest(documents=[policy().canonical])


async def denied(client: AdminClient, request: pb.ApplyRequest = DOCUMENT) -> str:
    async with client:
        with pytest.raises(ControlPlaneRefused) as error:
            await client.apply(request)
    return str(error.value)


async def test_tokens_over_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with place(tmp_path) as here:
        async with here.client("publisher") as client:
            assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
        async with here.client("viewer") as client:
            found = await client.get(pb.GetRequest())
            assert len(found.documents) == 1
            wanted = [pb.Release(namespace="default", version=1)]
            async for reaches in client.watch(wanted, within=WITHIN):
                assert reaches[0].version == 1
                break
            said = await denied(here.client("viewer"))
            assert f"{IDP}#viewer lacks role publisher for AccessPolicy in namespace" in said
            assert "--publishers file" in said
            with pytest.raises(ControlPlaneRefused, match="role publisher or admin for every"):
                await client.revoke(pb.RevokeRequest())
            with pytest.raises(ControlPlaneRefused, match="no permission"):
                async with here.client("mallory") as stranger:
                    await stranger.get(pb.GetRequest())
        page = await here.metrics()
        assert 'sidecar_control_calls_refused_total{reason="forbidden"} 3.0' in page
        assert 'sidecar_control_insecure{setting="insecure_unauthenticated"} 0.0' in page
        assert "sidecar_control_publishers_current 1.0" in page
    assert f"refused {ADMIN}Revoke to 127.0.0.1:" in caplog.text


async def test_nobody_comes_in_without_a_credential(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(tmp_path) as here:
        said = await denied(here.client())
        assert "--server-token-file FILE" in said
        file = tmp_path / "x.token"
        for shown, why in (
            (signed("admin", aud="bank"), "for another audience"),
            (signed("admin", exp=-60), "expired"),
            (signed("admin", header={"key": "stranger"}), "signature is not valid"),
            ("nonsense", "not a JWT"),
        ):
            file.write_text(shown)
            said = await denied(here.client(token_file=file))
            assert why in said
            assert f"Renew the token in {file}" in said
            assert shown not in said + caplog.text
        async with here.client() as client:
            with pytest.raises(ControlPlaneRefused):
                async for _ in client.watch([], within=WITHIN):
                    pass
        page = await here.metrics()
        assert 'sidecar_control_calls_refused_total{reason="missing"} 2.0' in page
        assert 'sidecar_control_calls_refused_total{reason="signature_invalid"} 1.0' in page


async def test_two_credentials_in_one_call_are_none(tmp_path: Path) -> None:
    async with place(tmp_path) as here, channel(here) as open_:
        for both in ((signed("viewer"), signed("admin")), (signed("admin"), "x")):
            with pytest.raises(aio.AioRpcError) as error:
                await AdminStub(open_).Get(
                    pb.GetRequest(), metadata=[("authorization", f"Bearer {one}") for one in both]
                )
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_limits_hold_behind_the_door_too(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        async with here.client("publisher") as client:
            found = await client.who_am_i()
            assert (found.name, found.permissions[0].role) == (f"{IDP}#publisher", "publisher")
            assert list(found.permissions[0].namespaces) == ["default"]
            assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
        elsewhere = pb.ApplyRequest(documents=[policy(namespace="shop").canonical])
        assert "role publisher for AccessPolicy in namespace shop" in await denied(
            here.client("publisher"), elsewhere
        )
        both = pb.ApplyRequest(
            documents=[policy(when="false").canonical, policy(namespace="platform").canonical]
        )
        assert "in namespace platform" in await denied(here.client("publisher"), both)
        async with here.client("viewer") as client:
            [left] = (await client.get(pb.GetRequest())).documents
            assert b"true" in left, "all or nothing"


async def test_what_others_roll_out_hides_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as here, here.client("admin") as admin:
        stages = pb.RolloutPlan(stages=[pb.Stage(percent=10), pb.Stage(percent=100)])
        for namespace in ("default", "shop"):
            for path, rollout in (("/1", None), ("/2", stages)):
                text = policy(namespace=namespace, path=path).canonical
                await admin.apply(pb.ApplyRequest(documents=[text], rollout=rollout))
        newest = pb.RolloutsRequest(most=1)
        assert [each.namespace for each in (await admin.rollouts(newest)).rollouts] == ["shop"]
        async with here.client("publisher") as client:
            mine = (await client.rollouts(newest)).rollouts
            assert [each.namespace for each in mine] == ["default"]
            with pytest.raises(ControlPlaneRefused, match="namespace shop"):
                await client.rollouts(pb.RolloutsRequest(namespace="shop"))


@asynccontextmanager
async def channel(here: Place, *, plain: bool = False) -> AsyncIterator[aio.Channel]:
    port = here.bound.grpc.rpartition(":")[2]
    made = (
        aio.insecure_channel(f"localhost:{port}")
        if plain
        else aio.secure_channel(
            f"localhost:{port}", grpc.ssl_channel_credentials(here.authority.pem)
        )
    )
    async with made:
        yield made


async def test_customers_are_for_who_may_see_them(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        request = subject_pb2.ShowSubjectRequest(name=subject_pb2.SubjectName(customer="cus_x"))
        for subject in ("publisher", "everywhere", "approver", "viewer"):
            async with SubjectsClient(here.server(subject)) as client:
                with pytest.raises(ControlPlaneRefused, match="customers: true"):
                    await client.show(request)
        for subject in ("support", "admin"):
            async with SubjectsClient(here.server(subject)) as client:
                with pytest.raises(Misuse):  # no such customer
                    await client.show(request)


async def test_health_is_open_and_reflection_is_not(tmp_path: Path) -> None:
    async with place(tmp_path) as here, channel(here) as open_:
        healthy = await health_pb2_grpc.HealthStub(open_).Check(health_pb2.HealthCheckRequest())
        assert healthy.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(open_)
        asked = reflection_pb2.ServerReflectionRequest(list_services="*")

        async def services(*shown: str) -> list[str]:
            call = stub.ServerReflectionInfo(
                iter([asked]), metadata=[("authorization", f"Bearer {one}") for one in shown]
            )
            async for answer in call:
                return [each.name for each in answer.list_services_response.service]
            return []

        with pytest.raises(aio.AioRpcError) as error:
            await services()
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "sidecar.v1.Admin" in await services(signed("viewer"))


async def test_unknown_methods_are_nobodys(tmp_path: Path) -> None:
    async with place(tmp_path) as here, channel(here) as open_:
        for shown in ((), [("authorization", f"Bearer {signed('admin')}")]):
            with pytest.raises(aio.AioRpcError) as error:
                await open_.unary_unary(f"{ADMIN}Format", None, None)(b"", metadata=shown)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_of_nobodys_is_not_read(tmp_path: Path) -> None:
    """One that is no message at all is refused for who sent it, not for what it is."""
    async with place(tmp_path) as here, channel(here) as open_:
        apply = open_.unary_unary(f"{ADMIN}Apply", None, None)
        with pytest.raises(aio.AioRpcError) as error:
            await apply(b"\xff" * 1_000_000)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        none = open_.stream_unary(f"{ADMIN}Get", None, None)
        shown = [("authorization", f"Bearer {signed('viewer')}")]
        with pytest.raises(aio.AioRpcError) as error:
            await none(iter([]), metadata=shown)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_certificates(tmp_path: Path) -> None:
    async with place(tmp_path, mtls=True) as here:
        spiffe = here.authority.issue("x", "spiffe://prod/ns/ci/sa/deploy").write(tmp_path, "ci")
        async with here.client(cert=spiffe[0], key=spiffe[1]) as client:
            assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
        named = here.authority.issue("x", "deploy.ci.example").write(tmp_path, "named")
        said = await denied(here.client(cert=named[0], key=named[1]))
        assert "dns:deploy.ci.example lacks role publisher" in said
        common = here.authority.issue("deploy.ci.example", "10.0.0.1").write(tmp_path, "common")
        assert "common name does not count" in await denied(
            here.client(cert=common[0], key=common[1])
        )
        # With a token as well, the token counts.
        async with here.client("admin", cert=common[0], key=common[1]) as client:
            assert (await client.get(pb.GetRequest())).documents


async def test_other_authorities_certificates_and_none_do_not_connect(tmp_path: Path) -> None:
    async with place(tmp_path, mtls=True) as here:
        other = certificates.Authority().issue("x", "spiffe://prod/ns/ci/sa/deploy")
        pair = other.write(tmp_path, "other")
        over = here.authority.issue("x", "spiffe://prod/ns/ci/sa/deploy", days=1, since=-2)
        expired = over.write(tmp_path, "expired")
        shown: list[dict[str, Any]] = [
            {"cert": pair[0], "key": pair[1]},
            {"cert": expired[0], "key": expired[1]},
            {},
        ]
        for each in shown:
            async with here.client(**each) as client:
                with pytest.raises(ControlPlaneUnreachable):
                    await client.get(pb.GetRequest())


async def test_tokens_and_certificates_at_addresses_of_their_own(tmp_path: Path) -> None:
    async with place(tmp_path, both=True) as here:
        async with here.client("viewer") as client:
            await client.get(pb.GetRequest())
        cert, key = here.authority.issue("x", "spiffe://prod/ns/ci/sa/deploy").write(tmp_path, "c")
        async with here.client(address=here.bound.mtls, cert=cert, key=key) as client:
            assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
        assert "--server-token-file" in await denied(here.client(cert=cert, key=key)), (
            "nobody is asked for a certificate there"
        )
        async with here.client("viewer", address=here.bound.mtls) as client:
            with pytest.raises(ControlPlaneUnreachable):
                await client.get(pb.GetRequest())


async def test_a_client_that_trusts_another_authority_sends_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        other = certificates.Authority().write(tmp_path, "other-ca")
        async with AdminClient(replace(here.server("admin"), ca=other)) as client:
            with pytest.raises(ControlPlaneUnreachable, match="vouch for its certificate"):
                await client.apply(DOCUMENT)
        async with AdminClient(here.bound.grpc, timeout=WITHIN) as client:
            with pytest.raises(ControlPlaneUnreachable, match="give --server-ca FILE"):
                await client.apply(DOCUMENT)


async def test_a_new_file_counts_without_a_restart(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        assert "lacks role publisher" in await denied(here.client("viewer"))
        file = tmp_path / "new.yaml"
        file.write_text(
            PUBLISHERS.replace(
                "subject: viewer}, role: viewer", "subject: viewer}, role: publisher"
            )
        )
        file.replace(tmp_path / "publishers.yaml")
        async with here.client("viewer") as client:
            assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
        (tmp_path / "publishers.yaml").write_text("nonsense")
        async with here.client("viewer") as client:
            await client.get(pb.GetRequest())
        assert "sidecar_control_publishers_current 0.0" in await here.metrics()


async def test_a_token_is_read_for_each_call(tmp_path: Path) -> None:
    async with place(tmp_path) as here, here.client("viewer") as client:
        await client.get(pb.GetRequest())
        (tmp_path / "viewer.token").write_text(signed("mallory"))
        with pytest.raises(ControlPlaneRefused, match="#mallory"):
            await client.get(pb.GetRequest())
        (tmp_path / "viewer.token").write_text("\n")
        with pytest.raises(Misuse, match="holds no token"):
            await client.get(pb.GetRequest())


async def test_on_loopback_plain_text_with_tokens(tmp_path: Path) -> None:
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)
    control = ControlPlane()
    bound = await control.start(
        "127.0.0.1:0", None, f"sqlite:///{tmp_path / 'store.db'}",
        publishers=PublisherListener(Authority(file)),
    )  # fmt: skip
    try:
        (tmp_path / "t").write_text(signed("publisher"))
        async with AdminClient(Server(bound.grpc, token_file=tmp_path / "t")) as client:
            assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
        assert "who calls" in await denied(AdminClient(bound.grpc, timeout=WITHIN))
        async with aio.insecure_channel(bound.grpc) as open_:  # sidecars come as before
            call = DiscoveryStub(open_).Stream(
                iter([discovery_pb2.FromSidecar(ack=discovery_pb2.Ack())])
            )
            with pytest.raises(aio.AioRpcError) as error:
                async for _ in call:
                    pass
            assert error.value.details() == "the first message must be a Hello"
    finally:
        await control.stop()


@pytest.mark.parametrize(
    "where", [{"listen": "0.0.0.0:0"}, {"both": True, "second": "0.0.0.0:0"}], ids=str
)
async def test_beyond_loopback_sidecars_are_sent_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: dict[str, Any]
) -> None:
    with caplog.at_level(logging.INFO):
        async with place(tmp_path, **where) as here, channel(here) as open_:
            async with here.client("publisher") as client:
                assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
            call = DiscoveryStub(open_).Stream(iter([discovery_pb2.FromSidecar()]))
            with pytest.raises(aio.AioRpcError) as error:
                async for _ in call:
                    pass
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "--fleet-listen" in str(error.value.details())
    assert "no sidecars are served at " in caplog.text
    assert "0.0.0.0:0: they come to --fleet-listen" in caplog.text


async def test_the_insecure_setting_shows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    control = ControlPlane()
    bound = await control.start(
        "0.0.0.0:0", "127.0.0.1:0", f"sqlite:///{tmp_path / 'store.db'}",
        insecure_unauthenticated=True,
    )  # fmt: skip
    try:
        page = await Place(bound, tmp_path, tmp_path, certificates.Authority()).metrics()
        assert 'sidecar_control_insecure{setting="insecure_unauthenticated"} 1.0' in page
        assert "insecure_unauthenticated: anybody who reaches" in caplog.text
        async with AdminClient(bound.grpc, timeout=WITHIN) as client:
            assert (await client.apply(DOCUMENT)).outcome == pb.OUTCOME_PUBLISHED
    finally:
        await control.stop()


def test_what_it_refuses_to_begin_with(tmp_path: Path) -> None:
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)
    tokens = Authority(file)
    file.write_text("permissions:\n- {who: {spiffe: spiffe://p/a}, role: admin}\n")
    only_certificates = Authority(file)
    pem = certificates.Authority().write(tmp_path)
    shown, asking = (ServerCertificates(pem, pem, ca) for ca in (None, pem))

    def begin(listen: str, *parts: Any, insecure: bool = False) -> str:
        try:
            check(listen, PublisherListener(*parts), insecure_unauthenticated=insecure)
        except Misuse as error:
            return str(error)
        return ""

    for fine in (
        ("127.0.0.1:1",), ("[::1]:1",), ("localhost:1", tokens), ("0.0.0.0:1", tokens, shown),
        ("0.0.0.0:1", only_certificates, asking), ("0.0.0.0:1", only_certificates, shown, ("x", asking)),
    ):  # fmt: skip
        assert begin(*fine) == "", fine
    assert begin("0.0.0.0:1", insecure=True) == ""
    for listen in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "control.example:1"):
        assert "--publishers FILE" in begin(listen)
        assert "--publishers FILE" in begin(listen, None, shown), "TLS says not who calls"
        assert "plain text" in begin(listen, tokens)
    assert "nobody could show who they are" in begin("127.0.0.1:1", only_certificates, shown)
    assert "give one of the two" in begin("0.0.0.0:1", tokens, shown, insecure=True)


# Without a control plane behind them.

VERBS = {
    "Apply": {"viewer", "publisher", "approver", "admin"},
    "Rollback": {"publisher", "approver", "admin"},
    "Steer": {"publisher", "approver", "admin"},
    "Get": {"viewer", "publisher", "approver", "admin"},
    "Diff": {"viewer", "publisher", "approver", "admin"},
    "History": {"viewer", "publisher", "approver", "admin"},
    "Rollouts": {"viewer", "publisher", "approver", "admin"},
    "Proposals": {"viewer", "publisher", "approver", "admin"},
    "Status": {"viewer", "publisher", "approver", "admin"},
    "Watch": {"viewer", "publisher", "approver", "admin"},
    "WhoAmI": {"viewer", "publisher", "approver", "admin"},
    "SigningKeys": {"viewer", "publisher", "approver", "admin"},
    "Review": {"publisher", "approver", "admin"},
    "ListRevocations": {"publisher", "admin"},
    "Revoke": {"publisher", "admin"},
    "Audit": {"admin"},
    "RotateSigningKey": {"admin"},
    "DelegateSigning": {"admin"},
}
EVERYWHERE = {"ListRevocations", "Revoke", "Audit", "RotateSigningKey", "DelegateSigning"}


def test_each_method_has_its_roles() -> None:
    methods = {each.name for each in admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods}
    assert set(VERBS) == methods
    assert set(METHODS) <= methods
    for name, roles in VERBS.items():
        for role in get_args(Role):
            for each in (
                Permission(role),
                Permission(role, frozenset(["a"])),
                Permission(role, kinds=frozenset(["b"])),
            ):
                wanted = role in roles and (each.unlimited or name not in EVERYWHERE)
                assert may(ADMIN + name, Caller("x", (each,))) == wanted, (name, each)
        assert not may(ADMIN + name, Caller("x", ()))
        assert may(ADMIN + name, ANYBODY)
    for method in subject_pb2.DESCRIPTOR.services_by_name["Subjects"].methods:
        served = SUBJECTS + method.name
        assert may(served, Caller("x", (Permission("viewer", customers=True),)))
        assert not may(served, Caller("x", (Permission("publisher"),)))


def test_what_nobody_thought_of_takes_an_administrator() -> None:
    for method in (ADMIN + "New", "/other.Service/Get", "", "/sidecar.v1.AdminX/Get"):
        assert may(method, ANYBODY)
        assert not may(method, Caller("x", (Permission("publisher"), Permission("approver"))))
        assert not may(method, Caller("x", (Permission("admin", frozenset(["a"])),)))


def may(method: str, caller: Caller) -> bool:
    try:
        admitted(method, caller)
    except Forbidden:
        return False
    return True


class Told(AdminServicer):
    """Answers with who calls, and refuses what its caller may not."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        async def later() -> str:
            return current().name

        return pb.WhoAmIResponse(name=await asyncio.create_task(later()))

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyResponse:
        current().require("publish", ["shop"], ["AccessPolicy"])
        return pb.ApplyResponse()

    async def Watch(self, request: pb.WatchRequest, context: Any) -> None:  # type: ignore[override]
        reach = pb.Progress.Reach(namespace=current().name)
        await context.write(pb.Progress(reaches=[reach]))
        self.began.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def told(
    file: Path | None, clock: Any = time.time
) -> AsyncIterator[tuple[aio.Channel, Told]]:
    keeper = Doorkeeper(Authority(file, clock=clock) if file else None, clock)
    server = aio.server(interceptors=[Guard(keeper, clock=clock)])
    service = Told()  # type: ignore[abstract]  # the stubs know no method left out
    add_AdminServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as open_:
            yield open_, service
    finally:
        await server.stop(0)


def shown(subject: str, **more: Any) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {signed(subject, **more)}")]


async def test_the_service_knows_who_calls(tmp_path: Path) -> None:
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)
    async with told(file) as (open_, _):
        stub = AdminStub(open_)
        names = ["viewer", "admin", "approver"]
        answers = await asyncio.gather(
            *(stub.WhoAmI(pb.WhoAmIRequest(), metadata=shown(name)) for name in names)
        )
        assert [answer.name for answer in answers] == [f"{IDP}#{name}" for name in names]
        await stub.Apply(DOCUMENT, metadata=shown("everywhere"))
        with pytest.raises(aio.AioRpcError) as error:
            await stub.Apply(DOCUMENT, metadata=shown("publisher"))
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "role publisher for AccessPolicy in namespace shop" in str(error.value.details())


async def test_without_publishers_everybody_is_local() -> None:
    async with told(None) as (open_, _):
        assert (await AdminStub(open_).WhoAmI(pb.WhoAmIRequest())).name == "local"
        async for progress in AdminStub(open_).Watch(pb.WatchRequest()):
            assert progress.reaches[0].namespace == "local"
            break


async def test_a_stream_ends_with_its_credential(tmp_path: Path) -> None:
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)
    start = time.time()
    now = [start]
    async with told(file, lambda: now[0]) as (open_, _):
        # It is over a moment after it began, by a clock that the test holds.
        now[0] = int(start) + 300 + 30 - 0.05
        call = AdminStub(open_).Watch(pb.WatchRequest(), metadata=shown("viewer", exp=300))
        seen: list[str] = []

        async def follow() -> None:
            async for progress in call:
                seen.append(progress.reaches[0].namespace)  # noqa: PERF401  # kept as they come

        with pytest.raises(aio.AioRpcError) as error:
            await asyncio.wait_for(follow(), WITHIN)
        assert seen == [f"{IDP}#viewer"]
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "credential has ended" in str(error.value.details())


async def test_another_door_goes_the_same_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)
    keeper = Doorkeeper(Authority(file))
    caller = await keeper.admit(f"{ADMIN}Apply", f"Bearer {signed('publisher')}", None, "a:1")
    with acting(caller):
        assert current().may("publish", "default")
    with pytest.raises(Forbidden, match="Audit takes"):
        await keeper.admit(f"{ADMIN}Audit", f"Bearer {signed('publisher')}", None, "a:1")
    with pytest.raises(Unauthenticated):
        await keeper.admit(f"{ADMIN}Audit", None, None, "a:1")
    assert keeper.refused == {"forbidden": 1, "missing": 1}
    for _ in range(100):
        with pytest.raises(Unauthenticated):
            await keeper.admit(f"{ADMIN}Audit", None, None, "a:1")
    assert keeper.refused["missing"] == 101
    assert len(caplog.records) <= 25, "a flood is not logged whole"
    assert await Doorkeeper(None).admit("anything", None, None, "") is ANYBODY
