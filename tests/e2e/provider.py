"""The OpenID Provider of the end-to-end tests: npm's oidc-provider, started on loopback.

`provider` in conftest.py is one for the whole session; a test that rotates keys starts its own. What
the provider issues, and to which clients, is written in oidc/provider.mjs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.certificates import Authority
from tests.conftest import ROOT
from tests.e2e.processes import Running, get, program, until

SECRET = "secret"  # of every client that has one
_INSTALLED = ROOT / "build" / "oidc"  # by the Makefile
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key for DPoP proofs or client assertions, ES256."""
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    return jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)


def dpop_proof(
    key: ec.EllipticCurvePrivateKey, method: str, url: str, token: str = "", **claims: Any
) -> str:
    """A DPoP proof (RFC 9449 §4.2), with `ath` if it goes with a token; `claims` replace others."""
    body = {"jti": str(uuid.uuid4()), "htm": method, "htu": url, "iat": int(time.time())}
    if token:
        digest = hashlib.sha256(token.encode()).digest()
        body["ath"] = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    header = {"typ": "dpop+jwt", "jwk": public_jwk(key)}
    return jwt.encode({**body, **claims}, key, "ES256", header)


class Provider:
    """The provider, running.

    `issuer` is its address over http, `mtls` the one over https; `authority` signed the certificate
    of the latter and signs those of callers; `key` is the private key of the client bank-key.
    """

    def __init__(self, folder: Path) -> None:
        if not (_INSTALLED / ".ready").exists():
            if os.environ.get("CI"):
                pytest.fail("oidc-provider is not installed; `make test` installs it")
            pytest.skip("oidc-provider is not installed")
        self.authority = Authority("provider")
        self.ca = self.authority.write(folder, "provider-ca")
        self.key = new_key()
        self._folder = folder
        certificate, secret = self.authority.issue().write(folder, "provider")
        keys = folder / "bank-key.jwks"
        keys.write_text(json.dumps({"keys": [public_jwk(self.key)]}))
        self._running = Running(
            [
                program("node"), str(Path(__file__).parent / "oidc" / "provider.mjs"),
                "--modules", str(_INSTALLED), "--certificate", str(certificate),
                "--key", str(secret), "--ca", str(self.ca), "--jwks", str(keys),
            ],
            folder, "provider",
        )  # fmt: skip
        try:
            addresses = until(self._addresses, "the provider listens")
        except BaseException:
            self.stop()
            raise
        self.issuer: str = addresses["issuer"]
        self.mtls: str = addresses["mtls"]

    def _addresses(self) -> Any:
        assert self._running.process.poll() is None, self._running.said
        lines = self._running.said.splitlines(keepends=True)
        line = next((x for x in lines if x.startswith("{") and x.endswith("\n")), None)
        return line and json.loads(line)

    def certificate(self, name: str) -> tuple[Path, Path]:
        """A new certificate and its key for a client such as `mtls`, signed by `authority`."""
        return self.authority.issue(name, name).write(self._folder, f"{name}-{uuid.uuid4()}")

    def token(
        self,
        client: str = "bearer",
        *,
        resource: str = "urn:bank",
        scope: str = "read",
        dpop: ec.EllipticCurvePrivateKey | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> dict[str, Any]:
        """The token response: `access_token`, `token_type`, `expires_in`, `scope`.

        The client `dpop` needs a key to bind the token to, `mtls` a certificate.
        """
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        return self._post("token", client, form, certificate, dpop)

    def introspect(
        self, token: str, by: str = "bank-secret", certificate: tuple[Path, Path] | None = None
    ) -> dict[str, Any]:
        """What RFC 7662 says of a token to `bank-secret`, `bank-key` or `bank-certificate`.

        `bank-certificate` needs a certificate.
        """
        return self._post("token/introspection", by, {"token": token}, certificate)

    def revoke(
        self, token: str, client: str = "bearer", certificate: tuple[Path, Path] | None = None
    ) -> None:
        """Revoke an opaque token (RFC 7009), as the client that it was issued to."""
        self._post("token/revocation", client, {"token": token}, certificate)

    def rotate(self) -> None:
        """Sign with a new key. The one before stays published, the one before that does not."""
        before = self._published()
        self._running.process.send_signal(signal.SIGHUP)
        until(lambda: self._published() not in (b"", before), "the provider's new key")

    def _published(self) -> bytes:
        return get(f"{self.issuer}/jwks")[2]

    def stop(self) -> None:
        self._running.stop()

    def _post(
        self,
        path: str,
        client: str,
        form: dict[str, str],
        certificate: tuple[Path, Path] | None,
        dpop: ec.EllipticCurvePrivateKey | None = None,
    ) -> dict[str, Any]:
        """The answer to a client that authenticates as it is registered; fails unless it is 200."""
        url = f"{self.mtls if certificate else self.issuer}/{path}"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if certificate:
            form = {**form, "client_id": client}
        elif client == "bank-key":
            form = {
                **form,
                "client_assertion_type": _ASSERTION,
                "client_assertion": self._assertion(client),
            }
        else:
            basic = base64.b64encode(f"{client}:{SECRET}".encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        if dpop is not None:
            headers["DPoP"] = dpop_proof(dpop, "POST", url)
        context = self.authority.client_context(certificate) if certificate else None
        status, _, body = get(
            url, headers, context, data=urllib.parse.urlencode(form).encode(), method="POST"
        )
        assert status == 200, f"{status} {body!r}"
        answer: dict[str, Any] = json.loads(body or b"{}")
        return answer

    def _assertion(self, client: str) -> str:
        """RFC 7523 §3, for private_key_jwt."""
        now = int(time.time())
        claims = {
            "iss": client, "sub": client, "aud": self.issuer, "jti": str(uuid.uuid4()),
            "iat": now, "exp": now + 60,
        }  # fmt: skip
        return jwt.encode(claims, self.key, "ES256")


@contextmanager
def running_provider(folder: Path) -> Iterator[Provider]:
    """A provider of one's own."""
    started = Provider(folder)
    try:
        yield started
    finally:
        started.stop()
