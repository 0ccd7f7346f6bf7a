"""A pod's ports: which are the application's, and how mode `port` puts the sidecar before one.

Without privileges nothing can be put in a packet's way, so the webhook moves a name, to another
port of the same container: a Service whose `targetPort` is that name reaches the sidecar, which
reaches the application by its number.
Who connects to the number still gets past; a NetworkPolicy closes that (docs/redirect.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sidecar.inject.terms import ADMIN, HEALTH, TRAFFIC, Refused

Container = dict[str, Any]


def tcp_ports(container: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ports that a container says it listens at."""
    return [port for port in container.get("ports") or [] if port.get("protocol", "TCP") == "TCP"]


def serving(pod: Mapping[str, Any]) -> list[Container]:
    """The containers that listen beside one another: init containers that go on included."""
    spec = pod.get("spec") or {}
    going_on = [
        each for each in spec.get("initContainers") or [] if each.get("restartPolicy") == "Always"
    ]
    return [*(spec.get("containers") or []), *going_on]


def check_free(containers: Iterable[Mapping[str, Any]]) -> None:
    """The sidecar's own ports must be. Raises Refused."""
    for container in containers:
        for port in container.get("ports") or []:
            if port.get("containerPort") in (TRAFFIC, HEALTH, ADMIN):
                raise Refused(
                    "port_taken",
                    f"container {container.get('name')} has port {port['containerPort']}, which "
                    f"the sidecar needs ({TRAFFIC}, {HEALTH} and {ADMIN}); choose another",
                )


def numbered(container: Mapping[str, Any], port: object) -> int:
    """The number of a port that a probe or hook of this container names. Raises Refused."""
    if isinstance(port, int) and not isinstance(port, bool):
        return port
    for each in container.get("ports") or []:
        if each.get("name") == port:
            return int(each["containerPort"])
    raise Refused("port_unknown", f"container {container.get('name')} has no port named {port!r}")


def chosen(containers: Sequence[Container], wanted: Sequence[str]) -> tuple[Container, int]:
    """The container and the place in its `ports` of the one port that mode `port` is about: the one
    that an annotation names, else the only one. Raises Refused."""
    found = [
        (container, place)
        for container in containers
        for place, port in enumerate(container.get("ports") or [])
        if port.get("protocol", "TCP") == "TCP"
        and (not wanted or {port.get("name"), str(port.get("containerPort"))} & set(wanted))
    ]
    if len(wanted) > 1:
        raise Refused(
            "several_ports", "mode port stands before one port; name one, or use mode redirect"
        )
    if not found and wanted:
        raise Refused("port_unknown", f"no container has a TCP port {wanted[0]!r} in its `ports`")
    if not found:
        raise Refused(
            "no_ports",
            "no container says which port it listens at; add it to `ports` with a name, use mode "
            'redirect, or leave the pod out with the annotation authz.sidecar/inject: "false"',
        )
    if len(found) > 1:
        names = ", ".join(str(c["ports"][p].get("name") or c["ports"][p]["containerPort"])
                          for c, p in found)  # fmt: skip
        raise Refused(
            "several_ports",
            f"mode port stands before one port, and there are {names}; name one with the "
            "annotation authz.sidecar/port, or use mode redirect",
        )
    container, place = found[0]
    if not container["ports"][place].get("name"):
        raise Refused(
            "port_without_name",
            f"port {container['ports'][place]['containerPort']} has no name: give it one, and let "
            "the Service's targetPort be that name; or use mode redirect",
        )
    # A Service takes the first container with the name, sidecar containers last: it would go by.
    name = container["ports"][place]["name"]
    if sum(port.get("name") == name for each in containers for port in tcp_ports(each)) > 1:
        raise Refused(
            "several_ports",
            f"two ports are named {name}, and a Service could lead to either; give each a name of "
            "its own, or use mode redirect",
        )
    return container, place
