"""Probes and hooks of a pod whose ports the sidecar has taken over.

The kubelet has no token. In mode `redirect` its probes would reach the sidecar, so they are turned
into probes of the health port, and the sidecar makes them (`--probes`) and says how they went. In
mode `port` the kubelet still reaches the application, but by number: the port's name has moved.

The health port is open to all who reach the pod, and a probe costs the application something, a
hook does more than ask: each has a key, which the kubelet shows.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

from sidecar.inject.ports import Container, numbered
from sidecar.inject.terms import HEALTH, Refused

LONGEST: Final = 3600  # seconds that a probe of the sidecar's may take
_PROBES: Final = {
    "startupProbe": "startup", "livenessProbe": "liveness", "readinessProbe": "readiness",
}  # fmt: skip
MOST: Final = 64  # of all that follow `config_probes` is the judge; it would not let us start
LONGEST_PATH: Final = 4096
_VALUE: Final = re.compile(r"[\t -~]{0,4096}")
KEY_HEADER: Final = "probe-key"
_HOOKS: Final = {"postStart": "poststart", "preStop": "prestop"}


def handlers(container: Container) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the kubelet does with a container: a short name of each, and its handler."""
    for field, name in _PROBES.items():
        if container.get(field):
            yield name, container[field]
    for field, name in _HOOKS.items():
        if (container.get("lifecycle") or {}).get(field):
            yield name, container["lifecycle"][field]


def by_number(container: Container, name: str) -> None:
    """Handlers that name this port name its number from now on."""
    for _, handler in handlers(container):
        for kind in ("httpGet", "tcpSocket"):
            aim = handler.get(kind)
            if aim is not None and aim.get("port") == name:
                aim["port"] = numbered(container, name)


def through_sidecar(
    containers: Iterable[Container], excluded: Collection[int], key: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """Turns handlers of taken ports into requests to the health port: what the sidecar is to do
    for each, by its name there (`--probes`). `key` makes what the kubelet shows for each: nobody
    else is to drive the application's hooks, nor to learn how it is. Raises Refused."""
    found: dict[str, dict[str, Any]] = {}
    for container in containers:
        for name, handler in handlers(container):
            wanted = _wanted(container, name, handler)
            if wanted is None or next(iter(wanted.values()))["port"] in excluded:
                continue
            probe = f"{container['name']}-{name}"
            if probe in found:
                raise Refused("probes", f"two containers are named {container['name']}")
            found[probe] = wanted
            wanted["key"] = key(probe)
            if name not in _HOOKS.values():  # a hook has no time-out of its own
                seconds = int(handler.get("timeoutSeconds") or 1)
                wanted["timeout"] = min(seconds, LONGEST)
                handler["timeoutSeconds"] = seconds + 1  # the sidecar's own comes first
            else:
                wanted["timeout"] = 30
            for kind in ("httpGet", "tcpSocket", "grpc"):
                handler.pop(kind, None)
            handler["httpGet"] = {
                "path": f"/probe/{probe}",
                "port": HEALTH,
                "scheme": "HTTP",
                "httpHeaders": [{"name": KEY_HEADER, "value": wanted["key"]}],
            }
    if len(found) > MOST:
        raise Refused(
            "probes", f"it has {len(found)} probes and hooks, and {MOST} can be asked for"
        )
    return found


def _wanted(container: Container, name: str, handler: dict[str, Any]) -> dict[str, Any] | None:
    """What a handler does, if it goes over the network to a port of the pod."""
    if http := handler.get("httpGet"):
        if http.get("host"):
            return None  # somebody else is asked
        aim: dict[str, Any] = {
            "port": numbered(container, http["port"]),
            "path": _path(str(http.get("path") or "/")),
            "scheme": http.get("scheme") or "HTTP",
        }
        if http.get("httpHeaders"):
            aim["headers"] = {each["name"]: _value(each) for each in http["httpHeaders"]}
        return {"http": aim}
    if tcp := handler.get("tcpSocket"):
        if tcp.get("host"):
            return None
        return {"tcp": {"port": numbered(container, tcp["port"])}}
    if grpc := handler.get("grpc"):
        return {"grpc": {"port": int(grpc["port"]), "service": grpc.get("service") or ""}}
    return None


def _path(given: str) -> str:
    """A probe's path as a kubelet sends it: the API server admits any text. Raises Refused."""
    text = quote(given.partition("#")[0], safe=string.punctuation)
    path = text if text.startswith("/") else f"/{text}"
    if len(path) > LONGEST_PATH:
        raise Refused("probes", f"a probe's path has more than {LONGEST_PATH} characters")
    return path


def _value(header: dict[str, Any]) -> str:
    value = str(header.get("value") or "")
    if not _VALUE.fullmatch(value):
        raise Refused("probes", f"a probe's header {header['name']} cannot be sent")
    return value
