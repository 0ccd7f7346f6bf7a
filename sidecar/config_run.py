"""The data plane's settings, and what they contradict. Part of `config`, which alone reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sidecar import config_fleet, config_limits, config_probes, config_tls
from sidecar.config_setting import EVERYWHERE, Address, Setting, address
from sidecar.config_values import (
    to_boolean,
    to_bundle,
    to_documents,
    to_file,
    to_folder,
    to_label,
    to_name,
    to_path,
    to_pem,
    to_workers,
)
from sidecar.decide.documents import seconds
from sidecar.edge.forwarded import network
from sidecar.edge.limits import Limits
from sidecar.edge.original import ORIGINAL_DESTINATION
from sidecar.edge.probes import Probe


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The data plane's. Exactly one of `policies` and `control_plane` is set."""

    upstream: str
    policies: Path | None
    control_plane: Address | None
    listen: Address
    health: Address
    admin: Address
    namespace: str
    labels: Mapping[str, str]
    state: Path | None
    state_home: Path
    trust: str | None
    workers: int
    decision_log: str
    drain: float
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_client_auth: str = "required"
    limits: Limits = field(default_factory=Limits)
    upstream_ca: Path | None = None
    upstream_cert: Path | None = None
    upstream_key: Path | None = None
    upstream_server_name: str = ""
    insecure_upstream_skip_verify: bool = False
    trusted_proxies: tuple[str, ...] = ()
    secrets: Path = Path("/run/secrets")
    trust_bundles: tuple[str, ...] = ()
    client_cert_header: str = ""
    dpop_nonce_key: Path | None = None
    subjects: Path | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)
    control_plane_ca: str | None = None
    control_plane_token: Path | None = None
    control_plane_cert: Path | None = None
    control_plane_key: Path | None = None
    registration: str = ""


RUN: Final = (
    Setting(
        "upstream", config_tls.upstream, "URL",
        "the service behind, http://HOST:PORT, https://HOST:PORT or unix:///PATH; or "
        "`original-destination`: where each caller connected to, before `sidecar redirect`",
    ),
    Setting("policies", to_documents, "PATH", "decide with the documents in this file or folder"),
    Setting("control-plane", address, "HOST:PORT", "decide with what this control plane pushes"),
    Setting("listen", address, "HOST:PORT", "where traffic arrives", "127.0.0.1:7400"),
    Setting("health", address, "HOST:PORT", "/healthz /readyz /metrics", "127.0.0.1:7401"),
    Setting(
        "probes", config_probes.to_probes, "JSON",
        "probes of the service that the health port does at /probe/NAME",
    ),
    Setting(
        "admin", address, "HOST:PORT",
        "the same and /snapshot /config /decisions", "127.0.0.1:7402",
    ),
    Setting("namespace", to_name, "NAME", "whose documents apply, with `platform`'s", "default"),
    Setting("label", to_label, "K=V", "a label of this sidecar; selectors go by them", None, True),
    Setting("state", to_folder, "DIR", "where the last-known-good release is kept"),
    Setting(
        "trust", to_pem, "FILE",
        "public keys that releases must be signed with: a file of PEM, or the PEM itself",
    ),
    Setting(
        "control-plane-ca", to_pem, "FILE",
        "speak TLS with the control plane, whom these CAs vouch for: a file, or the PEM itself",
    ),
    Setting(
        "control-plane-token", to_file, "FILE",
        "the pod's service-account token, which shows the control plane whose sidecar this is",
    ),
    Setting(
        "control-plane-cert", to_file, "FILE",
        "or a certificate chain (PEM) with a SPIFFE id, which shows the same",
    ),
    Setting("control-plane-key", to_file, "FILE", "its private key (PEM)"),
    Setting(
        "registration", str, "JWS", "what the injection webhook signed of this pod: its labels"
    ),
    Setting("workers", to_workers, "N", "processes that serve traffic", "1"),
    Setting(
        "secrets", to_path, "DIR", "below which documents may name secrets", "/run/secrets"
    ),
    Setting(
        "subjects", to_file, "FILE",
        "for development and tests: what is known of subjects, consents and profiles",
    ),
    Setting("decision-log", str, "FILE", "stdout, off, or a file to append to", "stdout"),
    Setting("drain", seconds, "TIME", "how long a stop waits for requests in flight", "20s"),
    *(
        Setting(bound.key, bound.read, bound.metavar, bound.help, bound.default)
        for bound in config_limits.BOUNDS
    ),
    Setting("tls-cert", to_file, "FILE", "serve TLS with this certificate chain (PEM)"),
    Setting("tls-key", to_file, "FILE", "its private key (PEM)"),
    Setting("tls-client-ca", to_file, "FILE", "verify clients' certificates against these CAs"),
    Setting(
        "tls-client-auth", config_tls.client_auth, "MODE",
        "whether a client certificate is `required`, as without this, or `optional`",
    ),
    Setting(
        "trust-bundle", to_bundle, "DOMAIN=FILE",
        "CAs (PEM) that may vouch for workloads of this SPIFFE trust domain", None, True,
    ),
    Setting(
        "upstream-ca", to_file, "FILE",
        "CAs that may vouch for an https upstream, instead of the system's",
    ),
    Setting("upstream-cert", to_file, "FILE", "the certificate chain to show to the upstream"),
    Setting("upstream-key", to_file, "FILE", "its private key (PEM)"),
    Setting(
        "upstream-server-name", config_tls.server_name, "NAME",
        "whose certificate the upstream must have, instead of its host's",
    ),
    Setting(
        "insecure-upstream-skip-verify", to_boolean, "BOOL",
        "talk TLS with whoever answers at the upstream's address", "false", bare="true",
    ),
    Setting(
        "trusted-proxy", network, "CIDR",
        "believe x-forwarded-for and -proto of proxies in this network", None, True,
    ),
    Setting(
        "client-cert-header", config_tls.client_cert_header, "NAME",
        "and this header on client certificates: `client-cert` or `x-forwarded-client-cert`",
    ),
    Setting(
        "dpop-nonce-key", to_file, "FILE",
        "a secret that all replicas have, so that each takes the others' DPoP nonces",
    ),
)  # fmt: skip


def mistakes(values: Mapping[str, Any], unread: set[str]) -> list[str]:
    """What is missing or contradicts."""
    found = []
    if "upstream" not in values and "upstream" not in unread:
        found.append("--upstream: the service behind is missing; give http://HOST:PORT")
    sources = {"policies", "control_plane"} & (values.keys() | unread)
    if len(sources) == 2:
        found.append("--policies, --control-plane: give one of the two, not both")
    if not sources:
        found.append(
            "--policies, --control-plane: give one of the two; "
            "`sidecar init` writes a first set of documents"
        )
    listen = values.get("listen")
    redirected = values.get("upstream") == ORIGINAL_DESTINATION
    if redirected and isinstance(listen, Address) and listen.host not in EVERYWHERE:
        found.append(
            f"--listen: redirected connections do not reach {listen}; give [::]:{listen.port}"
        )
    found += config_tls.mistakes(values, unread)
    found += config_fleet.client_mistakes(values, unread)
    return found


def settings(values: Mapping[str, Any], state_home: Path) -> RunSettings:
    """All of them, without `mistakes`; `state_home` is where this user's programs keep state."""
    return RunSettings(
        upstream=values["upstream"],
        policies=values.get("policies"),
        control_plane=values.get("control_plane"),
        listen=values["listen"],
        health=values["health"],
        admin=values["admin"],
        namespace=values["namespace"],
        labels=dict(values.get("label", [])),
        state=values.get("state"),
        state_home=state_home,
        trust=values.get("trust"),
        control_plane_ca=values.get("control_plane_ca"),
        control_plane_token=values.get("control_plane_token"),
        control_plane_cert=values.get("control_plane_cert"),
        control_plane_key=values.get("control_plane_key"),
        registration=values.get("registration", ""),
        workers=values["workers"],
        decision_log=values["decision_log"],
        secrets=values["secrets"],
        drain=values["drain"],
        limits=config_limits.limits(values),
        tls_cert=values.get("tls_cert"),
        tls_key=values.get("tls_key"),
        tls_client_ca=values.get("tls_client_ca"),
        tls_client_auth=values.get("tls_client_auth", "required"),
        upstream_ca=values.get("upstream_ca"),
        upstream_cert=values.get("upstream_cert"),
        upstream_key=values.get("upstream_key"),
        upstream_server_name=values.get("upstream_server_name", ""),
        insecure_upstream_skip_verify=values["insecure_upstream_skip_verify"],
        trusted_proxies=tuple(str(each) for each in values.get("trusted_proxy", ())),
        trust_bundles=tuple(values.get("trust_bundle", ())),
        client_cert_header=values.get("client_cert_header", ""),
        dpop_nonce_key=values.get("dpop_nonce_key"),
        subjects=values.get("subjects"),
        probes=values.get("probes", {}),
    )
