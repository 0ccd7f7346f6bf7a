"""The control plane's certificate over installs and upgrades: helm looks up what is in the cluster,
which here is a server that answers as the API would."""

from __future__ import annotations

import base64
import copy
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from tests.deploy.chart import CHART, NAMESPACE, Manifest, find, helm, read

CA, TLS = "sidecar-control-plane-ca", "sidecar-control-plane-tls"
DUE = "authz.sidecar/renew-after"


def _kinds() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in CHART.rglob("templates/**/*.yaml"):
        stands = re.findall(r"^apiVersion: (\S+)\nkind: ([A-Z]\w+)$", file.read_text(), re.M)
        for version, kind in [*stands, ("apps/v1", "StatefulSet")]:
            found.setdefault(version, set()).add(kind)
    return found


KINDS = _kinds()
"""All that the chart makes, by apiVersion."""


def _group(version: str) -> Manifest:
    one = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [one], "preferredVersion": one}


def _resource(kind: str) -> Manifest:
    plural = re.sub(r"y$", "ie", kind.lower()) + "s"
    everywhere = kind.startswith(("Cluster", "Mutating"))
    return {"name": plural, "kind": kind, "namespaced": not everywhere, "verbs": ["get"]}


class Cluster:
    """Its Secrets by name; `install` renders against it and keeps what was made."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.secrets: dict[str, Manifest] = {}

    def answer(self, path: str) -> Manifest | None:
        if path == "/version":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [_group(version) for version in KINDS if "/" in version]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            resources = [_resource(kind) for kind in sorted(KINDS[version])]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        return self.secrets.get(path.removeprefix(f"/api/v1/namespaces/{NAMESPACE}/secrets/"))

    def install(self, **tls: int) -> tuple[Manifest, Manifest]:
        """The Secrets of the CA and of the certificate that an install or upgrade makes."""
        done = helm(
            "template", "sidecar", str(CHART), "--namespace", NAMESPACE, "--values", "-",
            "--dry-run=server", "--disable-openapi-validation", "--kubeconfig", str(self.kubeconfig),
            stdin=json.dumps({"controlPlane": {"tls": tls}}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made = [find(read(done.stdout), "Secret", name) for name in (CA, TLS)]
        owner = {
            "meta.helm.sh/release-name": "sidecar",
            "meta.helm.sh/release-namespace": NAMESPACE,
        }
        for each in copy.deepcopy(made):
            each["metadata"].setdefault("annotations", {}).update(owner)
            self.secrets[each["metadata"]["name"]] = each
        return made[0], made[1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = found.answer(self.path.partition("?")[0])
            missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answer if answer is not None else missing).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }  # fmt: skip
    found.kubeconfig.write_text(json.dumps(config))
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(secret: Manifest, key: str = "tls.crt") -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(secret["data"][key]))


def test_sidecars_can_verify_it(cluster: Cluster) -> None:
    ca, tls = cluster.install(validDays=90)
    root, leaf = certificate(ca), certificate(tls)
    leaf.verify_directly_issued_by(root)
    assert tls["data"]["ca.crt"] == ca["data"]["tls.crt"]
    names = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert f"sidecar-control-plane.{NAMESPACE}.svc" in names.get_values_for_type(x509.DNSName)
    days = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days
    assert days == 90
    due = int(tls["metadata"]["annotations"][DUE])
    assert abs(due - (time.time() + 45 * 86_400)) < 3600
    usage = root.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value
    assert isinstance(usage, x509.BasicConstraints)
    assert usage.ca


def test_an_upgrade_keeps_it(cluster: Cluster) -> None:
    first = cluster.install()
    again = cluster.install()
    assert [each["data"] for each in again] == [each["data"] for each in first]
    assert again[1]["metadata"]["annotations"] == first[1]["metadata"]["annotations"]


def test_an_upgrade_in_the_second_half_of_its_life_renews_it_of_the_same_ca(
    cluster: Cluster,
) -> None:
    ca, old = cluster.install()
    cluster.secrets[TLS]["metadata"]["annotations"][DUE] = str(int(time.time()) - 60)
    same, new = cluster.install()
    assert same["data"] == ca["data"], "sidecars that run trust this one"
    assert new["data"]["tls.crt"] != old["data"]["tls.crt"]
    certificate(new).verify_directly_issued_by(certificate(ca))
    assert int(new["metadata"]["annotations"][DUE]) > time.time() + 86_400


def test_a_lost_certificate_is_made_of_the_ca_that_is_there(cluster: Cluster) -> None:
    ca, _ = cluster.install()
    del cluster.secrets[TLS]
    same, new = cluster.install()
    assert same["data"] == ca["data"]
    certificate(new).verify_directly_issued_by(certificate(ca))


def test_a_lost_ca_makes_both_anew(cluster: Cluster) -> None:
    ca, old = cluster.install()
    del cluster.secrets[CA]
    other, new = cluster.install()
    assert other["data"] != ca["data"]
    assert new["data"] != old["data"]
    certificate(new).verify_directly_issued_by(certificate(other))
