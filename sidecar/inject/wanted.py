"""What a pod's annotations ask of the webhook. Every mistake in them is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.facts.registration import MAX_LABELS
from sidecar.inject.terms import (
    ADMIN,
    HEALTH,
    MODES,
    PREFIX,
    QUANTITY,
    RESOURCES,
    TRAFFIC,
    Mode,
    Refused,
    Resources,
)

_KNOWN: Final = (
    "inject", "port", "mode", "redirect", "exclude-ports", "labels", *RESOURCES,
)  # fmt: skip
_OURS: Final = ("injected", "original")
_PORT_NAME: Final = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_LABEL_KEY: Final = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE: Final = re.compile(r"(?:[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
# Of the pods that controllers make: they change with each roll-out, and nobody selects by them.
_GENERATED: Final = frozenset(
    (
        "pod-template-hash", "controller-revision-hash", "pod-template-generation",
        "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "controller-uid",
        "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name",
        "batch.kubernetes.io/job-completion-index",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """One pod's. `inject` None: the pod says nothing. `ports` are names and numbers."""

    inject: bool | None
    mode: Mode | None
    ports: tuple[str, ...]
    excluded: tuple[int, ...]
    labels: Mapping[str, str]
    resources: Resources


def read(metadata: Mapping[str, Any], resources: Resources) -> Wanted:
    """From a pod's metadata; `resources` are those of a pod that asks for none. Raises Refused."""
    annotations = metadata.get("annotations") or {}
    given = {
        name.removeprefix(PREFIX): str(value)
        for name, value in annotations.items()
        if name.startswith(PREFIX)
    }
    for name in given:
        if name not in _KNOWN + _OURS:
            raise _wrong(name, f"is not known; known are {', '.join(_KNOWN)}")
    mode = _mode(given)
    own = {name: given[name] for name in given if name in RESOURCES}
    for name, quantity in own.items():
        if not QUANTITY.fullmatch(quantity):
            raise _wrong(name, f"{quantity!r} is not a quantity, such as 100m or 128Mi")
    return Wanted(
        _boolean(given, "inject"),
        mode,
        tuple(_listed(given, "port", _port)),
        tuple(int(port) for port in _listed(given, "exclude-ports", _number)),
        {**_inherited(metadata), **dict(_label(each) for each in _listed(given, "labels"))},
        replace(resources, **{name.replace("-", "_"): text for name, text in own.items()}),
    )


def _wrong(name: str, what: str) -> Refused:
    return Refused("annotation", f"annotation {PREFIX}{name}: {what}")


def _boolean(given: Mapping[str, str], name: str) -> bool | None:
    text = given.get(name)
    if text is None:
        return None
    if text not in ("true", "false"):
        raise _wrong(name, f"{text!r} is neither true nor false")
    return text == "true"


def _mode(given: Mapping[str, str]) -> Mode | None:
    mode, redirect = given.get("mode"), _boolean(given, "redirect")
    if mode is not None and mode not in MODES:
        raise _wrong("mode", f"{mode!r} is not one of {', '.join(MODES)}")
    if redirect is None:
        return mode
    found: Mode = "redirect" if redirect else "port"
    if mode not in (None, found):
        raise _wrong("redirect", f"it says {found}, and {PREFIX}mode says {mode}")
    return found


def _listed(
    given: Mapping[str, str], name: str, check: Callable[[str, str], None] | None = None
) -> list[str]:
    found = [each.strip() for each in given.get(name, "").split(",")]
    if found == [""]:
        return []
    for each in found:
        if check is not None:
            check(name, each)
    return found


def _port(name: str, text: str) -> None:
    if text.isascii() and text.isdigit():
        _number(name, text)
    elif not _PORT_NAME.fullmatch(text):
        raise _wrong(name, f"{text!r} is neither a port's name nor its number")


def _number(name: str, text: str) -> None:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise _wrong(name, f"{text!r} is not a port's number")
    if int(text) in (TRAFFIC, HEALTH, ADMIN):
        raise _wrong(name, f"{text} is a port of the sidecar's own")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
        raise _wrong("labels", f"{text!r} is not a label, such as tier=gold")
    return key, value


def _inherited(metadata: Mapping[str, Any]) -> dict[str, str]:
    labels = {
        key: str(value)
        for key, value in (metadata.get("labels") or {}).items()
        if key not in _GENERATED and not key.startswith(PREFIX)
    }
    for key, value in labels.items():  # the API server checks them after us
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise Refused("labels", f"{key}={value} is not a label")
    if len(labels) > MAX_LABELS:
        raise Refused("labels", f"more than {MAX_LABELS} labels")
    return labels
