"""A pod as it is rolled out: reviewed by the webhook, started as its spec then says, called, ended.

The control plane, the webhook and an API server are on the node's side of a cable, the pod on the
other; the processes are the real ones, and so is the traffic.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import jsonpatch
import pytest
from aiohttp import web

from tests.casebook import jwks, token
from tests.certificates import Authority
from tests.e2e.kubelet import SIDECAR_IMAGE, Kubelet
from tests.e2e.namespaces import CLIENT, Namespace, joined
from tests.e2e.processes import Running, until
from tests.kubernetes import Api

API, FLEET, ADMIN, REVIEWS = 8001, 7444, 7443, 8443
SYSTEM = "sidecar-system"
HOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/sidecar"
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp, namespace: shop}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {file: keys.jwks}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: ours, namespace: shop}
spec:
  selector: {app: web}
  rules: [{name: all, match: {paths: ["/**"]}}]
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: others, namespace: shop}
spec:
  selector: {app: other}
  rules: [{name: open, auth: none, match: {paths: ["/**"]}}]
"""
POD_SPEC: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "generateName": "web-7d9f-",
        "labels": {"app": "web", "pod-template-hash": "7d9f"},
    },
    "spec": {
        "serviceAccountName": "web",
        "containers": [
            {
                "name": "app",
                "image": "example/web:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "startupProbe": {"httpGet": {"path": "/started", "port": 8080}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
            }
        ],
    },
}
IMAGES = {"example/web:1": (sys.executable, "-m", "tests.e2e.upstreams.graceful", "8080")}


@contextmanager
def serving(api: Api, node: Namespace) -> Iterator[None]:
    """The API server, in a thread, at an address of the node."""
    with node.inside():
        listening = socket.create_server((CLIENT[0], API))
    api.url = f"http://{CLIENT[0]}:{API}"
    loop = asyncio.new_event_loop()
    up = threading.Event()

    async def serve() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", api.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        up.set()
        await ended.wait()
        await runner.cleanup()

    ended = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert up.wait(30)
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()


class Cluster:
    """Control plane, webhook and API server on one node, and a place for a pod."""

    def __init__(self, node: Namespace, space: Namespace, mode: str, native: bool) -> None:
        self.node = node
        self.space = space
        self.api = Api()
        self.mode = mode
        self.native = native
        self.running: list[Running] = []
        self.pods: list[Kubelet] = []

    def start(self) -> None:
        """All of it, with documents published."""
        folder, api = self.node.folder, self.api
        api.put("/version", major="1", minor="34" if self.native else "27")
        api.put("/api/v1/namespaces/shop", metadata={"labels": {"authz.sidecar/inject": "enabled"}})
        for name in ("release-keys", "registration-keys"):
            api.put(f"/api/v1/namespaces/{SYSTEM}/configmaps/{name}")
        api.put(f"/api/v1/namespaces/{SYSTEM}/secrets/inject")
        api.put(HOOK, webhooks=[{"name": "inject.authz.sidecar", "clientConfig": {}}])
        authority = Authority()
        certificate, key = authority.issue("control plane", CLIENT[0]).write(folder, "fleet")
        ca = authority.write(folder)
        kubernetes = ("--kubernetes", api.url)
        self.running.append(
            self.node.start(
                "control-plane", sys.executable, "-m", "sidecar", "control-plane",
                "--store", f"sqlite:///{folder / 'store.db'}",
                "--listen", f"127.0.0.1:{ADMIN}", "--http", "127.0.0.1:7480",
                "--fleet-listen", f"{CLIENT[0]}:{FLEET}",
                "--tls-cert", str(certificate), "--tls-key", str(key),
                "--workload-tokens", "tokenreview",
                "--registration-keys", str(folder / "registration.pem"),
                "--publish-keys", f"{SYSTEM}/release-keys", *kubernetes,
            )
        )  # fmt: skip
        self.running.append(
            self.node.start(
                "inject", sys.executable, "-m", "sidecar", "inject",
                "--listen", f"{CLIENT[0]}:{REVIEWS}", "--http", "127.0.0.1:7481",
                "--image", SIDECAR_IMAGE, "--mode", self.mode, "--sidecar-resource", "memory-limit=",
                "--control-plane", f"{CLIENT[0]}:{FLEET}", "--control-plane-ca", str(ca),
                "--trust", str(folder / "release.pem"),
                "--secret", f"{SYSTEM}/inject", "--service", f"inject.{SYSTEM}.svc",
                "--webhook-configuration", "sidecar",
                "--publish-keys", f"{SYSTEM}/registration-keys", *kubernetes,
            )
        )  # fmt: skip
        for name, file in (("release-keys", "release"), ("registration-keys", "registration")):
            self._mount(name, f"{file}.pem")
        for port in (7480, 7481):
            until(partial(self._ready, port), f"ready: {self.said}")
        policies = folder / "policies"
        policies.mkdir()
        (policies / "keys.jwks").write_text(json.dumps(jwks()))
        (policies / "shop.yaml").write_text(DOCUMENTS)
        done = self.node.sidecar("apply", "-f", str(policies), "--server", f"127.0.0.1:{ADMIN}")
        assert done.returncode == 0, done.stderr + self.said

    @property
    def said(self) -> str:
        return "\n".join(each.said for each in self.running)

    def _mount(self, config_map: str, entry: str) -> None:
        """As a kubelet keeps a mounted ConfigMap current."""
        path = f"/api/v1/namespaces/{SYSTEM}/configmaps/{config_map}"
        found = until(
            lambda: self.api.objects[path].get("data", {}).get(entry), f"{entry}: {self.said}"
        )
        (self.node.folder / entry).write_text(found)

    def _ready(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.sock = self.node.connect("127.0.0.1", port)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except ConnectionError:
            return False
        finally:
            connection.close()

    def review(self, pod: dict[str, Any]) -> dict[str, Any]:
        """What the webhook answers an API server that believes it by its configuration."""
        [hook] = self.api.objects[HOOK]["webhooks"]
        bundle = base64.b64decode(hook["clientConfig"]["caBundle"]).decode()
        context = ssl.create_default_context(cadata=bundle)
        body = {
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "namespace": "shop", "operation": "CREATE", "object": pod,
            },
        }  # fmt: skip
        plain = self.node.connect(CLIENT[0], REVIEWS)
        secure = context.wrap_socket(plain, server_hostname=f"inject.{SYSTEM}.svc")
        connection = http.client.HTTPConnection(CLIENT[0], REVIEWS)
        connection.sock = secure
        try:
            path = hook["clientConfig"]["service"]["path"]
            connection.request("POST", f"{path}?timeout=10s", json.dumps(body))
            answer = connection.getresponse()
            assert answer.status == 200
            found: dict[str, Any] = json.loads(answer.read())["response"]
            return found
        finally:
            connection.close()

    def roll_out(self, pod: dict[str, Any]) -> Kubelet:
        """The pod, created and running."""
        response = self.review(pod)
        assert response["allowed"], response
        mutated = jsonpatch.apply_patch(
            copy.deepcopy(pod), json.loads(base64.b64decode(response["patch"]))
        )
        # The API server makes up the name after the webhooks.
        name = mutated["metadata"]["name"] = (
            f"{mutated['metadata'].pop('generateName')}x{len(self.pods)}"
        )

        def account(audience: str) -> str:
            made = f"token-of-{name}"
            self.api.account(made, "shop", mutated["spec"]["serviceAccountName"], name, audience)
            return made

        kubelet = Kubelet(self.node, self.space, IMAGES, account, mutated)
        self.pods.append(kubelet)
        kubelet.start()
        return kubelet

    def status(self) -> list[dict[str, Any]]:
        done = self.node.sidecar("status", "--server", f"127.0.0.1:{ADMIN}", "--output", "json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["sidecars"]
        return found

    def stop(self) -> None:
        for pod in self.pods:
            pod.kill()
        codes = [each.stop() for each in reversed(self.running)]
        assert set(codes) <= {0}, self.said


@contextmanager
def cluster(mode: str, native: bool) -> Iterator[Cluster]:
    with joined() as (node, space):
        made = Cluster(node, space, mode, native)
        with serving(made.api, node):
            try:
                made.start()
                yield made
            finally:
                made.stop()


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {token(time.time(), {})}"}


@pytest.mark.parametrize(
    ("mode", "native"), [("port", True), ("redirect", True), ("port", False), ("redirect", False)]
)
def test_a_rollout(mode: str, native: bool) -> None:
    with cluster(mode, native) as here:
        pod = here.roll_out(POD_SPEC)
        sidecar = pod.running["sidecar"]
        [injected] = [each for each in pod.containers if each["name"] == "sidecar"]
        assert injected["resources"]["limits"] == {}, "as the webhook is told"

        # Whoever comes by the Service is decided, by the documents for this pod's labels.
        service = pod.port("http")
        assert service == (7400 if mode == "port" else 8080)
        status, body = pod.get(service, "/a")
        assert status == 401, sidecar.said
        assert json.loads(body)["code"] == "authentication_required"
        status, body = pod.get(service, "/a", bearer())
        assert status == 200, sidecar.said
        seen = json.loads(body)
        assert seen["headers"]["x-sidecar-subject"] == "alice"
        assert seen["headers"]["x-forwarded-for"] == CLIENT[0]
        application = pod.running["app"].said
        assert application.count("request /a\n") == 1, "nothing undecided came through"
        # What mode port leaves open (a NetworkPolicy closes it), mode redirect does not.
        assert pod.get(8080, "/b")[0] == (200 if mode == "port" else 401)

        # The control plane knows whose it is, and that it enforces what is published.
        [shown] = here.status()
        assert shown["id"] == "shop/web-7d9f-x0", shown
        assert shown["labels"] == {"app": "web"}
        assert shown["current"] is True

        # Probes go on working: they say how the application is, not how the sidecar is.
        [app] = [each for each in pod.containers if each["name"] == "app"]
        for kind in ("startupProbe", "readinessProbe"):
            assert pod.probe(app, kind) == 200
        assert "request /ready\n" in pod.running["app"].said

        # What is in flight when the pod is told to end is finished.
        with ThreadPoolExecutor(1) as callers:
            slow = callers.submit(pod.get, service, "/slow", bearer())
            until(lambda: "slow begun" in pod.running["app"].said, "it is in flight")
            pod.end()
            assert slow.result(30) == (200, b"finished")
        assert pod.get(service, "/a")[0] == 0


def test_a_pod_that_takes_anothers_registration_is_told_nothing() -> None:
    with cluster("port", True) as here:
        first = here.roll_out(POD_SPEC)
        response = here.review(
            {**POD_SPEC, "metadata": {"generateName": "evil-", "labels": {"app": "evil"}}}
        )
        patched = jsonpatch.apply_patch(
            {
                **copy.deepcopy(POD_SPEC),
                "metadata": {"generateName": "evil-", "labels": {"app": "evil"}},
            },
            json.loads(base64.b64decode(response["patch"])),
        )
        [container] = [c for c in patched["spec"]["initContainers"] if c["name"] == "sidecar"]
        [taken] = [c for c in first.containers if c["name"] == "sidecar"]
        container["env"] = taken["env"]  # the registration and labels of web, by the same account
        patched["metadata"]["name"] = "evil-x9"
        first.end()

        def account(audience: str) -> str:
            here.api.account("evil", "shop", "web", "evil-x9", audience)
            return "evil"

        evil = Kubelet(here.node, here.space, IMAGES, account, patched)
        here.pods.append(evil)
        evil._start(container)
        until(
            lambda: "registration is of another pod than evil-x9" in evil.running["sidecar"].said,
            f"refused: {evil.running['sidecar'].said}",
        )
        assert evil.get(7401, "/readyz")[0] == 503
        assert evil.get(7400, "/a", bearer())[0] == 503
        assert here.status() == []


def test_the_webhook_refuses_what_cannot_have_a_sidecar() -> None:
    with cluster("redirect", True) as here:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        here.api.put("/api/v1/namespaces/shop", metadata={"labels": labels})
        response = here.review(POD_SPEC)
        assert response["allowed"] is False
        assert "enforces the Pod Security Standard restricted" in response["status"]["message"]
