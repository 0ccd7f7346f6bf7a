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
from sidecar.inject.path import review_path
from tests.kubernetes import Api, api_server

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECRET = "/api/v1/namespaces/ns/secrets/keys"
KEPT = Kept(("ns", "keys"), "inject.ns.svc", "sidecar")


def keeper(
    api: KubernetesApi, used: list[Material], clock: Callable[[], dt.datetime] = lambda: NOW,
    **more: Any,
) -> Keeper:  # fmt: skip
    expect = more.pop("expect", lambda _path: None)
    return Keeper(api, more.pop("kept", KEPT), used.append, expect, clock=clock, **more)


def opened(api: Api) -> KubernetesApi:
    return KubernetesApi(Cluster(api.url, None, None))


def hooks(api: Api) -> dict[str, Any]:
    service = {"name": "inject", "namespace": "ns"}
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
            "clientConfig": {
                "service": {
                    "name": "inject", "namespace": "ns",
                    "path": f"/inject/{material.path.decode()}",
                },
            },
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

        one = Keeper(api, KEPT, use, lambda _path: None, clock=lambda: now[0])
        await one.look()
        now[0] += dt.timedelta(days=500)
        await one.look()
        assert order == ["vouched", "vouched"]
        assert used[1].bundle.startswith(used[1].bundle[:64])
        assert used[0].bundle in used[1].bundle
        assert used[0].registration == used[1].registration
        await api.close()


async def test_a_path_is_expected_before_the_api_server_is_told_it() -> None:
    async with api_server() as server:
        api, used = opened(server), list[Material]()
        secret, configuration = server.put(SECRET), hooks(server)
        order: list[bool] = []
        expected: list[bytes] = []

        def told() -> str:
            return str(configuration["webhooks"][0]["clientConfig"]["service"].get("path"))

        def expect(path: bytes) -> None:
            order.append(told() == review_path(path))
            expected.append(path)

        one = keeper(api, used, expect=expect)
        await one.look()
        assert order == [False]
        assert told() == review_path(expected[0])
        del secret["data"]["path.key"]
        await one.look()
        assert order == [False, False]
        assert told() == review_path(expected[1])
        assert expected[0] != expected[1]
        assert [each.path for each in used] == expected
        assert used[0].bundle == used[1].bundle
        await api.close()


async def test_a_secret_from_before_there_were_paths_gets_one_and_keeps_the_rest() -> None:
    async with api_server() as server:
        api, used = opened(server), list[Material]()
        secret = server.put(SECRET)
        configuration = hooks(server)
        await keeper(api, used).look()
        before = dict(secret["data"])
        del secret["data"]["path.key"]
        configuration["webhooks"][0]["clientConfig"]["service"]["path"] = "/inject"
        await keeper(api, used).look()
        after = dict(secret["data"])
        path = base64.b64decode(after.pop("path.key"))
        before.pop("path.key")
        assert after == before
        client = configuration["webhooks"][0]["clientConfig"]
        assert client["service"]["path"] == review_path(path)
        await api.close()


@pytest.mark.parametrize("host", ["inject.ns.svc", ""])
async def test_who_makes_the_certificate_announces_it_and_the_path_is_the_webhooks(
    host: str,
) -> None:
    async with api_server() as server:
        api, used = opened(server), list[Material]()
        server.put(SECRET)
        configuration = hooks(server)
        client = configuration["webhooks"][0]["clientConfig"]
        client["caBundle"] = "of cainjector"
        configuration["webhooks"].append(
            {"name": "b", "clientConfig": {"url": "https://inject.example:8443/inject"}}
        )
        one = keeper(api, used, kept=Kept(("ns", "keys"), host, "sidecar"))
        await one.look()
        [material] = used
        first, second = (each["clientConfig"] for each in configuration["webhooks"])
        path = review_path(material.path)
        assert first["service"] == {"name": "inject", "namespace": "ns", "path": path}
        assert second["url"] == f"https://inject.example:8443{path}"
        assert "service" not in second
        if host:
            assert first["caBundle"] == second["caBundle"] != "of cainjector"
        else:
            assert first["caBundle"] == "of cainjector"
            assert "caBundle" not in second
        server.calls.clear()
        await one.look()
        assert [method for method, _, _ in server.calls] == ["GET", "GET"], "nothing is due"
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
        assert slept == [5.0, 5.0, 5.0, 60.0]
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
