"""Settings about TLS, Unix sockets and trusted proxies: what they mean, what contradicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import Misuse
from sidecar.plane import messages

from .test_config import settings

TLS = ["--tls-cert", "@a.crt", "--tls-key", "@a.key"]


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    for name in ("a.crt", "a.key", "ca.pem"):
        (tmp_path / name).write_text("x")
    return ["--policies", str(tmp_path)]


def filled(arguments: list[str], folder: Path) -> list[str]:
    return [each.replace("@", f"{folder}/") for each in arguments]


def test_nothing_by_default(base: list[str]) -> None:
    found = settings([*base, "--upstream", "http://h:1"])
    assert (found.tls_cert, found.tls_client_ca, found.upstream_ca) == (None, None, None)
    assert found.tls_client_auth == "required"
    assert not found.insecure_upstream_skip_verify
    assert found.trusted_proxies == ()
    assert (found.trust_bundles, found.client_cert_header) == ((), "")


def test_everything(base: list[str], tmp_path: Path) -> None:
    arguments = filled(
        ["--upstream", "https://up.example", "--tls-cert", "@a.crt", "--tls-key", "@a.key",
         "--tls-client-ca", "@ca.pem", "--tls-client-auth", "optional", "--upstream-ca", "@ca.pem",
         "--upstream-cert", "@a.crt", "--upstream-key", "@a.key", "--upstream-server-name", "app.x",
         "--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "fd00::/8", "--client-cert-header",
         "Client-Cert", "--trust-bundle", "prod=@ca.pem", "--trust-bundle", "spiffe://b.x=@ca.pem"],
        tmp_path,
    )  # fmt: skip
    found = settings([*base, *arguments])
    assert found.tls_cert == tmp_path / "a.crt"
    assert found.tls_client_auth == "optional"
    assert found.upstream_server_name == "app.x"
    assert found.trusted_proxies == ("10.0.0.0/8", "fd00::/8")
    assert found.client_cert_header == "client-cert"
    assert found.trust_bundles == (f"prod={tmp_path}/ca.pem", f"b.x={tmp_path}/ca.pem")
    assert messages.settings_from_bytes(messages.settings_to_bytes(found)) == found
    environ = {
        "SIDECAR_TRUSTED_PROXY": "10.0.0.0/8,192.0.2.7",
        "SIDECAR_UPSTREAM": "unix:///a.sock",
    }
    assert settings(base, environ).trusted_proxies == ("10.0.0.0/8", "192.0.2.7/32")


@pytest.mark.parametrize("url", ["https://h:1", "https://h", "unix:///run/a.sock", "unix:/a"])
def test_upstreams(base: list[str], url: str) -> None:
    assert settings([*base, "--upstream", url]).upstream == url


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tls-cert", "@a.crt"], "--tls-key: is missing; --tls-cert needs it"),
        (["--tls-key", "@a.key"], "--tls-cert: is missing; --tls-key needs it"),
        (["--upstream-cert", "@a.crt"], "--upstream-key: is missing; --upstream-cert needs it"),
        (["--tls-client-ca", "@ca.pem"], "--tls-client-ca: needs --tls-cert and --tls-key"),
        (["--tls-client-auth", "required"], "--tls-client-auth: needs --tls-client-ca"),
        (["--trust-bundle", "prod=@ca.pem"], "--trust-bundle: needs --tls-cert and --tls-key"),
        ([*TLS, "--trust-bundle", "@ca.pem"], "is not TRUST-DOMAIN=FILE"),
        ([*TLS, "--trust-bundle", "Prod=@ca.pem"], "is not TRUST-DOMAIN=FILE"),
        ([*TLS, "--trust-bundle", "prod=@no"], "no does not exist"),
        (["--client-cert-header", "client-cert"], "--client-cert-header: needs --trusted-proxy"),
        (["--client-cert-header", "x-mine", "--trusted-proxy", "10.0.0.1"], "'x-mine' is none of"),
        (
            [
                "--tls-client-auth",
                "maybe",
                "--tls-client-ca",
                "@ca.pem",
                "--tls-cert",
                "@a.crt",
                "--tls-key",
                "@a.key",
            ],
            "'maybe' is neither required nor optional",
        ),
        (["--tls-cert", "@no", "--tls-key", "@a.key"], "no does not exist"),
        (["--tls-cert", "@", "--tls-key", "@a.key"], "is not a file"),
        (["--upstream-server-name", "a b"], "is not a host name"),
        (["--trusted-proxy", "10.0.0.1/8"], "has bits behind its prefix; write 10.0.0.0/8"),
        (["--trusted-proxy", "0.0.0.0/0"], "is everybody"),
        (
            ["--insecure-upstream-skip-verify", "--upstream-ca", "@ca.pem"],
            "--upstream-ca: says whom to trust",
        ),
    ],
)
def test_mistakes(base: list[str], tmp_path: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(Misuse) as caught:
        settings([*base, "--upstream", "https://h:1", *filled(arguments, tmp_path)])
    assert len(caught.value.mistakes) == 1
    assert says in caught.value.mistakes[0]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("unix://run/a.sock", "names no socket"), ("unix:a.sock", "names no socket"), ("unix:", "names no"),
        ("unix:///" + "a" * 120, "at most 107 bytes"), ("https://h/x", "is not http://HOST:PORT"),
        ("https://:p@h", "is not http://HOST:PORT"), ("ws://h", "is not http://HOST:PORT"),
    ],
)  # fmt: skip
def test_bad_upstreams(base: list[str], url: str, says: str) -> None:
    with pytest.raises(Misuse) as caught:
        settings([*base, "--upstream", url])
    assert "--upstream: " in caught.value.mistakes[0]
    assert says in caught.value.mistakes[0]


def test_plain_upstreams_know_no_certificates(base: list[str], tmp_path: Path) -> None:
    arguments = filled(
        ["--upstream-ca", "@ca.pem", "--upstream-server-name", "h",
         "--insecure-upstream-skip-verify"],
        tmp_path,
    )  # fmt: skip
    with pytest.raises(Misuse) as caught:
        settings([*base, "--upstream", "unix:///a.sock", *arguments])
    assert len(caught.value.mistakes) == 3
    assert all("only an https:// upstream" in each for each in caught.value.mistakes)


def test_a_key_that_cannot_be_read_is_one_mistake(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(Misuse) as caught:
        settings(
            [*base, "--upstream", "http://h:1", *filled(["--tls-cert", "@a.crt"], tmp_path)],
            {"SIDECAR_TLS_KEY": "/no/such"},
        )
    assert caught.value.mistakes == ("SIDECAR_TLS_KEY: /no/such does not exist",)
