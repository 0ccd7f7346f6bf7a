"""The Secret and the webhook's configuration, by a real HTTP API."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.errors import ClusterUnreachable
from sidecar.facts.kubernetes import Answered, Cluster, KubernetesApi
from sidecar.facts.published_keys import publish_keys
from sidecar.inject.certificates import Material
from sidecar.inject.keeper import CONFIGURATIONS, Keeper, Kept
from tests.kubernetes import Api, api_server

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECRET = "/api/v1/namespaces/ns/secrets/keys"
KEPT = Kept(("ns", "keys"), "inject.ns.svc", "sidecar")


def keeper(
    api: KubernetesApi, used: list[Material], clock: Callable[[], dt.datetime] = lambda: NOW,
    **more: Any,
) -> Keeper:  # fmt: skip
    return Keeper(api, more.pop("kept", KEPT), used.append, clock=clock, **more)


def opened(api: Api) -> KubernetesApi:
    return KubernetesApi(Cluster(api.url, None, None))


def hooks(api: Api) -> dict[str, Any]:
    service = {"name": "inject", "namespace": "ns", "path": "/inject"}
    return api.put(
        CONFIGURATIONS + "sidecar",
        webhooks=[
            {"name": "a.sidecar", "clientConfig": {"service": service}, "sideEffects": "None"}
        ],
    )


async def test_an_empty_secret_is_filled_and_the_webhook_vouched_for() -> None:
    async with api_server() as server:
        api, used = opened(server), list[Material]()
        secret, configuration = server.put(SECRET), hooks(server)
        one = keeper(api, used)
        await one.look()
        [material] = used
        held = {name: base64.b64decode(text) for name, text in secret["data"].items()}
        assert Material.of(held) == material
        [webhook] = configuration["webhooks"]
        assert base64.b64decode(webhook["clientConfig"].pop("caBundle")) == material.bundle
        # A merge patch replaces lists: everything else of it must have come along.
        assert webhook == {
            "name": "a.sidecar", "sideEffects": "None",
            "clientConfig": {"service": {"name": "inject", "namespace": "ns", "path": "/inject"}},
        }  # fmt: skip
        server.calls.clear()
        webhook["clientConfig"]["caBundle"] = base64.b64encode(material.bundle).decode()
        await one.look()
        assert [method for method, _, _ in server.calls] == ["GET", "GET"], "nothing is due"
        assert len(used) == 1
        await api.close()


async def test_of_two_that_begin_together_both_use_what_the_first_wrote() -> None:
    async with api_server() as server:
        api, used = opened(server), list[Material]()
        server.put(SECRET)
        hooks(server)
        await asyncio.gather(*(keeper(api, used).look() for _ in range(4)))
        assert len(used) == 4
        assert len(set(used)) == 1
        await api.close()


async def test_a_new_authority_is_vouched_for_before_it_is_used() -> None:
    async with api_server() as server:
        api = opened(server)
        server.put(SECRET)
        configuration = hooks(server)
        now = [NOW]
        order: list[str] = []
        used: list[Material] = []

        def use(material: Material) -> None:
            bundle = base64.b64decode(configuration["webhooks"][0]["clientConfig"]["caBundle"])
            order.append("vouched" if bundle == material.bundle else "early")
            used.append(material)

        one = Keeper(api, KEPT, use, clock=lambda: now[0])
        await one.look()
        now[0] += dt.timedelta(days=500)
        await one.look()
        assert order == ["vouched", "vouched"]
        assert used[1].bundle.startswith(used[1].bundle[:64])
        assert used[0].bundle in used[1].bundle
        assert used[0].registration == used[1].registration
        await api.close()


async def test_without_a_configuration_somebody_else_vouches() -> None:
    async with api_server() as server:
        api, used = opened(server), list[Material]()
        server.put(SECRET)
        await keeper(api, used, kept=Kept(("ns", "keys"), "", "")).look()
        assert used[0].signing_key()
        assert {path for _, path, _ in server.calls} == {SECRET}
        await api.close()


async def test_it_goes_on_trying_and_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    async with api_server() as server:
        api, used = opened(server), list[Material]()
        slept: list[float] = []
        done = asyncio.Event()

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                server.put(SECRET)
                hooks(server)
            if len(slept) == 4:
                done.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(keeper(api, used, sleep=sleep).run())
        await asyncio.wait_for(done.wait(), 30)
        task.cancel()
        assert len(used) == 1
        assert slept == [5.0, 5.0, 5.0, 3600.0]
        assert [record.levelname for record in caplog.records if "404" in record.message] == [
            "WARNING"
        ]
        await api.close()


async def test_a_secret_that_is_fought_over_is_given_up_for_now() -> None:
    async with api_server() as server:
        api = opened(server)
        server.put(SECRET)

        def stale(body: dict[str, Any], _original: Any = server.answer) -> None:
            body["metadata"]["resourceVersion"] = "0"

        class Racing(KubernetesApi):
            async def patch(self, path: str, body: Any) -> dict[str, Any]:
                stale(body)
                return await super().patch(path, body)

        racing = Racing(Cluster(server.url, None, None))
        with pytest.raises(ClusterUnreachable, match="written by others all the time"):
            await keeper(racing, []).look()
        await api.close()
        await racing.close()


async def test_public_keys_get_into_their_config_map() -> None:
    async with api_server() as server:
        api = opened(server)
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            server.put("/api/v1/namespaces/ns/configmaps/keys", data={"other": "stays"})

        await publish_keys(api, ("ns", "keys"), "release.pem", "PEM", sleep=sleep)
        held = server.objects["/api/v1/namespaces/ns/configmaps/keys"]["data"]
        assert held == {"other": "stays", "release.pem": "PEM"}
        assert len(slept) == 1
        with pytest.raises(Answered) as error:
            await api.get("/api/v1/namespaces/ns/configmaps/none")
        assert error.value.status == 404
        await api.close()
