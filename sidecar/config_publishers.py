"""Who may publish to a control plane, and with which TLS they come. Part of `config`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sidecar.config_setting import Address, Setting, address
from sidecar.config_values import to_boolean, to_file

_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
Pair = tuple[Path, Path]


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    """`tls` are certificate and key that `--listen` shows, None where it is plain text; `client_ca`
    vouches for publishers' certificates, which come to `mtls_listen` if there is one. `api` is
    where the API is served as JSON over HTTP, besides loopback's `--http`. `approvals` are the
    namespaces in which a second person is needed; with `delegated_only` the store signs nothing."""

    file: Path | None = None
    tls: Pair | None = None
    client_ca: Path | None = None
    mtls_listen: Address | None = None
    api: Address | None = None
    approvals: frozenset[str] = frozenset()
    delegated_only: bool = False


def namespaces(text: str) -> str:
    """The name of one, or `*`."""
    if text != "*" and not _NAMESPACE.fullmatch(text):
        raise ValueError(f"{text!r} is neither the name of a namespace nor *")
    return text


SETTINGS: Final = (
    Setting(
        "publishers", to_file, "FILE",
        "who may do what at --listen, by OIDC tokens or certificates; without it anybody may "
        "everything, and it listens on loopback only",
    ),
    Setting(
        "publisher-tls-cert", to_file, "FILE",
        "the certificate chain (PEM) that --listen shows; if left out beyond loopback, --tls-cert",
    ),
    Setting("publisher-tls-key", to_file, "FILE", "its private key (PEM)"),
    Setting(
        "publisher-client-ca", to_file, "FILE",
        "want a certificate of these CAs of everybody at --listen, or, if there is one, at "
        "--publisher-mtls-listen",
    ),
    Setting(
        "require-approval", namespaces, "NAMESPACE",
        "a second person has to approve what is published in this namespace, or in all: *",
        repeated=True,
    ),
    Setting(
        "require-delegated-signature", to_boolean, "BOOL",
        "sign no release with the store's key: who applies has to, with a delegated one", "false",
        bare="true",
    ),
    Setting(
        "publisher-mtls-listen", address, "HOST:PORT",
        "gRPC for publishers with a certificate, so that --listen takes tokens alone",
    ),
    Setting(
        "api", address, "HOST:PORT",
        "the API as JSON over HTTP, with TLS as --listen; on loopback --http has it, too",
    ),
)  # fmt: skip


def mistakes(values: Mapping[str, Any]) -> list[str]:
    """What these settings contradict."""
    found = []
    pairs = [("publisher-tls-cert", "publisher-tls-key")]
    if values.get("fleet_listen") is None:
        pairs.append(("tls-cert", "tls-key"))  # else the fleet says it
    for one, other in pairs:
        has = [name for name in (one, other) if name.replace("-", "_") in values]
        if len(has) == 1:
            lacks = other if has == [one] else one
            found.append(f"--{lacks}: is missing; --{has[0]} needs it")
    asks = [
        name
        for name in ("publisher-client-ca", "publisher-mtls-listen")
        if name.replace("-", "_") in values
    ]
    if asks and "publishers" not in values:
        found.append(f"--{asks[0]}: --publishers is missing, which says who may do what")
    if asks and not {"publisher_tls_cert", "tls_cert"} & values.keys():
        found.append(f"--{asks[0]}: --publisher-tls-cert is missing; certificates come with TLS")
    if asks == ["publisher-mtls-listen"]:
        found.append(
            "--publisher-mtls-listen: --publisher-client-ca is missing, which says whose "
            "certificates count"
        )
    if "require_approval" in values and "publishers" not in values:
        found.append(
            "--require-approval: --publishers is missing; without it everybody is the same person, "
            "and nobody could approve"
        )
    return found


def publishers(values: Mapping[str, Any]) -> PublisherSettings:
    """Those of who may publish, without `mistakes`."""
    return PublisherSettings(
        file=values.get("publishers"),
        tls=_tls(values),
        client_ca=values.get("publisher_client_ca"),
        mtls_listen=values.get("publisher_mtls_listen"),
        api=values.get("api"),
        approvals=frozenset(values.get("require_approval", ())),
        delegated_only=values["require_delegated_signature"],
    )


def _tls(values: Mapping[str, Any]) -> Pair | None:
    """Of a certificate that is given for the fleet, the listener on loopback takes no notice: who
    publishes there did so in plain text before, and the certificate is for another name."""
    from sidecar.facts.signing import is_loopback

    if "publisher_tls_cert" in values:
        return values["publisher_tls_cert"], values["publisher_tls_key"]
    if "tls_cert" not in values:
        return None
    asks = "publisher_client_ca" in values
    if asks or values.get("fleet_listen") is None or not is_loopback(str(values["listen"])):
        return values["tls_cert"], values["tls_key"]
    return None
