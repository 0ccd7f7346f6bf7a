"""Bound tokens and workloads at a real sidecar: TLS, several workers, files that change."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.demo.world import free_ports
from tests.casebook import jwks, token
from tests.certificates import Authority, Pair
from tests.e2e.processes import Sidecar, get, nginx, until
from tests.proofs import Prover

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {inline: $JWKS}}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {dpop: {nonce: $NONCE}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: home, match: {paths: [/, /index.html]}, require: {proof: [dpop, mtls]}}
  - {name: inside, match: {paths: [/inside]}, auth: workload, require: {workloads: ["spiffe://prod/ns/pay/sa/*"]}}
"""
BILLING = "spiffe://prod/ns/pay/sa/billing"
ME = Prover()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("upstream")
    seen = "location = /inside { return 200 '$http_x_sidecar_subject'; }"
    [port] = free_ports(1)
    more = f"server {{ listen 127.0.0.1:{port}; root {folder}/nginx/www; {seen} }}"
    with nginx(folder, more=more):
        yield f"http://127.0.0.1:{port}"


Run = Callable[..., Sidecar]


@pytest.fixture
def run(upstream: str, tmp_path: Path) -> Iterator[Run]:
    """Starts sidecars before the upstream; stops them, which must be a clean end."""
    running: list[Sidecar] = []

    def start(*arguments: str, nonce: str = "none", name: str = "run") -> Sidecar:
        policies = tmp_path / f"{name}-policies"
        policies.mkdir()
        text = DOCUMENTS.replace("$JWKS", json.dumps(jwks())).replace("$NONCE", nonce)
        (policies / "all.yaml").write_text(text)
        begun = Sidecar(tmp_path, upstream, "--policies", str(policies), *arguments, name=name)
        running.append(begun)
        return begun.ready()

    yield start
    assert [each.stop() for each in running] == [0 for _ in running]


def keyed() -> str:
    return token(time.time(), {"cnf": {"jkt": ME.thumbprint}})


def proven(url: str, credential: str, **more: object) -> dict[str, str]:
    proof = ME.proof("GET", f"{url}/", credential, time.time(), **more)
    return {"Authorization": f"DPoP {credential}", "DPoP": proof.decode()}


def test_each_proof_once_over_all_workers(run: Run) -> None:
    running = run("--workers", "2")
    credential = keyed()
    for _ in range(20):  # each connection is one worker's, as the kernel likes
        headers = proven(running.url, credential)
        answers = [get(running.url + "/", headers)[0] for _ in range(4)]
        assert answers == [200, 401, 401, 401]
    status, said, body = get(running.url + "/", headers)
    assert (status, json.loads(body)["code"]) == (401, "invalid_dpop_proof")
    assert said["WWW-Authenticate"].startswith('DPoP realm="bank", error="invalid_dpop_proof"')
    assert get(running.url + "/", {"Authorization": f"Bearer {credential}"})[0] == 401
    until(
        lambda: running.metric('sidecar_proofs_total{use="first"}') == 20, "20 proofs were counted"
    )


def test_a_nonce_of_one_worker_is_good_at_the_others_and_at_a_replica(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(b"k" * 32)
    shared = ("--dpop-nonce-key", str(tmp_path / "key"))
    one = run("--workers", "2", *shared, nonce="required")
    other = run(*shared, nonce="required", name="other")
    credential = keyed()
    status, said, _ = get(one.url + "/", proven(one.url, credential))
    assert status == 401
    assert said["WWW-Authenticate"].startswith('DPoP realm="bank", error="use_dpop_nonce"')
    nonce = said["DPoP-Nonce"]
    for running in (one, one, one, one, other):
        status, said, _ = get(running.url + "/", proven(running.url, credential, nonce=nonce))
        assert status == 200
        nonce = said["DPoP-Nonce"] or nonce  # a window may have ended meanwhile


class Caller:
    """Somebody with a certificate, or without one, over TLS."""

    def __init__(
        self, running: Sidecar, servers: Authority, folder: Path, pair: Pair | None
    ) -> None:
        written = pair.write(folder, "caller") if pair is not None else None
        context = servers.client_context(written)
        self.connection = http.client.HTTPSConnection(
            "localhost", running.port, context=context, timeout=20
        )

    def ask(self, path: str, credential: str = "") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        self.connection.request("GET", path, headers=headers)
        answer = self.connection.getresponse()
        body = answer.read().decode()
        return answer.status, body if answer.status == 200 else json.loads(body)["code"]

    def close(self) -> None:
        self.connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_certificates_bind_and_name(run: Run, tmp_path: Path, workers: str) -> None:
    servers, prod, partners = Authority("servers"), Authority("prod"), Authority("partners")
    certificate, key = servers.issue().write(tmp_path, "server")
    bundle = prod.write(tmp_path, "prod")
    running = run("--workers", workers, "--tls-cert", str(certificate), "--tls-key", str(key),
        "--tls-client-ca", str(partners.write(tmp_path, "partners")), "--tls-client-auth", "optional",
        "--trust-bundle", f"prod={bundle}",
    )  # fmt: skip
    partner, thief = partners.issue("partner"), partners.issue("thief")
    bound = token(time.time(), {"cnf": {"x5t#S256": partner.thumbprint}})

    def caller(pair: Pair | None) -> Caller:
        return Caller(running, servers, tmp_path, pair)

    holder = caller(partner)
    assert holder.ask("/", bound) == (200, "hello from nginx\n")
    assert holder.ask("/", bound) == (200, "hello from nginx\n")
    for other in (caller(thief), caller(None), caller(prod.issue("billing", BILLING))):
        assert other.ask("/", bound) == (401, "invalid_token")
        other.close()
    assert holder.ask("/", token(time.time(), {})) == (401, "invalid_token"), "it must be bound"
    assert holder.ask("/inside") == (401, "authentication_required")
    holder.close()

    billing = caller(prod.issue("billing", BILLING))
    assert billing.ask("/inside") == (200, BILLING)
    for pair in (
        partners.issue("billing", BILLING), prod.issue("b", "spiffe://stage/ns/pay/sa/billing"),
    ):  # fmt: skip
        other = caller(pair)
        assert other.ask("/inside") == (401, "authentication_required"), "nobody vouches for it"
        other.close()
    reports = caller(prod.issue("reports", "spiffe://prod/ns/stats/sa/reports"))
    assert reports.ask("/inside") == (403, "denied")
    reports.close()
    # Another CA takes over: who is connected is nobody from then on, and the token holder still is.
    Authority("prod, anew").write(tmp_path, "prod")
    running.process.send_signal(signal.SIGHUP)
    until(
        lambda: billing.ask("/inside") == (401, "authentication_required"), "the word is taken back"
    )
    billing.close()
    holder = caller(partner)
    assert holder.ask("/", bound)[0] == 200
    holder.close()


def test_a_proxy_in_front_tells_of_certificates_and_schemes(run: Run, tmp_path: Path) -> None:
    """TLS ends before us; what it says of its caller is believed of it and of nobody else."""
    partners = Authority("partners")
    partner, thief = partners.issue("partner"), partners.issue("thief")
    bound = token(time.time(), {"cnf": {"x5t#S256": partner.thumbprint}})

    def said(pair: Pair) -> str:
        return f":{base64.b64encode(pair.der).decode()}:"

    believing = run("--trusted-proxy", "127.0.0.0/8", "--client-cert-header", "client-cert")
    other = run("--trusted-proxy", "127.0.0.0/8", name="other")
    headers = {"Authorization": f"Bearer {bound}"}
    assert get(believing.url + "/", {**headers, "Client-Cert": said(partner)})[0] == 200
    assert get(believing.url + "/", {**headers, "Client-Cert": said(thief)})[0] == 401
    assert get(believing.url + "/", headers)[0] == 401
    assert get(other.url + "/", {**headers, "Client-Cert": said(partner)})[0] == 401
    # A proof names what the caller spoke to the proxy.
    credential = keyed()
    secure = believing.url.replace("http:", "https:")
    spoken = {**proven(secure, credential), "X-Forwarded-Proto": "https"}
    assert get(believing.url + "/", spoken)[0] == 200
    assert get(believing.url + "/", proven(secure, credential))[0] == 401


def test_a_handshake_without_a_good_certificate_comes_to_nothing(run: Run, tmp_path: Path) -> None:
    """With bundles alone a certificate is required, as with CAs of callers."""
    servers, prod = Authority("servers"), Authority("prod")
    certificate, key = servers.issue().write(tmp_path, "server")
    running = run("--tls-cert", str(certificate), "--tls-key", str(key),
        "--trust-bundle", f"prod={prod.write(tmp_path, 'prod')}",
    )  # fmt: skip
    caller = Caller(running, servers, tmp_path, prod.issue("billing", BILLING))
    assert caller.ask("/inside") == (200, BILLING)
    caller.close()
    for pair in (None, Authority("stranger").issue("billing", BILLING)):
        stranger = Caller(running, servers, tmp_path, pair)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            stranger.ask("/inside")
        stranger.close()
