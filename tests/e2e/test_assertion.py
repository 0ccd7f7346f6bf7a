"""What the service behind is told, by `sidecar run` as a process: verified as a service would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.casebook import ISSUER, jwks, token
from tests.e2e.processes import Sidecar, get, until

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {file: keys.jwks}}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec:
  credentials: [{header: authorization}, {cookie: sid}]
  removeCredential: true
  assertion: {audience: bank-backend, algorithm: ALGORITHM}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: open, match: {paths: [/open]}, auth: none}
  - {name: rest, match: {methods: [GET], paths: ["/**"]}}
"""
JWKS = "/.well-known/sidecar/jwks.json"


@contextmanager
def mirror() -> Iterator[str]:
    """An upstream that answers with the headers that it got, as pairs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps([(name.lower(), value) for name, value in self.headers.items()])
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["ES256", "EdDSA"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sidecar]:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "keys.jwks").write_text(json.dumps(jwks()))
    (folder / "bank.yaml").write_text(DOCUMENTS.replace("ALGORITHM", request.param))
    with mirror() as upstream:
        workers = "2" if request.param == "ES256" else "1"
        started = Sidecar(tmp_path, upstream, "--policies", str(folder), "--workers", workers)
        yield started.ready()
        assert started.stop() == 0, started.said


def seen(running: Sidecar, path: str = "/x", **headers: str) -> dict[str, str]:
    status, _, body = get(f"{running.url}{path}", headers)
    assert status == 200, body
    return dict(json.loads(body))


def test_a_service_believes_it_by_the_keys_that_are_published(running: Sidecar) -> None:
    credential = token(time.time(), {"exp": 600, "scope": "read"})
    status, headers, body = get(running.url + JWKS)
    assert status == 200
    assert headers["content-type"] == "application/jwk-set+json"
    published = jwt.PyJWKSet.from_dict(json.loads(body))
    for _ in range(8):  # at either worker, where there are two
        found = seen(running, authorization=f"Bearer {credential}")
        assertion = found["x-sidecar-assertion"]
        head = jwt.get_unverified_header(assertion)
        claims = jwt.decode(
            assertion, published[head["kid"]].key, [head["alg"]], audience="bank-backend",
            issuer="urn:sidecar:default:bank",
        )  # fmt: skip
        assert claims["sub_id"] == {"format": "iss_sub", "iss": ISSUER, "sub": "alice"}
        assert "authorization" not in found


def test_the_credential_stays_here_and_nothing_else_does(running: Sidecar) -> None:
    credential = token(time.time(), {"exp": 600})
    found = seen(running, cookie=f"theme=dark; sid={credential}; lang=en")
    assert found["cookie"] == "theme=dark; lang=en"
    assert credential not in json.dumps(found)
    # Where nothing was looked at nothing is taken away, and nobody is asserted.
    found = seen(running, "/open", authorization="Basic dTpw")
    assert found["authorization"] == "Basic dTpw"
    assert "x-sidecar-assertion" not in found
    assert seen(running, "/open", **{"x-sidecar-assertion": "forged"}).keys() == {
        "host", "accept-encoding", "user-agent", "x-forwarded-for", "x-forwarded-proto",
        "x-forwarded-host", "x-sidecar-decision", "traceparent",
    }  # fmt: skip


def test_without_it_there_are_no_keys_and_no_hole(running: Sidecar, tmp_path: Path) -> None:
    assert get(running.url + JWKS, method="POST", data=b"")[0] == 401
    file = tmp_path / "policies" / "bank.yaml"
    file.write_text("\n".join(line for line in file.read_text().split("\n") if "asser" not in line))
    until(lambda: get(running.url + JWKS)[0] == 401, "the keys are gone")
    credential = token(time.time(), {"exp": 600})
    assert "x-sidecar-assertion" not in seen(running, authorization=f"Bearer {credential}")
