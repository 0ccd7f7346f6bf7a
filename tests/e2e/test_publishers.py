"""Commands and a control plane as processes: with TLS, publishers, and what it does not begin with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import certificates
from tests.casebook import jwks, token
from tests.e2e.processes import get, sidecar
from tests.e2e.test_control import ControlPlane, policies

IDP = "https://idp.example"
FILE = f"""issuers:
- issuer: {IDP}
  audience: sidecar-control-plane
  jwks: {{file: keys.jwks}}
permissions:
- {{who: {{issuer: "{IDP}", subject: alice}}, role: publisher}}
- {{who: {{issuer: "{IDP}", subject: bob}}, role: viewer}}
- {{who: {{certificate: deploy.ci.example}}, role: viewer}}
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[ControlPlane, dict[str, str]]]:
    """A control plane at every address of this machine, and the environment of who may publish."""
    authority = certificates.Authority()
    ca = authority.write(tmp_path)
    certificate, key = authority.issue().write(tmp_path, "server")
    (tmp_path / "keys.jwks").write_text(json.dumps(jwks()))
    (tmp_path / "publishers.yaml").write_text(FILE)
    control = ControlPlane(tmp_path)
    port = control.server.rpartition(":")[2]
    control.start(
        "--listen", f"0.0.0.0:{port}", "--publishers", str(tmp_path / "publishers.yaml"),
        "--publisher-tls-cert", str(certificate), "--publisher-tls-key", str(key),
    )  # fmt: skip
    environ = {
        **os.environ,
        "SIDECAR_SERVER": f"localhost:{port}",
        "SIDECAR_SERVER_CA": str(ca),
        "SIDECAR_SERVER_TOKEN_FILE": str(shown(tmp_path, "alice")),
    }
    yield control, environ
    assert control.running is not None
    control.running.stop()


def shown(folder: Path, subject: str) -> Path:
    file = folder / f"{subject}.jwt"
    file.write_text(token(time.time(), {"sub": subject, "aud": "sidecar-control-plane"}))
    return file


def test_from_the_environment(guarded: tuple[ControlPlane, dict[str, str]], tmp_path: Path) -> None:
    control, environ = guarded
    folder = str(policies(tmp_path))
    done = sidecar("apply", "-f", folder, env=environ)
    assert done.returncode == 0, done.stderr
    for command in (("get",), ("status",), ("revoke", "--list")):
        done = sidecar(*command, env=environ)
        assert done.returncode == 0, done.stderr
    bob = ("--server-token-file", str(shown(tmp_path, "bob")))
    done = sidecar("apply", "-f", folder, *bob, env=environ)
    assert done.returncode == 1
    assert f"{IDP}#bob lacks role publisher for AccessPolicy in namespace default" in done.stderr
    done = sidecar("subject", "show", "cus_x", *bob, env=environ)
    assert done.returncode == 1
    assert "customers: true" in done.stderr
    nobody = {name: value for name, value in environ.items() if "TOKEN" not in name}
    done = sidecar("get", env=nobody)
    assert done.returncode == 1
    assert "give a token (--server-token-file FILE) or a certificate" in done.stderr
    page = get(f"http://127.0.0.1:{control.http_port}/metrics")[2].decode()
    assert 'sidecar_control_calls_refused_total{reason="forbidden"} 2.0' in page
    assert control.running is not None
    said = control.running.said
    assert "no sidecars are served" in said
    assert not any(
        part in said + done.stderr for part in (tmp_path / "alice.jwt").read_text().split(".")
    )


def test_a_token_does_not_leave_this_machine_in_plain_text(tmp_path: Path) -> None:
    file = str(shown(tmp_path, "alice"))
    done = sidecar("get", "--server", "192.0.2.1:7443", "--server-token-file", file)
    assert done.returncode == 2
    assert "give --server-ca FILE" in done.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--listen", "0.0.0.0:0"], "--publishers FILE"),
        (["--listen", "0.0.0.0:0", "--publishers", "publishers.yaml"], "in plain text"),
        (["--publishers", "certificates.yaml"], "nobody could show who they are"),
        (["--publishers", "broken.yaml"], "broken.yaml:1:"),
        (
            ["--publishers", "publishers.yaml", "--publisher-tls-cert", "publishers.yaml",
             "--publisher-tls-key", "publishers.yaml"],
            "--publisher-tls-cert, --publisher-tls-key, --publisher-client-ca: no readable PEM",
        ),
    ],
)  # fmt: skip
def test_what_it_does_not_begin_with(given: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "keys.jwks").write_text(json.dumps(jwks()))
    (tmp_path / "publishers.yaml").write_text(FILE)
    (tmp_path / "broken.yaml").write_text("permissions: nobody")
    (tmp_path / "certificates.yaml").write_text(
        "permissions:\n- {who: {certificate: a.example}, role: admin}\n"
    )
    done = sidecar(
        "control-plane", "--store", f"sqlite:///{tmp_path}/s.db", "--listen", "127.0.0.1:0",
        "--http", "127.0.0.1:0", *given, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
