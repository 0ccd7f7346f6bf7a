"""Tokens of an OpenID Provider written by others, at a real sidecar before nginx.

The sidecar is told the provider's issuer and nothing else; it finds the keys by OIDC discovery.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.e2e.processes import Sidecar, get, nginx, until
from tests.e2e.provider import Provider, dpop_proof, new_key, running_provider

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: provider}
spec: {issuer: "$ISSUER", audiences: [bank]}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: read, match: {methods: [GET], paths: [/index.html]}, require: {scopes: [read]}}
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(tmp_path_factory.mktemp("upstream")) as address:
        yield address


@pytest.fixture(scope="module")
def running(
    provider: Provider, upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    started = run(tmp_path_factory.mktemp("provided"), upstream, provider)
    yield started
    assert started.stop() == 0, started.said


def run(folder: Path, upstream: str, provider: Provider) -> Sidecar:
    """A sidecar that admits the provider's tokens, once it has the provider's keys."""
    policies = folder / "bank.yaml"
    policies.write_text(DOCUMENTS.replace("$ISSUER", provider.issuer))
    started = Sidecar(folder, upstream, "--policies", str(policies)).ready()

    def fetched() -> bool:
        status, _, body = get(f"{started.admin}/snapshot")
        return status == 200 and json.loads(body)["keys"][provider.issuer]["keys"] > 0

    try:
        until(fetched, f"the provider's keys: {started.said}")
    except BaseException:
        started.stop()
        raise
    return started


def ask(running: Sidecar, token: str, **headers: str) -> tuple[int, Any, bytes]:
    url = f"{running.url}/index.html"
    return get(url, {"Authorization": f"Bearer {token}", **headers})


def refused(running: Sidecar, token: str, reason: str, **headers: str) -> None:
    """It is 401 invalid_token to the caller, and `reason` in the decision log."""
    status, said, body = ask(running, token, **headers)
    assert status == 401
    assert 'error="invalid_token"' in said["www-authenticate"]
    identifier = json.loads(body)["decision_id"]

    def logged() -> dict[str, Any] | None:
        records = map(json.loads, running.decisions.read_text().splitlines())
        return next((r for r in records if r["decision_id"] == identifier), None)

    assert until(logged, "logged")["reason"] == reason


def test_a_jwt_is_admitted_with_keys_found_by_discovery(
    running: Sidecar, provider: Provider
) -> None:
    answer = provider.token(scope="read write")
    assert (answer["token_type"], answer["scope"]) == ("Bearer", "read write")
    token = answer["access_token"]
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    status, _, body = ask(running, token)
    assert (status, body) == (200, b"hello from nginx\n")


def test_the_scopes_of_a_jwt_count(running: Sidecar, provider: Provider) -> None:
    status, headers, _ = ask(running, provider.token(scope="write")["access_token"])
    assert status == 403
    assert 'error="insufficient_scope"' in headers["www-authenticate"]
    assert 'scope="read"' in headers["www-authenticate"]


def test_a_jwt_for_another_audience_is_refused(running: Sidecar, provider: Provider) -> None:
    token = provider.token(resource="urn:other")["access_token"]
    refused(running, token, "audience_mismatch")


def test_a_jwt_of_another_provider_is_refused(
    running: Sidecar, provider: Provider, tmp_path: Path
) -> None:
    with running_provider(tmp_path) as other:
        refused(running, other.token()["access_token"], "issuer_unknown")


def test_a_dpop_bound_token_is_no_bearer_token(running: Sidecar, provider: Provider) -> None:
    key = new_key()
    answer = provider.token("dpop", dpop=key)
    assert answer["token_type"] == "DPoP"
    token = answer["access_token"]
    refused(running, token, "proof_missing")
    # RFC 9449 §7.2: not as a bearer token, even if a proof is there as well.
    proof = dpop_proof(key, "GET", f"{running.url}/index.html", token)
    assert ask(running, token, DPoP=proof)[0] == 401


def test_an_mtls_bound_token_is_nothing_without_its_certificate(
    running: Sidecar, provider: Provider
) -> None:
    answer = provider.token("mtls", certificate=provider.certificate("mtls"))
    assert answer["token_type"] == "Bearer"  # RFC 8705 has no type of its own
    refused(running, answer["access_token"], "certificate_missing")


def test_opaque_tokens_are_known_to_those_who_may_ask(provider: Provider) -> None:
    """The provider by itself: what its introspection says, and to whom."""
    token = provider.token(resource="urn:opaque")["access_token"]
    assert "." not in token
    said = provider.introspect(token)
    assert said["active"] is True
    assert (said["iss"], said["sub"], said["aud"]) == (provider.issuer, "bearer", "bank")
    assert provider.introspect(token, "bank-key") == said
    certificate = provider.certificate("bank-certificate")
    assert provider.introspect(token, "bank-certificate", certificate) == said
    provider.revoke(token)
    assert provider.introspect(token) == {"active": False}
    plain = provider.introspect(provider.token(resource="urn:plain")["access_token"])
    assert plain["client_id"] == "bearer"
    assert "sub" not in plain


def test_bound_opaque_tokens_say_to_what_they_are_bound(provider: Provider) -> None:
    by_key = provider.token("dpop", resource="urn:opaque", dpop=new_key())
    assert list(provider.introspect(by_key["access_token"])["cnf"]) == ["jkt"]
    certificate = provider.certificate("mtls")
    by_certificate = provider.token("mtls", resource="urn:opaque", certificate=certificate)
    assert list(provider.introspect(by_certificate["access_token"])["cnf"]) == ["x5t#S256"]


def test_rotated_keys(upstream: str, tmp_path: Path) -> None:
    """New keys are fetched when a token names one; withdrawn ones end with that fetch."""
    with running_provider(tmp_path) as provider:
        first = provider.token()["access_token"]
        opaque = provider.token(resource="urn:opaque")["access_token"]
        provider.rotate()
        second = provider.token()["access_token"]
        running = run(tmp_path, upstream, provider)
        try:
            assert ask(running, second)[0] == 200
            assert ask(running, first)[0] == 200, "its key signs no more, but is published"
            provider.rotate()
            third = provider.token()["access_token"]
            # The sidecar lets some seconds pass between two fetches for one issuer.
            until(lambda: ask(running, third)[0] == 200, "the third key is known")
            assert ask(running, second)[0] == 200
            refused(running, first, "key_unknown")
            assert provider.introspect(opaque)["active"] is True
        finally:
            assert running.stop() == 0, running.said
