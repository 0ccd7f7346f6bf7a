"""Flags + environment + file -> frozen settings; every mistake reported at once.

The only reader of the environment. A setting's value comes from its flag, else from its variable
(`SIDECAR_LISTEN`), else from the `--config` file (`listen: ...`), else from its default.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sidecar import (
    config_fleet,
    config_inject,
    config_limits,
    config_publishers,
    config_run,
    config_server,
)
from sidecar.config_fleet import CONTROL_PLANE as CONTROL_PLANE
from sidecar.config_fleet import ControlPlaneSettings as ControlPlaneSettings
from sidecar.config_fleet import FleetSettings as FleetSettings
from sidecar.config_inject import INJECT as INJECT
from sidecar.config_inject import InjectSettings as InjectSettings
from sidecar.config_publishers import PublisherSettings as PublisherSettings
from sidecar.config_run import RUN as RUN
from sidecar.config_run import RunSettings as RunSettings
from sidecar.config_server import SERVER as SERVER
from sidecar.config_setting import EVERYWHERE
from sidecar.config_setting import Address as Address
from sidecar.config_setting import Setting as _Setting
from sidecar.config_setting import address as address
from sidecar.decide.nodes import TooMuch, bound_depth
from sidecar.errors import Misuse
from sidecar.facts.server import Server


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


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Those of a command that talks to a control plane, without a file of settings."""
    for setting in SERVER:
        default = f"; default {setting.default}" if setting.default else ""
        parser.add_argument(
            f"--{setting.key}",
            dest=setting.attribute,
            metavar=setting.metavar,
            type=_checked(setting),
            help=f"{setting.help} [{_variable(setting)}{default}]",
        )


def _checked(setting: _Setting) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            setting.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


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
    _distinct(mistakes, values, ("listen", "health", "admin"))
    mistakes += config_run.mistakes(values, unread)
    if mistakes:
        raise Misuse(mistakes)
    return config_run.settings(values, state_home(environ))


def control_plane_settings(
    args: argparse.Namespace, environ: Mapping[str, str] | None = None
) -> ControlPlaneSettings:
    """Settings of `sidecar control-plane`. Raises Misuse with every mistake."""
    environ = os.environ if environ is None else environ
    values, mistakes, _ = _resolve(CONTROL_PLANE, args, environ)
    _distinct(mistakes, values, ("listen", "publisher-mtls-listen", "fleet-listen", "http", "api"))
    mistakes += config_fleet.mistakes(values) + config_publishers.mistakes(values)
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
        insecure_page_cookies=values["insecure_page_cookies"],
        events=values.get("events", ""),
        publishers=config_publishers.publishers(values),
    )


def inject_settings(
    args: argparse.Namespace, environ: Mapping[str, str] | None = None
) -> InjectSettings:
    """Settings of `sidecar inject`. Raises Misuse with every mistake."""
    values, mistakes, unread = _resolve(INJECT, args, os.environ if environ is None else environ)
    _distinct(mistakes, values, ("listen", "http"))
    mistakes += config_inject.mistakes(values, unread)
    mistakes += config_inject.sidecar_mistakes(values.get("sidecar_setting", ()), RUN)
    if mistakes:
        raise Misuse(mistakes)
    return config_inject.settings(values)


def server(
    args: argparse.Namespace, timeout: float, environ: Mapping[str, str] | None = None
) -> Server:
    """The control plane that a command talks to. Raises Misuse with every mistake."""
    environ = os.environ if environ is None else environ
    values, mistakes, _ = _read_all(SERVER, args, environ, {}, set())
    if mistakes:
        raise Misuse(mistakes)
    found = config_server.server(values, timeout)
    mistakes = list(found.mistakes())
    if mistakes:
        raise Misuse(mistakes)
    return found


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
    values, more, unread = _read_all(settings, args, environ, file, misshapen)
    return values, mistakes + more, unread


def _read_all(
    settings: Sequence[_Setting],
    args: argparse.Namespace,
    environ: Mapping[str, str],
    file: Mapping[str, list[str]],
    misshapen: set[str],
) -> tuple[dict[str, Any], list[str], set[str]]:
    mistakes: list[str] = []
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
        one.host == other.host or bool(EVERYWHERE & {one.host, other.host})
    )
