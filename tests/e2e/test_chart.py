"""An installation played: control plane and webhook run as processes with the arguments that the chart
gives their containers, on the files that its volumes would hold, before an API server that admits
what the chart's RBAC admits. The example's pod is reviewed, and its sidecar runs as injected."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import jsonpatch
import pytest
import yaml

from sidecar.demo.world import free_ports
from sidecar.facts.signing import public_key_pem
from tests.certificates import Authority
from tests.conftest import ROOT
from tests.deploy.chart import NAMESPACE, Manifest, container, find, of_kind, pods, read, template
from tests.e2e.processes import Running, get, sidecar, until
from tests.kubernetes import Api, api_server

EXAMPLE = ROOT / "examples" / "kubernetes"
KINDS = {
    "Secret": f"/api/v1/namespaces/{NAMESPACE}/secrets/",
    "ConfigMap": f"/api/v1/namespaces/{NAMESPACE}/configmaps/",
    "MutatingWebhookConfiguration": (
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"
    ),
}
VERBS = {"GET": "get", "PATCH": "patch", "POST": "create"}


class Installation:
    """The chart's objects in an API server, and its programs. `stop` ends what runs."""

    def __init__(self, folder: Path, api: Api, provider: str = "self") -> None:
        self.folder = folder
        self.api = api
        done = template(
            {
                "controlPlane": {"tls": {"existingSecret": "own"}},
                "certificates": {"provider": provider},
            }
        )
        assert done.returncode == 0, done.stderr
        self.manifests = read(done.stdout)
        for each in self.manifests:
            if each["kind"] in KINDS:
                api.put(KINDS[each["kind"]] + each["metadata"]["name"], **_content(each))
        self.certify("own")  # of this machine's names, in place of the Service's
        self.listen, self.fleet, self.http, self.reviews, self.webhook_http = free_ports(5)
        self._open = ExitStack()

    def certify(self, secret: str, *names: str) -> str:
        """A Secret as cert-manager fills one; the CA, as its cainjector announces it."""
        authority = Authority()
        pair = authority.issue(*names)
        files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.pem}
        encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
        self.api.put(f"{KINDS['Secret']}{secret}", data=encoded)
        return encoded["ca.crt"]

    def start(self, program: str) -> None:
        """A container's command, with this machine's addresses and paths for the pod's."""
        here = {
            "127.0.0.1:7443": f"127.0.0.1:{self.listen}",
            "0.0.0.0:7444": f"127.0.0.1:{self.fleet}",
            "0.0.0.0:7480": f"127.0.0.1:{self.http}",
            "0.0.0.0:8443": f"127.0.0.1:{self.reviews}",
            "0.0.0.0:7481": f"127.0.0.1:{self.webhook_http}",
            f"sidecar-control-plane.{NAMESPACE}.svc:7444": f"127.0.0.1:{self.fleet}",
        }
        self.kubelet()
        arguments = []
        for argument in container(self.manifests, program)["args"]:
            flag, equals, value = argument.partition("=")
            value = here.get(value, value)
            value = re.sub(r"^(sqlite:///)?(/.*)", rf"\g<1>{self.folder}\g<2>", value)
            arguments.append(f"{flag}{equals}{value}")
        running = Running(
            [sys.executable, "-m", "sidecar", *arguments, f"--kubernetes={self.api.url}"],
            self.folder, program,
        )  # fmt: skip
        self._open.callback(running.stop)

    def run(self, running: Running) -> Running:
        self._open.callback(running.stop)
        return running

    def stop(self) -> None:
        self._open.close()

    def kubelet(self) -> bool:
        """Volumes hold what their Secrets and ConfigMaps hold now."""
        for _, _, spec in pods(self.manifests):
            volumes = {each["name"]: each for each in spec["volumes"]}
            for each in spec["containers"]:
                for mount in each["volumeMounts"]:
                    if mount["name"] in volumes:
                        self._fill(volumes[mount["name"]], mount["mountPath"])
        return True

    def _fill(self, volume: Manifest, path: str) -> None:
        if "secret" in volume:
            source, secret = volume["secret"], True
            name = KINDS["Secret"] + source["secretName"]
        elif "configMap" in volume:
            source, secret = volume["configMap"], False
            name = KINDS["ConfigMap"] + source["name"]
        else:
            return
        data = self.api.objects[name].get("data") or {}
        items = [item["key"] for item in source.get("items", [])] or list(data)
        target = Path(f"{self.folder}{path}")
        target.mkdir(parents=True, exist_ok=True)
        for key in items:
            content = base64.b64decode(data[key]) if secret else data[key].encode()
            file = target / key
            if not file.exists() or file.read_bytes() != content:
                (target / f".{key}").write_bytes(content)
                (target / f".{key}").rename(file)

    def object(self, kind: str, name: str) -> Manifest:
        return self.api.objects[KINDS[kind] + name]

    async def review(self, pod: Manifest) -> Manifest:
        """What the API server makes of a pod in namespace shop."""
        configuration = self.object("MutatingWebhookConfiguration", "sidecar")
        [webhook] = configuration["webhooks"]
        client = webhook["clientConfig"]
        context = ssl.create_default_context(cadata=base64.b64decode(client["caBundle"]).decode())
        request = {
            "uid": "1", "operation": "CREATE", "namespace": "shop", "object": pod,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
        }  # fmt: skip
        service = client["service"]
        async with aiohttp.ClientSession() as session, session.post(
            f"https://127.0.0.1:{self.reviews}{service['path']}", ssl=context,
            server_hostname=f"{service['name']}.{service['namespace']}.svc",
            json={"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request},
        ) as response:  # fmt: skip
            answer = (await response.json())["response"]
        assert answer["allowed"], answer
        changed: Manifest = jsonpatch.apply_patch(
            pod, json.loads(base64.b64decode(answer["patch"]))
        )
        return changed


def _content(manifest: Manifest) -> dict[str, Any]:
    return {
        name: value
        for name, value in manifest.items()
        if name not in ("apiVersion", "kind", "metadata")
    }


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    async with api_server() as api:
        found = Installation(tmp_path, api)
        namespace = yaml.safe_load((EXAMPLE / "namespace.yaml").read_text())["metadata"]
        api.objects["/api/v1/namespaces/shop"] = {"metadata": namespace}
        api.objects["/version"] = {"major": "1", "minor": "37"}
        api.account("the token of shop-abc12", "shop", "shop", pod="shop-abc12")
        try:
            yield found
        finally:
            await asyncio.to_thread(found.stop)


async def soon(condition: Callable[[], Any], what: str) -> Any:
    """`until`, while the API server goes on."""
    return await asyncio.to_thread(until, condition, what)


async def test_the_chart_s_programs_find_each_other_and_serve_a_pod(
    installation: Installation, tmp_path: Path
) -> None:
    it = installation
    await asyncio.to_thread(it.start, "webhook")
    await soon(lambda: get(f"http://127.0.0.1:{it.webhook_http}/healthz")[0] == 200, "webhook up")
    url = f"http://127.0.0.1:{it.webhook_http}/readyz"
    assert (await asyncio.to_thread(get, url))[0] == 503, "without the control plane's keys"
    await asyncio.to_thread(it.start, "control-plane")
    await soon(lambda: get(f"http://127.0.0.1:{it.http}/readyz")[0] == 200, "control plane")
    await soon(lambda: it.kubelet() and get(url)[0] == 200, "webhook ready")
    await soon(
        lambda: "registration.pem" in (it.object("ConfigMap", "sidecar-registration-keys").get("data") or {}),
        "registration keys",
    )  # fmt: skip
    it.kubelet()

    server = f"127.0.0.1:{it.listen}"
    done = await asyncio.to_thread(
        sidecar, "apply", "-f", str(EXAMPLE / "documents"), "--server", server
    )
    assert done.returncode == 0, done.stdout + done.stderr

    deployment = next(
        each
        for each in yaml.safe_load_all((EXAMPLE / "application.yaml").read_text())
        if each["kind"] == "Deployment"
    )
    pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
    pod["metadata"] = {**pod["metadata"], "generateName": "shop-"}
    changed = await it.review(pod)
    injected = next(
        each
        for each in [*changed["spec"].get("initContainers", []), *changed["spec"]["containers"]]
        if each["name"] == "sidecar"
    )
    token = tmp_path / "token"
    token.write_text("the token of shop-abc12")
    traffic, health, admin, upstream = free_ports(4)
    told = {each["name"]: each["value"] for each in injected["env"]} | {
        "SIDECAR_LISTEN": f"127.0.0.1:{traffic}",
        "SIDECAR_HEALTH": f"127.0.0.1:{health}",
        "SIDECAR_ADMIN": f"127.0.0.1:{admin}",
        "SIDECAR_STATE": str(tmp_path / "state"),
        "SIDECAR_CONTROL_PLANE_TOKEN": str(token),
        "SIDECAR_UPSTREAM": f"http://127.0.0.1:{upstream}",
    }
    variables = [f"{name}={value}" for name, value in told.items()]
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("welcome to the shop")
    serve = [sys.executable, "-m", "http.server", str(upstream), "--bind", "127.0.0.1"]
    it.run(Running([*serve, "--directory", str(site)], tmp_path, "upstream"))
    ran = it.run(
        Running(
            ["env", *variables, sys.executable, "-m", "sidecar", *injected["args"]], tmp_path, "run"
        )
    )
    await soon(lambda: get(f"http://127.0.0.1:{health}/readyz")[0] == 200, f"sidecar: {ran.said}")
    status, _, body = await asyncio.to_thread(get, f"http://127.0.0.1:{traffic}/")
    assert (status, body) == (200, b"welcome to the shop")
    assert (await asyncio.to_thread(get, f"http://127.0.0.1:{traffic}/orders.json"))[0] == 401
    shown = await asyncio.to_thread(sidecar, "status", "--server", server)
    assert "shop/shop-abc12" in shown.stdout

    used = rules_used(it)
    every = [
        (f"{role['kind']} {role['metadata']['name']}", number)
        for role in of_kind(it.manifests, "Role") + of_kind(it.manifests, "ClusterRole")
        for number, _ in enumerate(role["rules"])
    ]
    assert {each[:2] for each in used} == set(every), "each rule is used"
    verbs = {
        (name, number, verb)
        for name, number in every
        for verb in rule_of(it, name, number)["verbs"]
    }
    assert used == verbs, "and each of its verbs"


async def test_with_cert_manager_the_webhook_says_where_and_cainjector_by_whom(
    tmp_path: Path,
) -> None:
    async with api_server() as api:
        it = Installation(tmp_path, api, "certManager")
        api.objects["/api/v1/namespaces/shop"] = {"metadata": {}}
        api.objects["/version"] = {"major": "1", "minor": "37"}
        name = f"sidecar-webhook.{NAMESPACE}.svc"
        bundle = it.certify("sidecar-webhook-tls", "webhook", name)
        secrets = KINDS["Secret"]  # both programs' are mounted at one path, here in one folder
        api.objects[f"{secrets}own"] = api.objects[f"{secrets}sidecar-webhook-tls"]
        [webhook] = it.object("MutatingWebhookConfiguration", "sidecar")["webhooks"]
        webhook["clientConfig"]["caBundle"] = bundle
        keys = {"release.pem": public_key_pem(bytes(32)).decode()}
        it.object("ConfigMap", "sidecar-release-keys")["data"] = keys
        try:
            await asyncio.to_thread(it.start, "webhook")
            url = f"http://127.0.0.1:{it.webhook_http}/readyz"
            await soon(lambda: get(url)[0] == 200, "webhook ready")
            container = {
                "name": "app",
                "image": "i",
                "ports": [{"name": "http", "containerPort": 1}],
            }
            changed = await it.review(
                {"metadata": {"name": "a"}, "spec": {"containers": [container]}}
            )
            assert "sidecar" in json.dumps(changed["spec"])
            [webhook] = it.object("MutatingWebhookConfiguration", "sidecar")["webhooks"]
            assert webhook["clientConfig"]["caBundle"] == bundle
            assert rules_used(it)
        finally:
            await asyncio.to_thread(it.stop)


def rule_of(it: Installation, name: str, number: int) -> Manifest:
    kind, _, name = name.partition(" ")
    rule: Manifest = find(it.manifests, kind, name)["rules"][number]
    return rule


def rules_used(it: Installation) -> set[tuple[str, int, str]]:
    """Of every call, the rule that permits it: there must be one."""
    used = set()
    for method, path, _ in it.api.calls:
        if path == "/version":
            continue  # system:public-info-viewer
        found = re.fullmatch(
            r"/apis?(?:/([^/]+(?=/v1/)))?/v1/(?:namespaces/([^/]+)/)?([a-z]+)(?:/([^/]+))?", path
        )
        assert found, path
        group, namespace, resource, name = found.groups()
        permitting = {
            (f"{role['kind']} {role['metadata']['name']}", number, VERBS[method])
            for role in of_kind(it.manifests, "Role") + of_kind(it.manifests, "ClusterRole")
            for number, rule in enumerate(role["rules"])
            if rule["apiGroups"] == [group or ""]
            and rule["resources"] == [resource]
            and name in rule.get("resourceNames", [name])
            and VERBS[method] in rule["verbs"]
            and (role["kind"] == "ClusterRole" or namespace == role["metadata"]["namespace"])
        }
        assert permitting, f"nothing permits {method} {path}"
        used |= permitting
    return used
