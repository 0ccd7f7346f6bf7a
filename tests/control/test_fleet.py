"""The listener for sidecars that show whose they are: real TLS, real streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import aio

from sidecar.control import fleet as fleet_module
from sidecar.control import server, strangers
from sidecar.control.certificates import ServerCertificates
from sidecar.control.fleet import MAX_OF_ONE, Fleet, FleetFull
from sidecar.control.identity import Identities, TokenReviews
from sidecar.control.server import Bound, ControlPlane, FleetListener
from sidecar.control.session import Session
from sidecar.errors import Misuse
from sidecar.facts.control_channel import channel_credentials, pod_token
from sidecar.facts.kubernetes import Cluster, KubernetesApi
from sidecar.facts.registration import Registration, sign
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert
from sidecar.wire.admin_pb2_grpc import AdminStub
from sidecar.wire.discovery_pb2 import Hello, Subscription
from sidecar.wire.discovery_pb2_grpc import DiscoveryStub
from tests.certificates import Authority
from tests.kubernetes import Api, api_server
from tests.publishing import WITHIN, apply, policy, running, sidecar, soon, status

WEBHOOK = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AUTHORITY = Authority()


@dataclass
class Place:
    """A control plane, its cluster, and files of a pod."""

    bound: Bound
    api: Api
    folder: Path

    def pod(self, **more: Any) -> Any:
        """A sidecar as a pod has it: its token in a file, its registration."""
        file = self.folder / "token"
        file.write_text("t\n")
        given = {
            "namespace": "shop",
            "labels": {"app": "web"},
            "credentials": channel_credentials(AUTHORITY.pem.decode(), None, None),
            "token": pod_token(file),
            "registration": sign(
                Registration("shop", "web", "web-", True, {"app": "web"}), WEBHOOK
            ),
            **more,
        }
        return sidecar(self.bound.fleet, **given)


@asynccontextmanager
async def place(folder: Path, client_ca: Path | None = None) -> AsyncIterator[Place]:
    async with api_server() as api:
        reviews = TokenReviews(KubernetesApi(Cluster(api.url, None, None)), "sidecar-control-plane")
        keys = [WEBHOOK.public_key().public_bytes_raw()]
        certificate, key = AUTHORITY.issue().write(folder, "server")
        listener = FleetListener(
            "127.0.0.1:0",
            ServerCertificates(certificate, key, client_ca),
            Identities(reviews, lambda: keys, "prod"),
        )
        control = ControlPlane()
        bound = await control.start(
            "127.0.0.1:0", "127.0.0.1:0", f"sqlite:///{folder / 'store.db'}", fleet=listener
        )
        try:
            yield Place(bound, api, folder)
        finally:
            await control.stop()


async def test_a_pods_sidecar_is_served_what_its_labels_select(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        here.api.account("t", "shop", "web", "web-1")
        one = here.pod()
        async with running(one):
            await apply(
                here.bound.grpc,
                policy("ours", "shop", selector={"app": "web"}),
                policy("others", "shop", selector={"app": "other"}),
            )
            await one.enforces(1, "shop")
            assert one.names == ["ours"]
            [shown] = (await status(here.bound.grpc)).sidecars
            assert (shown.sidecar_id, shown.namespace) == ("shop/web-1", "shop")


async def refused(one: Any, why: str) -> None:
    """It is told why, gets nothing and goes on trying."""
    async with running(one):
        await soon(lambda: why in one.client.last_error, lambda: asyncio.sleep(0))
        assert not one.adopted
        assert not one.client.connected


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"token": None}, "UNAUTHENTICATED: nothing shows whose sidecar it is"),
        ({"namespace": "bank"}, "it asks for namespace 'bank', and is of 'shop'"),
        ({"labels": {"app": "admin"}}, "its labels are not those of its registration"),
        ({"registration": ""}, "has no registration"),
        (
            {"registration": sign(Registration("bank", "web", "", False, {}), WEBHOOK)},
            "of bank/web, and it is of shop/web",
        ),
        ({"token": lambda: "forged"}, "does not vouch"),
        ({"credentials": None}, "UNAVAILABLE"),
        (
            {"credentials": channel_credentials(Authority("another").pem.decode(), None, None)},
            "UNAVAILABLE",
        ),
    ],
    ids=["no-token", "namespace", "labels", "unsigned", "another's", "forged", "plain", "ca"],
)
async def test_others_are_not(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    async with place(tmp_path) as here:
        here.api.account("t", "shop", "web", "web-1")
        await apply(here.bound.grpc, policy("p", "shop"), policy("q", "bank"))
        await refused(here.pod(**more), why)
        assert not (await status(here.bound.grpc)).sidecars


async def test_whoever_is_gone_is_served_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream outlives the token that began it; a stolen one must not for ever."""
    monkeypatch.setattr(server, "MAX_AGE", 0.5)
    async with place(tmp_path) as here:
        here.api.account("t", "shop", "web", "web-1")
        await apply(here.bound.grpc, policy("p", "shop"))
        one = here.pod()
        async with running(one):
            await one.enforces(1, "shop")
            here.api.accounts.clear()
            await soon(
                lambda: "does not vouch" in one.client.last_error, lambda: asyncio.sleep(0.01)
            )
            assert not one.client.connected


async def test_of_a_stranger_nothing_is_read(tmp_path: Path) -> None:
    """A message may have 64 MiB, and anybody may connect."""
    async with place(tmp_path) as here:
        credentials = channel_credentials(AUTHORITY.pem.decode(), None, None)()
        async with aio.secure_channel(here.bound.fleet, credentials) as channel:
            metadata = aio.Metadata(("authorization", "Bearer forged"))
            stream = DiscoveryStub(channel).Stream(metadata=metadata)  # type: ignore[call-arg]
            with pytest.raises(aio.AioRpcError) as caught:  # though no Hello has been sent
                await asyncio.wait_for(stream.read(), WITHIN)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_cluster_that_is_away_is_asked_again(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        here.api.account("t", "shop", "web", "web-1")
        here.api.broken = 2
        await apply(here.bound.grpc, policy("p", "shop"))
        one = here.pod()
        async with running(one):
            await one.enforces(1, "shop")
            assert one.client.reconnects >= 2


async def test_no_one_publishes_there(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        credentials = channel_credentials(AUTHORITY.pem.decode(), None, None)()
        async with aio.secure_channel(here.bound.fleet, credentials) as channel:
            with pytest.raises(aio.AioRpcError) as error:
                await AdminStub(channel).Status(pb.StatusRequest(), timeout=WITHIN)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_certificate_shows_the_same(tmp_path: Path) -> None:
    workloads = Authority("workloads")
    async with place(tmp_path, workloads.write(tmp_path)) as here:
        await apply(here.bound.grpc, policy("p", "shop", selector={"app": "web"}))
        pair = workloads.issue("w", "spiffe://prod/ns/shop/sa/web").write(tmp_path, "client")
        ca = AUTHORITY.pem.decode()
        one = here.pod(token=None, credentials=channel_credentials(ca, *pair), sidecar_id="vm-1")
        async with running(one):
            await one.enforces(1, "shop")
            [shown] = (await status(here.bound.grpc)).sidecars
            assert shown.sidecar_id == "shop/web:vm-1"
        await refused(here.pod(token=None), "UNAVAILABLE")  # and none is no way in
        pair = workloads.issue("p", "spiffe://partner/ns/shop/sa/web").write(tmp_path, "partner")
        other = here.pod(token=None, credentials=channel_credentials(ca, *pair))
        await refused(other, "its certificate is of trust domain partner, not prod")


def test_strangers_are_few_in_all_and_of_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MOST", 3)
    monkeypatch.setattr(strangers, "OF_ONE", 2)
    held = strangers.Strangers()

    def refused(peer: str, why: str) -> None:
        with pytest.raises(strangers.Crowded, match=why), held.one(peer):
            pass

    with held.one("10.0.0.1:1"), held.one("10.0.0.1:2"):
        refused("10.0.0.1:3", "too many of 10.0.0.1 ")
        with held.one("[fd00::1]:1"):
            refused("10.0.0.2:1", "too many come")
        with held.one("10.0.0.2:1"):
            pass
    with held.one("10.0.0.1:4"), held.one("10.0.0.1:5"):
        refused("10.0.0.1:6", "too many of")


async def test_who_waits_as_a_stranger_makes_room_by_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "OF_ONE", 1)
    async with place(tmp_path) as here:
        here.api.account("t", "shop", "web", "web-1")
        await apply(here.bound.grpc, policy("p", "shop"))
        credentials = channel_credentials(AUTHORITY.pem.decode(), None, None)()
        async with aio.secure_channel(here.bound.fleet, credentials) as channel:
            silent = DiscoveryStub(channel).Stream(  # type: ignore[call-arg]  # it has `write`
                metadata=aio.Metadata(("authorization", "Bearer t"))
            )
            await soon(lambda: bool(here.api.calls), lambda: asyncio.sleep(0))
            one = here.pod()
            async with running(one):
                await soon(
                    lambda: "RESOURCE_EXHAUSTED: too many of 127.0.0.1" in one.client.last_error,
                    lambda: asyncio.sleep(0),
                )
                silent.cancel()
                await one.enforces(1, "shop")


def test_one_account_cannot_fill_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MAX_OF_ACCOUNT", 2)
    fleet = Fleet(10)

    def session(sidecar_id: str, account: str) -> Session:
        hello = Hello(
            sidecar_id=sidecar_id, namespace="n", subscriptions=[Subscription(type=convert.RELEASE)]
        )
        made = Session(hello, address="", since=0.0)
        made.account = account
        return made

    first, second = session("n/a:1", "n/a"), session("n/a:2", "n/a")
    for each in (first, second, session("n/b:1", "n/b"), session("n/p", ""), session("n/q", "")):
        fleet.join(each)
    with pytest.raises(FleetFull, match="2 sidecars of n/a are connected"):
        fleet.join(session("n/a:3", "n/a"))
    again = session("n/a:2", "n/a")
    fleet.join(again)  # takes the place of the one before
    fleet.leave(second)
    with pytest.raises(FleetFull):
        fleet.join(session("n/a:3", "n/a"))
    fleet.leave(first)
    fleet.join(session("n/a:3", "n/a"))
    assert len(fleet) == 5


async def test_a_renewed_certificate_counts_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(tmp_path) as here:
        here.api.account("t", "shop", "web", "web-1")
        await apply(here.bound.grpc, policy("p", "shop"))
        renewed = Authority("renewed")
        renewed.issue().write(tmp_path, "server")
        one = here.pod(credentials=channel_credentials(renewed.pem.decode(), None, None))
        async with running(one):
            await one.enforces(1, "shop")
        (tmp_path / "server.key").write_bytes(AUTHORITY.issue().key)  # not the certificate's
        two = here.pod(credentials=channel_credentials(renewed.pem.decode(), None, None))
        async with running(two):
            await two.enforces(1, "shop")
        assert "the certificate before stays in use: the key is not that" in caplog.text


async def test_what_they_have_shown_is_counted(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        here.api.account("t", "shop", "web", "web-1")
        await apply(here.bound.grpc, policy("p", "shop"))
        one = here.pod()
        async with running(one):
            await one.enforces(1, "shop")
        await refused(here.pod(namespace="bank"), "it asks for namespace 'bank'")
        async with ClientSession() as session, session.get(
            f"http://{here.bound.http}/metrics"
        ) as response:  # fmt: skip
            page = await response.text()
    assert 'sidecar_control_identities_total{outcome="shown"} 1.0' in page
    assert 'sidecar_control_identities_total{outcome="refused"}' in page
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    [line] = [each for each in page.splitlines() if each.startswith("sidecar_control_certificate")]
    assert float(line.split()[-1]) == certificate.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_files_of_no_use_are_said_at_the_start(tmp_path: Path, broken: str) -> None:
    certificate, key = AUTHORITY.issue().write(tmp_path, "server")
    (certificate if broken == "certificate" else key).write_text("no PEM")
    with pytest.raises(Misuse, match="--tls-cert"):
        ServerCertificates(certificate, key, None).credentials()


def test_nobody_takes_every_place_of_those_who_watch() -> None:
    fleet = Fleet(10)
    with ExitStack() as open_:
        for _ in range(MAX_OF_ONE):
            open_.enter_context(fleet.watching("eve"))
        with pytest.raises(FleetFull, match="eve has"):
            open_.enter_context(fleet.watching("eve"))
        open_.enter_context(fleet.watching("root"))
        for _ in range(MAX_OF_ONE + 1):  # nobody in particular: as many as there are places
            open_.enter_context(fleet.watching())
    assert fleet.watchers == 0
    with fleet.watching("eve"):
        assert fleet.watchers == 1
