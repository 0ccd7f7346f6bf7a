"""The injection webhook's settings, and what they contradict. Part of `config`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from sidecar.config_fleet import api_server, object_name
from sidecar.config_setting import Address, Setting, address
from sidecar.config_values import to_boolean, to_file, to_path
from sidecar.inject.terms import MODES, QUANTITY, RESOURCES, Mode, PullPolicy, Resources


@dataclass(frozen=True, slots=True)
class InjectSettings:
    """`ca` and `trust` are files that may come later. `secret` is (namespace, name). Either
    `service`, the host that a certificate is made for, or the two files of one is set."""

    listen: Address
    http: Address
    image: str
    pull_policy: PullPolicy
    control_plane: Address
    ca: Path
    trust: Path
    mode: Mode
    native: str
    secret: tuple[str, str]
    publish_keys: tuple[str, str] | None
    webhook_configuration: str
    service: str
    tls_cert: Path | None
    tls_key: Path | None
    kubernetes: str
    sidecar_settings: Mapping[str, str]
    sidecar_resources: Resources
    insecure_allow_uninjected: bool


_SERVICE: Final = re.compile(r"(?:[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\.){2}svc")


def _image(text: str) -> str:
    if not text or text != "".join(text.split()):
        raise ValueError(f"{text!r} is not an image, such as registry.example/sidecar:0.1.0")
    return text


def _service(text: str) -> str:
    """The host by which the API server calls a Service, and for which a certificate must be."""
    if not _SERVICE.fullmatch(text):
        raise ValueError(
            f"{text!r} is not NAME.NAMESPACE.svc, such as sidecar-webhook.sidecar-system.svc"
        )
    return text


def _one_of(*choices: str) -> Any:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return read


def _sidecar_setting(text: str) -> tuple[str, str]:
    """NAME=VALUE, a setting of `sidecar run` by its long name."""
    name, equals, value = text.partition("=")
    if not equals or not name or name != name.lower() or not name.replace("-", "").isalnum():
        raise ValueError(f"{text!r} is not NAME=VALUE, such as decision-log=off")
    variable = f"SIDECAR_{name.upper().replace('-', '_')}"
    if variable in _OURS:
        raise ValueError(f"{name} is what the webhook itself says to each sidecar")
    return variable, value


def _sidecar_resource(text: str) -> tuple[str, str]:
    """NAME=QUANTITY, as the annotations of pods have them; without a quantity there is none."""
    name, equals, quantity = text.partition("=")
    if not equals or name not in RESOURCES:
        raise ValueError(f"{text!r} is not NAME=QUANTITY, with a name of {', '.join(RESOURCES)}")
    if quantity and not QUANTITY.fullmatch(quantity):
        raise ValueError(f"{name}: {quantity!r} is not a quantity, such as 100m or 128Mi")
    return name.replace("-", "_"), quantity


_OURS: Final = frozenset(
    f"SIDECAR_{name}"
    for name in (
        "UPSTREAM", "LISTEN", "HEALTH", "ADMIN", "NAMESPACE", "LABEL", "CONTROL_PLANE",
        "CONTROL_PLANE_CA", "CONTROL_PLANE_TOKEN", "TRUST", "REGISTRATION", "STATE", "DRAIN",
        "PROBES", "POLICIES",
    )
)  # fmt: skip

INJECT: Final = (
    Setting("image", _image, "IMAGE", "of the sidecars"),
    Setting(
        "image-pull-policy", _one_of("Always", "IfNotPresent", "Never"), "WHEN",
        "when nodes fetch it", "IfNotPresent",
    ),
    Setting("control-plane", address, "HOST:PORT", "the fleet listener that sidecars connect to"),
    Setting(
        "control-plane-ca", to_path, "FILE",
        "CAs (PEM) that vouch for it; the file may come and change later",
    ),
    Setting(
        "trust", to_path, "FILE", "public keys (PEM) that sign its releases; likewise"
    ),
    Setting(
        "mode", _one_of(*MODES), "MODE",
        "how a sidecar stands before an application that says nothing of it: port or redirect",
        "port",
    ),
    Setting(
        "native", _one_of("auto", "always", "never"), "WHEN",
        "whether it is a sidecar container (an init container that goes on); auto: where the "
        "cluster has them", "auto",
    ),
    Setting("sidecar-setting", _sidecar_setting, "NAME=VALUE",
            "a setting of every sidecar, such as decision-log=off", None, True),
    Setting("sidecar-resource", _sidecar_resource, "NAME=QUANTITY",
            "what a sidecar gets whose pod does not say: cpu-request, cpu-limit, memory-request, "
            "memory-limit; memory-limit= is none", None, True),
    Setting("listen", address, "HOST:PORT", "TLS, for the API server", "127.0.0.1:8443"),
    Setting("http", address, "HOST:PORT", "/healthz /readyz /metrics", "127.0.0.1:7481"),
    Setting(
        "secret", object_name, "NAMESPACE/NAME",
        "the Secret that keeps the key of registrations, the path of reviews, and a certificate "
        "that is made here",
    ),
    Setting(
        "service", _service, "NAME.NAMESPACE.svc",
        "the host that the API server calls: make and renew a certificate for it",
    ),
    Setting(
        "webhook-configuration", str, "NAME",
        "the MutatingWebhookConfiguration that is told where to ask and, with --service, which "
        "authority made the certificate",
    ),
    Setting("tls-cert", to_file, "FILE", "instead, a certificate chain (PEM) of somebody else's"),
    Setting("tls-key", to_file, "FILE", "its private key (PEM)"),
    Setting(
        "publish-keys", object_name, "NAMESPACE/NAME",
        "put the public key of registrations into this ConfigMap, as registration.pem",
    ),
    Setting(
        "kubernetes", api_server, "URL",
        "the API server, instead of that of the cluster this runs in",
    ),
    Setting(
        "insecure-allow-uninjected", to_boolean, "BOOL",
        "create pods without a sidecar while the webhook cannot inject one", "false", bare="true",
    ),
)  # fmt: skip


def mistakes(values: Mapping[str, Any], unread: set[str]) -> list[str]:
    """What is missing or contradicts."""
    given = values.keys() | unread
    found = [
        f"--{name}: it is missing"
        for name in ("image", "control-plane", "control-plane-ca", "trust", "secret")
        if name.replace("-", "_") not in given
    ]
    files = [name for name in ("tls-cert", "tls-key") if name.replace("-", "_") in given]
    if len(files) == 1:
        found.append("--tls-cert, --tls-key: one is of no use without the other")
    if bool(files) == ("service" in given):
        found.append(
            "--service, --tls-cert: give the host that a certificate is made for, or the files of "
            "one; not both"
        )
    return found


def sidecar_mistakes(given: Iterable[tuple[str, str]], known: Iterable[Setting]) -> list[str]:
    """What no sidecar would start with, or would not look at. Files are theirs, not looked for."""
    settings = {f"SIDECAR_{setting.attribute.upper()}": setting for setting in known}
    found = []
    for variable, value in given:
        name = variable.removeprefix("SIDECAR_").lower().replace("_", "-")
        setting = settings.get(variable)
        if setting is None:
            found.append(f"--sidecar-setting: {name} is no setting of `sidecar run`")
            continue
        if setting.metavar.endswith(("FILE", "DIR")):
            continue
        try:
            for each in value.split(",") if setting.repeated else [value]:
                setting.read(each)
        except ValueError as error:
            found.append(f"--sidecar-setting: {name}: {error}")
    return found


def settings(values: Mapping[str, Any]) -> InjectSettings:
    """All of them, without `mistakes`."""
    return InjectSettings(
        listen=values["listen"],
        http=values["http"],
        image=values["image"],
        pull_policy=cast(PullPolicy, values["image_pull_policy"]),
        control_plane=values["control_plane"],
        ca=values["control_plane_ca"],
        trust=values["trust"],
        mode=cast(Mode, values["mode"]),
        native=values["native"],
        secret=values["secret"],
        publish_keys=values.get("publish_keys"),
        webhook_configuration=values.get("webhook_configuration", ""),
        service=values.get("service", ""),
        tls_cert=values.get("tls_cert"),
        tls_key=values.get("tls_key"),
        kubernetes=values.get("kubernetes", ""),
        sidecar_settings=dict(values.get("sidecar_setting", [])),
        sidecar_resources=Resources(**dict(values.get("sidecar_resource", []))),
        insecure_allow_uninjected=values["insecure_allow_uninjected"],
    )
