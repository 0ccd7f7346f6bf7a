"""Bound tokens of an OpenID Provider written by others, JWTs and opaque ones, at a real sidecar."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.e2e.processes import Sidecar, get
from tests.e2e.provider import Provider, dpop_proof, new_key
from tests.e2e.test_opaque import run, upstream

__all__ = ["upstream"]
SERVERS = Authority("servers")
KINDS = pytest.mark.parametrize("resource", ["urn:bank", "urn:opaque"], ids=["jwt", "opaque"])
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def running(
    provider: Provider, upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """One that speaks TLS, and asks for certificates that the provider's authority signed."""
    folder = tmp_path_factory.mktemp("bound")
    certificate, key = SERVERS.issue().write(folder, "server")
    tls = (
        "--tls-cert",
        str(certificate),
        "--tls-key",
        str(key),
        "--tls-client-ca",
        str(provider.ca),
    )
    with run(folder, upstream, provider, *tls, "--tls-client-auth", "optional") as started:
        yield started


def url(running: Sidecar) -> str:
    return f"https://localhost:{running.port}/index.html"


def asked(
    running: Sidecar, headers: dict[str, str], shown: Files | None = None
) -> tuple[int, str, str]:
    """Status, code and challenge."""
    context: ssl.SSLContext = SERVERS.client_context(shown)
    status, said, body = get(url(running), headers, context)
    code = "" if status == 200 else json.loads(body)["code"]
    return status, code, said.get("www-authenticate", "")


@KINDS
def test_a_key_bound_token_with_its_proof(
    running: Sidecar, provider: Provider, resource: str
) -> None:
    key, other = new_key(), new_key()
    answer = provider.token("dpop", resource=resource, dpop=key)
    assert answer["token_type"] == "DPoP"
    token = answer["access_token"]

    def headers(**more: object) -> dict[str, str]:
        proof = dpop_proof(key, "GET", url(running), token, **more)
        return {"Authorization": f"DPoP {token}", "DPoP": proof}

    first = headers()
    assert asked(running, first)[0] == 200
    assert asked(running, headers())[0] == 200
    status, code, said = asked(running, first)
    assert (status, code) == (401, "invalid_dpop_proof"), "once"
    assert 'error="invalid_dpop_proof"' in said
    assert said.startswith("DPoP ")
    for wrong in (
        {"Authorization": f"DPoP {token}"},
        {**headers(), "DPoP": dpop_proof(other, "GET", url(running), token)},
        {**headers(), "DPoP": dpop_proof(key, "POST", url(running), token)},
        {**headers(), "DPoP": dpop_proof(key, "GET", url(running) + "/x", token)},
        {**headers(), "DPoP": dpop_proof(key, "GET", url(running))},
        headers(iat=0),
    ):
        assert asked(running, wrong)[:2] == (401, "invalid_dpop_proof")
    assert asked(running, {"Authorization": f"Bearer {token}"})[:2] == (401, "invalid_token")
    assert asked(running, {**headers(), "Authorization": f"Bearer {token}"})[0] == 401


@KINDS
def test_a_certificate_bound_token_with_its_certificate(
    running: Sidecar, provider: Provider, resource: str
) -> None:
    shown, other = provider.certificate("mtls"), provider.certificate("mtls")
    token = provider.token("mtls", resource=resource, certificate=shown)["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert asked(running, headers, shown)[0] == 200
    for wrong in (other, None):
        status, code, said = asked(running, headers, wrong)
        assert (status, code) == (401, "invalid_token")
        assert said.startswith("Bearer ")
    assert asked(running, headers, shown)[0] == 200
    assert asked(running, {"Authorization": f"DPoP {token}"}, shown)[0] == 401


@KINDS
def test_an_unbound_token_is_a_bearer_token(
    running: Sidecar, provider: Provider, resource: str
) -> None:
    token = provider.token(resource=resource)["access_token"]
    assert asked(running, {"Authorization": f"Bearer {token}"})[0] == 200
    proof = dpop_proof(new_key(), "GET", url(running), token)
    bound = {"Authorization": f"DPoP {token}", "DPoP": proof}
    assert asked(running, bound)[:2] == (401, "invalid_token")
