"""Opaque tokens of an OpenID Provider written by others, at a real sidecar that asks about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.processes import Sidecar, nginx, until
from tests.e2e.provider import SECRET, Provider, new_key, running_provider
from tests.e2e.test_provider import ask, refused

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: provider}
spec:
  issuer: "$ISSUER"
  audiences: [bank]
  introspection:
    endpoint: $ENDPOINT/token/introspection
    clientId: $CLIENT
    cache: $CACHE
    negativeCache: 1ms
    $MORE
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: read, match: {methods: [GET], paths: [/index.html]}, require: {scopes: [read]}}
"""
BY_SECRET = "clientSecret: {fromFile: $SECRETS/idp}"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx(tmp_path_factory.mktemp("upstream")) as address:
        yield address


def secrets(folder: Path, provider: Provider) -> Path:
    """All that a client may authenticate with."""
    path = folder / "secrets"
    path.mkdir()
    (path / "idp").write_text(f"{SECRET}\n")
    (path / "key").write_bytes(
        provider.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    certificate, key = provider.certificate("bank-certificate")
    for name, file in (("cert.pem", certificate), ("cert.key", key), ("ca.pem", provider.ca)):
        (path / name).write_bytes(file.read_bytes())
    return path


@contextmanager
def run(
    folder: Path, upstream: str, provider: Provider, *arguments: str,
    client: str = "bank-secret", more: str = BY_SECRET, cache: str = "30s", tls: bool = False,
) -> Iterator[Sidecar]:  # fmt: skip
    held = secrets(folder, provider)
    policies = folder / "bank.yaml"
    text = DOCUMENTS.replace("$MORE", more).replace("$ISSUER", provider.issuer)
    text = text.replace("$ENDPOINT", provider.mtls if tls else provider.issuer)
    text = text.replace("$CLIENT", client).replace("$CACHE", cache)
    policies.write_text(text.replace("$SECRETS", str(held)))
    started = Sidecar(
        folder, upstream, "--policies", str(policies), "--secrets", str(held), *arguments
    ).ready()
    try:
        yield started
    finally:
        assert started.stop() == 0, started.said


@pytest.mark.parametrize(
    ("client", "more", "tls"),
    [
        ("bank-secret", BY_SECRET, False),
        ("bank-key", "privateKey: {fromFile: $SECRETS/key}", False),
        (
            "bank-certificate",
            "certificate: {fromFile: $SECRETS/cert.pem}\n"
            "    privateKey: {fromFile: $SECRETS/cert.key}\n"
            "    ca: {fromFile: $SECRETS/ca.pem}",
            True,
        ),
    ],
    ids=["client_secret_basic", "private_key_jwt", "tls_client_auth"],
)
def test_a_token_is_admitted_by_what_its_issuer_says(
    tmp_path: Path, upstream: str, provider: Provider, client: str, more: str, tls: bool
) -> None:
    with run(tmp_path, upstream, provider, client=client, more=more, tls=tls) as running:
        token = provider.token(resource="urn:opaque")["access_token"]
        status, _, body = ask(running, token)
        assert (status, body) == (200, b"hello from nginx\n"), running.said
        for _ in range(5):
            assert ask(running, token)[0] == 200
        assert running.metric('sidecar_introspections_total{result="active"}') == 1
        assert ask(running, provider.token(resource="urn:opaque", scope="write")["access_token"])[
            0
        ] == 403  # fmt: skip
        refused(running, "never-issued", "introspection_inactive")
        # The issuer's JWTs are checked here as ever, and nobody is asked about them.
        asked = running.metric('sidecar_introspections_total{result="active"}')
        assert ask(running, provider.token()["access_token"])[0] == 200
        assert running.metric('sidecar_introspections_total{result="active"}') == asked
        text = running.said + running.decisions.read_text()
        assert token not in text
        assert SECRET not in text


def test_what_is_revoked_at_the_issuer_stops_within_the_cache(
    tmp_path: Path, upstream: str, provider: Provider
) -> None:
    with run(tmp_path, upstream, provider, "--workers", "2", cache="100ms") as running:
        token = provider.token(resource="urn:opaque")["access_token"]
        assert ask(running, token)[0] == 200
        provider.revoke(token)
        # Each worker remembers for itself: it has stopped where no worker of the two admits it.
        until(lambda: all(ask(running, token)[0] == 401 for _ in range(30)), "it stopped", 10)
        refused(running, token, "introspection_inactive")


def test_a_token_without_a_subject_needs_a_word_in_the_document(
    tmp_path: Path, upstream: str, provider: Provider
) -> None:
    with run(tmp_path, upstream, provider) as running:
        plain = provider.token(resource="urn:plain")["access_token"]
        refused(running, plain, "subject_missing")
        policies = tmp_path / "bank.yaml"
        policies.write_text(
            policies.read_text().replace(
                "  introspection:", "  claims: {subject: client_id}\n  introspection:"
            )
        )
        until(lambda: ask(running, plain)[0] == 200, "the client is the subject")


def test_bound_opaque_tokens_are_no_bearer_tokens(
    tmp_path: Path, upstream: str, provider: Provider
) -> None:
    with run(tmp_path, upstream, provider) as running:
        by_key = provider.token("dpop", resource="urn:opaque", dpop=new_key())
        refused(running, by_key["access_token"], "proof_missing")
        certificate = provider.certificate("mtls")
        bound = provider.token("mtls", resource="urn:opaque", certificate=certificate)
        refused(running, bound["access_token"], "certificate_missing")


def test_a_wrong_secret_and_a_server_that_is_gone_decide_as_503(
    tmp_path: Path, upstream: str
) -> None:
    with running_provider(tmp_path) as provider, run(tmp_path, upstream, provider) as running:
        (tmp_path / "secrets" / "idp").write_text("wrong")
        token = provider.token(resource="urn:opaque")["access_token"]
        status, headers, _ = ask(running, token)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "answered 401" in running.said
        (tmp_path / "secrets" / "idp").write_text(SECRET)
        until(lambda: ask(running, token)[0] == 200, "with the right one")
        provider.stop()
        assert ask(running, token)[0] == 200, "as long as the answer is believed"
        assert ask(running, "another")[0] == 503


def test_no_document_can_have_another_file_sent_somewhere(
    tmp_path: Path, upstream: str, provider: Provider
) -> None:
    (tmp_path / "private").write_text("private")
    more = f"clientSecret: {{fromFile: {tmp_path}/private}}"
    with run(tmp_path, upstream, provider, more=more) as running:
        token = provider.token(resource="urn:opaque")["access_token"]
        assert ask(running, token)[0] == 503
        assert "is no file below" in running.said
