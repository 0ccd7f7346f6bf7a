"""Which control plane a command talks to. Part of `config`."""

from __future__ import annotations

from typing import Any, Final

from sidecar.config_setting import Setting, address
from sidecar.config_values import to_file
from sidecar.facts.server import Server

DEFAULT: Final = "127.0.0.1:7443"
SERVER: Final = (
    Setting("server", address, "HOST:PORT", "the control plane", DEFAULT),
    Setting(
        "server-ca", to_file, "FILE",
        "CAs (PEM) that vouch for it; with it TLS is spoken",
    ),
    Setting(
        "server-token-file", to_file, "FILE",
        "an OIDC token that says who you are; read for each call",
    ),
    Setting("server-cert", to_file, "FILE", "a certificate (PEM) that says who you are"),
    Setting("server-key", to_file, "FILE", "its private key (PEM)"),
)  # fmt: skip


def server(values: dict[str, Any], timeout: float) -> Server:
    """From what the settings say."""
    return Server(
        address=str(values["server"]),
        ca=values.get("server_ca"),
        token_file=values.get("server_token_file"),
        cert=values.get("server_cert"),
        key=values.get("server_key"),
        timeout=timeout,
    )
