"""Flags + environment + file -> frozen settings; every mistake reported at once.

The only reader of the environment. A setting's value comes from its flag, else from its variable
(`SIDECAR_LISTEN`), else from the `--config` file (`listen: ...`), else from its default.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from sidecar import config_fleet, config_inject, config_limits, config_probes, config_tls
from sidecar.config_fleet import CONTROL_PLANE as CONTROL_PLANE
from sidecar.config_fleet import ControlPlaneSettings as ControlPlaneSettings
from sidecar.config_fleet import FleetSettings as FleetSettings
from sidecar.config_inject import INJECT as INJECT
from sidecar.config_inject import InjectSettings as InjectSettings
from sidecar.config_setting import Address as Address
from sidecar.config_setting import Setting as _Setting
from sidecar.config_setting import address as address
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
from sidecar.decide.nodes import TooMuch, bound_depth
from sidecar.edge.forwarded import network
from sidecar.edge.limits import Limits
from sidecar.edge.original import ORIGINAL_DESTINATION
from sidecar.edge.probes import Probe
from sidecar.errors import Misuse

_EVERYWHERE: Final = frozenset(["0.0.0.0", "::"])  # noqa: S104 - told apart, not listened at


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
    _Setting(
        "upstream", config_tls.upstream, "URL",
        "the service behind, http://HOST:PORT, https://HOST:PORT or unix:///PATH; or "
        "`original-destination`: where each caller connected to, before `sidecar redirect`",
    ),
    _Setting("policies", to_documents, "PATH", "decide with the documents in this file or folder"),
    _Setting("control-plane", address, "HOST:PORT", "decide with what this control plane pushes"),
    _Setting("listen", address, "HOST:PORT", "where traffic arrives", "127.0.0.1:7400"),
    _Setting("health", address, "HOST:PORT", "/healthz /readyz /metrics", "127.0.0.1:7401"),
    _Setting(
        "probes", config_probes.to_probes, "JSON",
        "probes of the service that the health port does at /probe/NAME",
    ),
    _Setting(
        "admin", address, "HOST:PORT",
        "the same and /snapshot /config /decisions", "127.0.0.1:7402",
    ),
    _Setting("namespace", to_name, "NAME", "whose documents apply, with `platform`'s", "default"),
    _Setting("label", to_label, "K=V", "a label of this sidecar; selectors go by them", None, True),
    _Setting("state", to_folder, "DIR", "where the last-known-good release is kept"),
    _Setting(
        "trust", to_pem, "FILE",
        "public keys that releases must be signed with: a file of PEM, or the PEM itself",
    ),
    _Setting(
        "control-plane-ca", to_pem, "FILE",
        "speak TLS with the control plane, whom these CAs vouch for: a file, or the PEM itself",
    ),
    _Setting(
        "control-plane-token", to_file, "FILE",
        "the pod's service-account token, which shows the control plane whose sidecar this is",
    ),
    _Setting(
        "control-plane-cert", to_file, "FILE",
        "or a certificate chain (PEM) with a SPIFFE id, which shows the same",
    ),
    _Setting("control-plane-key", to_file, "FILE", "its private key (PEM)"),
    _Setting(
        "registration", str, "JWS", "what the injection webhook signed of this pod: its labels"
    ),
    _Setting("workers", to_workers, "N", "processes that serve traffic", "1"),
    _Setting(
        "secrets", to_path, "DIR", "below which documents may name secrets", "/run/secrets"
    ),
    _Setting(
        "subjects", to_file, "FILE",
        "for development and tests: what is known of subjects, consents and profiles",
    ),
    _Setting("decision-log", str, "FILE", "stdout, off, or a file to append to", "stdout"),
    _Setting("drain", seconds, "TIME", "how long a stop waits for requests in flight", "20s"),
    *(
        _Setting(bound.key, bound.read, bound.metavar, bound.help, bound.default)
        for bound in config_limits.BOUNDS
    ),
    _Setting("tls-cert", to_file, "FILE", "serve TLS with this certificate chain (PEM)"),
    _Setting("tls-key", to_file, "FILE", "its private key (PEM)"),
    _Setting("tls-client-ca", to_file, "FILE", "verify clients' certificates against these CAs"),
    _Setting(
        "tls-client-auth", config_tls.client_auth, "MODE",
        "whether a client certificate is `required`, as without this, or `optional`",
    ),
    _Setting(
        "trust-bundle", to_bundle, "DOMAIN=FILE",
        "CAs (PEM) that may vouch for workloads of this SPIFFE trust domain", None, True,
    ),
    _Setting(
        "upstream-ca", to_file, "FILE",
        "CAs that may vouch for an https upstream, instead of the system's",
    ),
    _Setting("upstream-cert", to_file, "FILE", "the certificate chain to show to the upstream"),
    _Setting("upstream-key", to_file, "FILE", "its private key (PEM)"),
    _Setting(
        "upstream-server-name", config_tls.server_name, "NAME",
        "whose certificate the upstream must have, instead of its host's",
    ),
    _Setting(
        "insecure-upstream-skip-verify", to_boolean, "BOOL",
        "talk TLS with whoever answers at the upstream's address", "false", bare="true",
    ),
    _Setting(
        "trusted-proxy", network, "CIDR",
        "believe x-forwarded-for and -proto of proxies in this network", None, True,
    ),
    _Setting(
        "client-cert-header", config_tls.client_cert_header, "NAME",
        "and this header on client certificates: `client-cert` or `x-forwarded-client-cert`",
    ),
    _Setting(
        "dpop-nonce-key", to_file, "FILE",
        "a secret that all replicas have, so that each takes the others' DPoP nonces",
    ),
)  # fmt: skip


def add_flags(parser: argparse.ArgumentParser, settings: Sequence[_Setting]) -> None:
    """The flags of a command, each with its variable and default in the help."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting in settings:
        title = _group(setting.key) if settings is RUN else "settings"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        default = f"; default {setting.default}" if setting.default else ""
        bare: dict[str, Any] = {"nargs": "?", "const": setting.bare} if setting.bare else {}
        groups[title].add_argument(
            f"--{setting.key}",
            dest=setting.attribute,
            metavar=setting.metavar,
            action="append" if setting.repeated else "store",
            help=f"{setting.help} [{_variable(setting)}{default}]",
            **bare,
        )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML with settings by their long names [SIDECAR_CONFIG]"
    )


def _group(key: str) -> str:
    if any(key == bound.key for bound in config_limits.BOUNDS):
        return "bounds"
    if "upstream" in key:
        return "upstream"
    if key.startswith("tls-") or key == "trust-bundle":
        return "TLS for clients"
    traffic = (
        "listen", "health", "probes", "admin", "workers", "drain", "trusted-proxy",
        "client-cert-header", "dpop-nonce-key",
    )  # fmt: skip
    return "traffic" if key in traffic else "what is decided, and with what"


def _variable(setting: _Setting) -> str:
    return f"SIDECAR_{setting.attribute.upper()}"


def run_settings(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> RunSettings:
    """Settings of `sidecar run`. Raises Misuse with every mistake."""
    environ = os.environ if environ is None else environ
    values, mistakes, unread = _resolve(RUN, args, environ)
    if "upstream" not in values and "upstream" not in unread:
        mistakes.append("--upstream: the service behind is missing; give http://HOST:PORT")
    sources = {"policies", "control_plane"} & (values.keys() | unread)
    if len(sources) == 2:
        mistakes.append("--policies, --control-plane: give one of the two, not both")
    if not sources:
        mistakes.append(
            "--policies, --control-plane: give one of the two; "
            "`sidecar init` writes a first set of documents"
        )
    _distinct(mistakes, values, ("listen", "health", "admin"))
    listen = values.get("listen")
    redirected = values.get("upstream") == ORIGINAL_DESTINATION
    if redirected and isinstance(listen, Address) and listen.host not in _EVERYWHERE:
        mistakes.append(
            f"--listen: redirected connections do not reach {listen}; give [::]:{listen.port}"
        )
    mistakes += config_tls.mistakes(values, unread)
    mistakes += config_fleet.client_mistakes(values, unread)
    if mistakes:
        raise Misuse(mistakes)
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
        state_home=state_home(environ),
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


def control_plane_settings(
    args: argparse.Namespace, environ: Mapping[str, str] | None = None
) -> ControlPlaneSettings:
    """Settings of `sidecar control-plane`. Raises Misuse with every mistake."""
    environ = os.environ if environ is None else environ
    values, mistakes, _ = _resolve(CONTROL_PLANE, args, environ)
    _distinct(mistakes, values, ("listen", "fleet-listen", "http"))
    mistakes += config_fleet.mistakes(values)
    if mistakes:
        raise Misuse(mistakes)
    default_store = f"sqlite:///{state_home(environ) / 'sidecar' / 'control-plane' / 'store.db'}"
    return ControlPlaneSettings(
        store=values.get("store", default_store),
        listen=values["listen"],
        http=values["http"],
        insecure_unauthenticated=values["insecure_unauthenticated"],
        ssf_transmitters=values.get("ssf_transmitters"),
        fleet=config_fleet.fleet(values),
        kubernetes=values.get("kubernetes", ""),
        publish_keys=values.get("publish_keys"),
    )


def inject_settings(
    args: argparse.Namespace, environ: Mapping[str, str] | None = None
) -> InjectSettings:
    """Settings of `sidecar inject`. Raises Misuse with every mistake."""
    values, mistakes, unread = _resolve(INJECT, args, os.environ if environ is None else environ)
    _distinct(mistakes, values, ("listen", "http"))
    mistakes += config_inject.mistakes(values, unread)
    if mistakes:
        raise Misuse(mistakes)
    return config_inject.settings(values)


def variable(name: str) -> str | None:
    """One of the environment, for whoever must read a secret where it is used."""
    return os.environ.get(name)


def state_home(environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's programs keep state (XDG Base Directory Specification)."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return Path(base)
    home = environ.get("HOME", "")
    return (Path(home) if home.startswith("/") else Path("/var/lib")) / ".local/state"


def _resolve(
    settings: Sequence[_Setting], args: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str], set[str]]:
    """Values by attribute, every mistake, and the attributes that were given but not readable."""
    mistakes: list[str] = []
    file, misshapen = _file(settings, args.config or environ.get("SIDECAR_CONFIG"), mistakes)
    values: dict[str, Any] = {}
    unread: set[str] = set()
    for setting in settings:
        text, where = _given(setting, args, environ, file)
        if text is None:
            if setting.key in misshapen:
                unread.add(setting.attribute)
            continue
        try:
            if setting.repeated:
                values[setting.attribute] = [setting.read(item) for item in text]
            else:
                values[setting.attribute] = setting.read(text[0])
        except ValueError as error:
            mistakes.append(f"{where}: {error}")
            unread.add(setting.attribute)
    return values, mistakes, unread


def _given(
    setting: _Setting,
    args: argparse.Namespace,
    environ: Mapping[str, str],
    file: Mapping[str, list[str]],
) -> tuple[list[str] | None, str]:
    flag = getattr(args, setting.attribute, None)
    if flag is not None:
        return flag if isinstance(flag, list) else [flag], f"--{setting.key}"
    text = environ.get(_variable(setting))
    if text is not None:
        return text.split(",") if setting.repeated else [text], _variable(setting)
    if setting.key in file:
        return file[setting.key], f"{setting.key} in the settings file"
    return None if setting.default is None else [setting.default], f"--{setting.key}"


def _file(
    settings: Sequence[_Setting], name: str | None, mistakes: list[str]
) -> tuple[Mapping[str, list[str]], set[str]]:
    """What the file gives by key, and the keys whose values have no shape that can be read."""
    if not name:
        return {}, set()
    try:
        text = Path(name).read_text("utf-8")
        bound_depth(text)
        content = yaml.load(text, Loader=yaml.CSafeLoader)
    except OSError as error:
        mistakes.append(f"--config: cannot read {name}: {error.strerror}")
        return {}, set()
    except TooMuch as error:
        mark = error.problem_mark
        mistakes.append(f"--config: {name}:{mark.line + 1}:{mark.column + 1}: {error}")
        return {}, set()
    except (yaml.YAMLError, ValueError) as error:  # also a date or a number that is none
        mistakes.append(f"--config: {name} is not YAML: {error}")
        return {}, set()
    if content is None:
        return {}, set()
    if not isinstance(content, dict):
        mistakes.append(f"--config: {name}: settings by name are expected, as in listen: HOST:PORT")
        return {}, set()
    known = {setting.key: setting for setting in settings}
    values: dict[str, list[str]] = {}
    misshapen: set[str] = set()
    for key, value in content.items():
        setting = known.get(str(key))
        if setting is None:
            mistakes.append(f"--config: {name}: unknown setting {key!r}; known: {', '.join(known)}")
        elif setting.repeated and isinstance(value, dict) and _plain(value.values()):
            values[setting.key] = [f"{name}={item}" for name, item in value.items()]
        elif setting.repeated and isinstance(value, list) and _plain(value):
            values[setting.key] = [str(item) for item in value]
        elif _plain([value]):
            values[setting.key] = [str(value)]
        else:
            misshapen.add(setting.key)
            mistakes.append(
                f"--config: {name}: {key} has a value of the wrong shape{_instead(setting, value)}"
            )
    return values, misshapen


def _instead(setting: _Setting, value: Any) -> str:
    """What to write for a number with a point: times have units, and the rest is text."""
    if not isinstance(value, float):
        return ""
    if setting.metavar != "TIME":
        return f"; {value} is a number: write it in quotes"
    return f"; write {value * 1000:.0f}ms" if 0.001 <= value <= 1e6 else "; write 30s or 500ms"


def _plain(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str | int | bool) for value in values)


def _distinct(mistakes: list[str], values: Mapping[str, Any], keys: Sequence[str]) -> None:
    taken: list[tuple[str, Address]] = []
    for key in keys:
        found = values.get(key.replace("-", "_"))
        if isinstance(found, Address) and found.port:
            for other, address in taken:
                if _collide(found, address):
                    of = "" if found == address else f", {address}"
                    mistakes.append(
                        f"--{key}: {found} is already --{other}'s{of}; choose another port"
                    )
                    break
            taken.append((key, found))


def _collide(one: Address, other: Address) -> bool:
    """Whether both cannot be listened at; every address of the machine includes each of them."""
    return one.port == other.port and (
        one.host == other.host or bool(_EVERYWHERE & {one.host, other.host})
    )
