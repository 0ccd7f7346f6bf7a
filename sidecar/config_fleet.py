"""The control plane's settings, and what those about its fleet contradict. Part of `config`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar import config_publishers
from sidecar.config_publishers import PublisherSettings
from sidecar.config_setting import Address, Setting, address
from sidecar.config_values import to_boolean, to_file, to_path
from sidecar.decide import workloads

_REVIEW: Final = "tokenreview"
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Where sidecars come that have to show whose they are, and how they show it.

    `workload_tokens` is `tokenreview`, a file of keys or where to fetch them; None: certificates
    alone. Without `registration_keys` sidecars name their labels themselves.
    """

    listen: Address
    tls_cert: Path
    tls_key: Path
    tls_client_ca: Path | None
    trust_domain: str
    workload_tokens: str | None
    workload_issuer: str
    workload_audience: str
    registration_keys: Path | None


@dataclass(frozen=True, slots=True)
class ControlPlaneSettings:
    """The control plane's. `store` is a database URL, `kubernetes` that of the API server: empty is
    the one of the cluster that this runs in. `publish_keys` are namespace and name of a ConfigMap.
    """

    store: str
    listen: Address
    http: Address
    insecure_unauthenticated: bool
    ssf_transmitters: Path | None = None
    fleet: FleetSettings | None = None
    kubernetes: str = ""
    publish_keys: tuple[str, str] | None = None
    insecure_page_cookies: bool = False
    events: str = ""
    publishers: PublisherSettings = field(default_factory=PublisherSettings)


def object_name(text: str) -> tuple[str, str]:
    """NAMESPACE/NAME of an object of Kubernetes."""
    namespace, slash, name = text.partition("/")
    if not slash or not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not NAMESPACE/NAME, such as sidecar-system/sidecar-keys")
    return namespace, name


def api_server(text: str) -> str:
    """The address of a Kubernetes API server."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"{text!r} is not the address of an API server, https://HOST:PORT")
    return text.rstrip("/")


def trust_domain(text: str) -> str:
    """The name of one (SPIFFE-ID section 2.1)."""
    if not workloads.trust_domain(text):
        raise ValueError(f"{text!r} is not the name of a trust domain, such as prod.example")
    return text


def events_sink(text: str) -> str:
    """Where events go: an address, or the absolute path of a file."""
    parts = urlsplit(text)
    loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if (parts.scheme == "https" and parts.hostname) or (parts.scheme == "http" and loopback):
        return text
    if text.startswith("/"):
        return text
    raise ValueError(
        f"{text!r} is neither https://HOST/PATH (on loopback also http) nor /ABSOLUTE/PATH"
    )


def _workload_tokens(text: str) -> str:
    """How service-account tokens are checked."""
    if text == _REVIEW or text.startswith("https://"):
        return text
    return str(to_file(text))


CONTROL_PLANE: Final = (
    Setting("store", str, "URL", "the database, such as sqlite:////var/lib/sidecar/store.db"),
    Setting("listen", address, "HOST:PORT", "gRPC, for sidecars and publishers", "127.0.0.1:7443"),
    Setting(
        "http", address, "HOST:PORT",
        "/healthz /readyz /metrics /ssf/events, customers' pages (/i /privacy /receipts) and, on "
        "loopback, the API: /v1",
        "127.0.0.1:7480",
    ),
    Setting(
        "ssf-transmitters", to_file, "FILE",
        "who may push security events (OpenID Shared Signals) to /ssf/events",
    ),
    Setting(
        "insecure-unauthenticated", to_boolean, "BOOL",
        "listen beyond loopback although whoever connects may publish", "false", bare="true",
    ),
    *config_publishers.SETTINGS,
    Setting(
        "fleet-listen", address, "HOST:PORT",
        "gRPC with TLS for sidecars that show whose they are; nobody can publish there",
    ),
    Setting(
        "tls-cert", to_file, "FILE",
        "the certificate chain (PEM) that is shown there; see also --publisher-tls-cert",
    ),
    Setting("tls-key", to_file, "FILE", "its private key (PEM)"),
    Setting(
        "tls-client-ca", to_file, "FILE",
        "there, want a certificate with a SPIFFE id that these CAs vouch for",
    ),
    Setting(
        "workload-trust-domain", trust_domain, "DOMAIN", "of which these SPIFFE ids have to be"
    ),
    Setting(
        "workload-tokens", _workload_tokens, "HOW",
        "check pods' service-account tokens by `tokenreview` (the cluster's API) or with its keys: "
        "a file of its JWK Set, or where that is (https://...)",
    ),
    Setting("workload-issuer", str, "URL", "who issues them, where keys check them"),
    Setting(
        "workload-audience", str, "NAME", "whom they must be for", "sidecar-control-plane"
    ),
    Setting(
        "registration-keys", to_path, "FILE",
        "public keys (PEM) of the injection webhook, which signs the labels of sidecars; the file "
        "may come and change later",
    ),
    Setting(
        "insecure-self-asserted-labels", to_boolean, "BOOL",
        "let sidecars name their own labels, and so which documents they are sent", "false",
        bare="true",
    ),
    Setting(
        "events", events_sink, "URL",
        "where events of customers' journeys go, as CloudEvents: https://... by batch, or a file",
    ),
    Setting(
        "insecure-page-cookies", to_boolean, "BOOL",
        "serve customers' pages on plain HTTP, without `Secure` cookies; for development",
        "false", bare="true",
    ),
    Setting(
        "kubernetes", api_server, "URL",
        "the API server, instead of that of the cluster this runs in",
    ),
    Setting(
        "publish-keys", object_name, "NAMESPACE/NAME",
        "put the public keys of releases into this ConfigMap, as release.pem",
    ),
)  # fmt: skip


def mistakes(values: Mapping[str, Any]) -> list[str]:
    """What the settings of a control plane contradict."""
    found = []
    if values.get("fleet_listen") is None:
        found += [
            f"--{name}: it is about --fleet-listen, which is not given"
            for name in ("tls-client-ca", "workload-trust-domain", "workload-tokens",
                         "workload-issuer", "registration-keys")
            if name.replace("-", "_") in values
        ]  # fmt: skip
        return found
    found += [
        f"--fleet-listen: --{name} is missing; sidecars are served with TLS only"
        for name in ("tls-cert", "tls-key")
        if name.replace("-", "_") not in values
    ]
    tokens = values.get("workload_tokens")
    if tokens is None and values.get("tls_client_ca") is None:
        found.append(
            "--fleet-listen: nothing would show whose a sidecar is; give --workload-tokens, or "
            "--tls-client-ca"
        )
    if (values.get("tls_client_ca") is None) != (values.get("workload_trust_domain") is None):
        found.append(
            "--tls-client-ca, --workload-trust-domain: one is of no use without the other; say of "
            "which SPIFFE trust domain these CAs may vouch for workloads"
        )
    if tokens not in (None, _REVIEW) and not values.get("workload_issuer"):
        found.append("--workload-tokens: with keys, say who issues the tokens: --workload-issuer")
    if bool(values.get("registration_keys")) == values["insecure_self_asserted_labels"]:
        found.append(
            "--fleet-listen: give --registration-keys, so that sidecars have the labels that the "
            "webhook signed, or --insecure-self-asserted-labels; not both"
        )
    return found


def fleet(values: Mapping[str, Any]) -> FleetSettings | None:
    """Those of the fleet's listener, without `mistakes`."""
    listen = values.get("fleet_listen")
    if listen is None:
        return None
    return FleetSettings(
        listen=listen,
        tls_cert=values["tls_cert"],
        tls_key=values["tls_key"],
        tls_client_ca=values.get("tls_client_ca"),
        trust_domain=values.get("workload_trust_domain", ""),
        workload_tokens=values.get("workload_tokens"),
        workload_issuer=values.get("workload_issuer", ""),
        workload_audience=values["workload_audience"],
        registration_keys=values.get("registration_keys"),
    )


def client_mistakes(values: Mapping[str, Any], unread: set[str]) -> list[str]:
    """What a sidecar's settings about its control plane contradict."""
    given = {
        name
        for name in ("control_plane_ca", "control_plane_token", "control_plane_cert",
                     "control_plane_key")
        if name in values
    }  # fmt: skip
    flags = {name: f"--{name.replace('_', '-')}" for name in given}
    if given and "control_plane" not in values.keys() | unread:
        return [f"{flags[name]}: it is about --control-plane, which is not given" for name in given]
    found = []
    if given and "control_plane_ca" not in given | unread:
        found += [
            f"{flags[name]}: without TLS anybody on the way could take it; give --control-plane-ca"
            for name in sorted(given)
        ]
    halves = {"control_plane_cert", "control_plane_key"}
    if len(halves & (given | unread)) == 1:
        found.append(
            "--control-plane-cert, --control-plane-key: one is of no use without the other"
        )
    return found
