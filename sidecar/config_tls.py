"""What the settings about the upstream's address, TLS and trusted proxies say, and contradict.

Part of `config`, which alone reads flags, environment and file. Readers raise ValueError with what
was expected; `mistakes` sees all values together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.decide.workloads import trust_domain
from sidecar.edge.fields import CERTIFICATE_HEADERS
from sidecar.edge.original import ORIGINAL_DESTINATION

_HOST: Final = re.compile(r"[a-z0-9_.-]{1,253}|[0-9a-f:.]+(?:%[a-z0-9_.-]+)?")
"""A name or an address as `urlsplit` gives them, lower-case and without brackets."""
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")
_LONGEST_SOCKET: Final = 107  # bytes: sockaddr_un holds 108 with its end


def upstream(text: str) -> str:
    """`http://HOST:PORT`, `https://HOST:PORT`, `unix:///PATH` or `original-destination`."""
    if text == ORIGINAL_DESTINATION:
        return text
    parts = urlsplit(text)
    if parts.scheme == "unix":
        return _socket(text)
    try:
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if (
        not valid
        or not _HOST.fullmatch(parts.hostname or "")
        or parts.path not in ("", "/")
        or parts.query
        or "@" in parts.netloc
    ):
        raise ValueError(
            f"{text!r} is not http://HOST:PORT, such as http://127.0.0.1:8080, nor "
            "https://HOST:PORT, unix:///PATH or original-destination"
        )
    return text.rstrip("/")


def _socket(text: str) -> str:
    parts = urlsplit(text)
    absolute = parts.path.startswith("/") and len(parts.path) > 1
    if not absolute or parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{text!r} names no socket; write unix:///run/app.sock")
    if len(parts.path.encode()) > _LONGEST_SOCKET:
        raise ValueError(f"{text!r}: the path of a socket has at most {_LONGEST_SOCKET} bytes")
    return text


def server_name(text: str) -> str:
    """The name that a certificate must be for."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a host name, such as payments.internal")
    return text


def client_auth(text: str) -> str:
    """`required` or `optional`."""
    if text not in ("required", "optional"):
        raise ValueError(f"{text!r} is neither required nor optional")
    return text


def trust_bundle(text: str) -> tuple[str, Path]:
    """`TRUST-DOMAIN=FILE`."""
    domain, equals, path = text.removeprefix("spiffe://").partition("=")
    if not equals or not path or not trust_domain(domain):
        raise ValueError(f"{text!r} is not TRUST-DOMAIN=FILE, such as prod.example=/etc/prod.pem")
    return domain, Path(path).expanduser()


def client_cert_header(text: str) -> str:
    """One that proxies are known to write."""
    if text.lower() not in CERTIFICATE_HEADERS:
        raise ValueError(f"{text!r} is none of {', '.join(CERTIFICATE_HEADERS)}")
    return text.lower()


def mistakes(values: Mapping[str, Any], failed: set[str]) -> list[str]:
    """What does not go together. `failed` are the settings that could not be read at all."""
    found: list[str] = []

    def given(key: str) -> bool:
        return key in values or key in failed

    for certificate, key in (("tls_cert", "tls_key"), ("upstream_cert", "upstream_key")):
        if given(certificate) != given(key):
            has, lacks = (certificate, key) if given(certificate) else (key, certificate)
            found.append(f"{_flag(lacks)}: is missing; {_flag(has)} needs it")
    found += [
        f"{_flag(key)}: needs --tls-cert and --tls-key: without TLS nobody shows it"
        for key in ("tls_client_ca", "trust_bundle")
        if given(key) and not given("tls_cert") and not given("tls_key")
    ]
    if given("tls_client_auth") and not given("tls_client_ca") and not given("trust_bundle"):
        found.append("--tls-client-auth: needs --tls-client-ca, which says whose certificates")
    if given("client_cert_header") and not given("trusted_proxy"):
        found.append("--client-cert-header: needs --trusted-proxy: nobody else is believed")
    address = str(values.get("upstream", "https:"))
    if not address.startswith("https:"):
        found += [
            f"{_flag(key)}: only an https:// upstream speaks TLS, not {address}"
            for key in ("upstream_ca", "upstream_cert", "upstream_key", "upstream_server_name")
            if given(key)
        ]
        if values.get("insecure_upstream_skip_verify"):
            found.append(
                "--insecure-upstream-skip-verify: only an https:// upstream is verified, "
                f"not {address}"
            )
    elif values.get("insecure_upstream_skip_verify"):
        found += [
            f"{_flag(key)}: says whom to trust, --insecure-upstream-skip-verify to trust anybody; "
            "give one of the two"
            for key in ("upstream_ca", "upstream_server_name")
            if given(key)
        ]
    return found


def _flag(attribute: str) -> str:
    return f"--{attribute.replace('_', '-')}"
