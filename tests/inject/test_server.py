"""The webhook over real TLS, and what it says when it cannot inject."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jsonpatch
import pytest
from yarl import URL

from sidecar.errors import ClusterUnreachable, Misuse
from sidecar.facts.kubernetes import Cluster, KubernetesApi
from sidecar.facts.signing import public_key_pem
from sidecar.inject import server
from sidecar.inject.certificates import Material, renewed
from sidecar.inject.path import ReviewPath, review_path
from sidecar.inject.server import Servers, Webhook
from sidecar.inject.shown import Shown
from sidecar.inject.sources import Ready, Sources
from sidecar.inject.version import native_sidecars
from tests.certificates import Authority
from tests.inject.common import KEY, PLAIN, PUBLIC, TERMS, injected, pod
from tests.inject.test_review import review
from tests.kubernetes import Api, api_server

HOST = "127.0.0.1"
PATH = renewed(Material.of({}), HOST, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)).path


@dataclass
class Place:
    url: str
    http: str
    api: Api
    webhook: Webhook
    authority: Authority

    async def ask(
        self,
        body: bytes | io.BytesIO | AsyncIterator[bytes] | dict[str, Any],
        path: str = review_path(PATH),
        method: str = "POST",
    ) -> tuple[int, Any]:
        """As the API server does, which adds how long it waits."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"content-type": "application/json"}
        context = self.authority.client_context()
        url = URL(f"{self.url}{path}?timeout=10s", encoded=True)
        async with aiohttp.ClientSession() as session, session.request(
            method, url, data=data, headers=headers, ssl=context
        ) as response:  # fmt: skip
            text = await response.text()
            return response.status, json.loads(text) if response.status == 200 else text

    async def page(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.http}{path}") as response,
        ):
            return response.status, await response.text()


@asynccontextmanager
async def place(folder: Path, ready: Ready | str, **more: Any) -> AsyncIterator[Place]:
    authority = Authority()
    shown = Shown()
    shown.use_files(*authority.issue().write(folder, "server"))
    async with api_server() as server:
        server.put("/api/v1/namespaces/shop")
        api = KubernetesApi(Cluster(server.url, None, None))
        path = ReviewPath()
        path.expect(PATH)
        webhook = Webhook(api, lambda: ready, path.admits, **more)
        servers = Servers(webhook, shown, lambda: ready if isinstance(ready, str) else "")
        bound, http = await servers.start((HOST, 0), (HOST, 0))
        try:
            yield Place(f"https://{bound}", f"http://{http}", server, webhook, authority)
        finally:
            await servers.close()
            await api.close()


READY = Ready(TERMS, KEY)


async def test_a_pod_is_injected_over_tls(tmp_path: Path) -> None:
    async with place(tmp_path, READY) as here:
        status, found = await here.ask(review())
        assert status == 200
        operations = json.loads(base64.b64decode(found["response"]["patch"]))
        assert jsonpatch.apply_patch(pod(PLAIN), operations) == injected(pod(PLAIN)).pod
        assert (await here.page("/readyz"))[0] == 200
        text = (await here.page("/metrics"))[1]
        assert 'sidecar_inject_reviews_total{result="injected"} 1.0' in text
        assert "sidecar_inject_certificate_expiry_timestamp_seconds 1." in text


async def test_the_namespace_says_what_its_pods_may(tmp_path: Path) -> None:
    redirecting = pod(PLAIN)
    redirecting["metadata"]["annotations"] = {"authz.sidecar/mode": "redirect"}
    async with place(tmp_path, READY) as here:
        labels = {"pod-security.kubernetes.io/enforce": "baseline"}
        here.api.put("/api/v1/namespaces/strict", metadata={"labels": labels})
        _, found = await here.ask(review(object=redirecting, namespace="strict"))
        assert found["response"]["allowed"] is False
        assert (
            "enforces the Pod Security Standard baseline" in found["response"]["status"]["message"]
        )
        _, found = await here.ask(review(object=redirecting))
        assert found["response"]["allowed"] is True
        before = len(here.api.calls)
        await here.ask(review())
        assert len(here.api.calls) == before, "a namespace's labels are remembered for a moment"


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("what", ["not ready", "api", "defect"])
async def test_what_it_cannot_do_is_refused_unless_told_otherwise(
    tmp_path: Path, what: str, allow: bool
) -> None:
    ready = "no keys yet" if what == "not ready" else READY
    async with place(tmp_path, ready, insecure_allow_uninjected=allow) as here:
        if what == "api":
            here.api.broken = 1
        broken = review(object={"spec": {"containers": [{"name": "app", "ports": [7]}]}})
        status, found = await here.ask(broken if what == "defect" else review())
        assert status == 200
        response = found["response"]
        assert response["allowed"] is allow
        assert "patch" not in response
        said = response["warnings"][0] if allow else response["status"]["message"]
        assert {"not ready": "no keys yet", "api": "etcd", "defect": "internal error"}[what] in said
        assert here.webhook.results == {"unable_let_in" if allow else "unable": 1}
        assert (await here.page("/readyz"))[0] == (503 if what == "not ready" else 200)


@pytest.mark.parametrize("allow", [False, True])
async def test_a_pod_that_cannot_have_one_is_refused_in_any_case(
    tmp_path: Path, allow: bool
) -> None:
    given = pod(PLAIN)
    given["spec"]["hostNetwork"] = True
    async with place(tmp_path, READY, insecure_allow_uninjected=allow) as here:
        _, found = await here.ask(review(object=given))
        assert found["response"]["allowed"] is False


async def test_what_is_held_of_all_reviews_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_HELD", 100_000)
    body = json.dumps(review()).encode()
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b" " * 60_000
        yield b" " * 39_900
        begun.set()
        await go.wait()
        yield body[:50]

    async with place(tmp_path, READY) as here:
        asking = asyncio.create_task(here.ask(slow()))
        await begun.wait()
        async with asyncio.timeout(10):
            while (await here.ask(body))[0] != 503:  # until all of the other has come
                pass
        assert here.webhook.results["crowded"] == 1
        go.set()
        assert (await asking)[0] == 400
        assert (await here.ask(body))[0] == 200


async def test_a_review_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_WITHIN", 0.01)
    never = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b" "
        await never.wait()

    async with place(tmp_path, READY) as here:
        assert (await here.ask(slow()))[0] == 408


async def test_other_requests_get_nowhere(tmp_path: Path) -> None:
    async with place(tmp_path, READY) as here:
        assert (await here.ask(b"x"))[0] == 400
        assert (await here.ask(io.BytesIO(b" " * (5 * 1024 * 1024))))[0] == 413
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.post(f"{here.url}{review_path(PATH)}", json=review())


@pytest.mark.parametrize(
    "path",
    [
        "/inject", "/inject/", "/", "/readyz", "//inject/" + PATH.decode(),
        review_path(PATH[:-1]), review_path(PATH + b"A"), review_path(PATH) + "/",
        review_path(PATH).swapcase(), "/inject/%00", "/inject/%C3%A4",
    ],
)  # fmt: skip
async def test_who_does_not_know_the_path_gets_nothing(tmp_path: Path, path: str) -> None:
    async with place(tmp_path, READY) as here:
        for method in ("POST", "GET", "PUT"):
            status, text = await here.ask(review(), path, method)
            assert (status, text) == (404, "there is nothing here\n")
        assert here.webhook.results == {"stranger": 3}
        text = (await here.page("/metrics"))[1]
        assert 'sidecar_inject_reviews_total{result="stranger"} 3.0' in text
        assert not [each for each in here.api.calls if "namespaces" in each[1]], "nothing was read"
        assert (await here.ask(review(), method="PUT"))[0] == 405
        assert (await here.ask(review()))[0] == 200


async def test_a_certificate_of_the_secret_is_shown_and_renewed(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    shown = Shown()
    assert shown.missing()
    first = renewed(Material.of({}), "localhost", now)
    shown.use(first)
    assert not shown.missing()
    assert shown.ends == first.ends()
    second = renewed(first, "localhost", now + dt.timedelta(days=61))
    shown.use(second)
    assert shown.ends == second.ends() > first.ends()
    for certificate, key in (("x", "y"), (__file__, __file__)):
        with pytest.raises(Misuse, match="--tls-cert"):
            shown.use_files(Path(certificate), Path(key))


@pytest.mark.parametrize(
    ("version", "native"),
    [
        ({"major": "1", "minor": "28"}, False),
        ({"major": "1", "minor": "29"}, True),
        ({"major": "1", "minor": "34+"}, True),
        ({"major": "2", "minor": "0"}, True),
        ({}, None),
        ({"major": "1", "minor": ""}, None),
    ],
)
async def test_which_clusters_run_sidecar_containers(
    version: dict[str, str], native: bool | None
) -> None:
    async with api_server() as server:
        server.objects["/version"] = dict(version)
        api = KubernetesApi(Cluster(server.url, None, None))
        if native is None:
            with pytest.raises(ClusterUnreachable, match="does not say its version"):
                await native_sidecars(api)
        else:
            assert await native_sidecars(api) is native
        await api.close()


def test_sources_say_what_they_wait_for(tmp_path: Path) -> None:
    ca, trust = tmp_path / "ca.pem", tmp_path / "trust.pem"
    sources = Sources(TERMS, ca, trust, None)
    assert "signs registrations" in sources.missing()
    sources.key = KEY
    assert "sidecar containers" in sources.missing()
    sources.native = True
    assert "ca.pem is not there yet" in sources.missing()
    ca.write_bytes(Authority().pem)
    assert "trust.pem is not there yet" in sources.missing()
    trust.write_text("")  # as a ConfigMap is before the control plane has written it
    assert "trust.pem is not there yet" in sources.missing()
    trust.write_bytes(public_key_pem(PUBLIC))
    assert sources.missing() == ""
    found = sources.ready()
    assert isinstance(found, Ready)
    assert found.terms.trust == trust.read_text()
    other = Authority().pem
    replaced = tmp_path / "new"
    replaced.write_bytes(other)
    replaced.rename(ca)
    found = sources.ready()
    assert isinstance(found, Ready)
    assert found.terms.ca == other.decode()
    ca.write_text("x" * 70_000)
    assert "larger than" in sources.missing()


async def test_a_pod_without_a_sidecar_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its controller gets the refusal and the warning, not whoever made the Deployment."""
    left_out = pod(PLAIN)
    left_out["metadata"]["annotations"] = {"authz.sidecar/inject": "false"}
    wrong = pod(PLAIN)
    wrong["metadata"] = {"name": "a\nb", "annotations": {"authz.sidecar/mode": "x"}}
    with caplog.at_level("INFO", "sidecar.inject"):
        async with place(tmp_path, READY) as here:
            for each in (pod(PLAIN), left_out, wrong):
                await here.ask(review(object=each))
    assert [record.getMessage() for record in caplog.records] == [
        "left_out: shop/web-7d9f-: ",
        "refused_annotation: shop/a\\nb: sidecar: annotation authz.sidecar/mode: 'x' is not one of "
        "port, redirect",
    ]
