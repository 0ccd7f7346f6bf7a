"""A pod -> the same pod with a sidecar. Pure: the same pod and terms always come to the same."""

from __future__ import annotations

import copy
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.facts.registration import MAX_LABELS, MAX_TEXT, Registration, sign
from sidecar.inject import containers, evictable, original, ports, probes
from sidecar.inject.terms import (
    INJECTED,
    ORIGINAL,
    REDIRECT,
    SIDECAR,
    STATE,
    TOKEN,
    TRAFFIC,
    USER,
    Mode,
    Refused,
    Terms,
)
from sidecar.inject.wanted import Wanted, read

_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_RESTRICTING: Final = ("baseline", "restricted")
_PREFIX: Final = 58  # characters of generateName that the API server keeps; five are made up
_MESHES: Final = ("istio-proxy", "istio-init", "linkerd-proxy", "linkerd-init")
_MIRROR: Final = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class Injection:
    """What became of a pod: `pod` has a sidecar, or is as it was. `result` is one of few words,
    for metrics; `warnings` are for whoever creates it."""

    pod: Mapping[str, Any]
    result: str
    warnings: tuple[str, ...] = ()


def inject(
    pod: Mapping[str, Any],
    namespace: str,
    namespace_labels: Mapping[str, str],
    terms: Terms,
    key: Ed25519PrivateKey,
) -> Injection:
    """The pod as it is to run. `key` signs its registration. Raises Refused."""
    metadata = pod.get("metadata") or {}
    if _MIRROR in (metadata.get("annotations") or {}):
        return Injection(pod, "mirror", ("a static pod cannot be changed: it has no sidecar",))
    wanted = read(metadata, terms.resources)
    if wanted.inject is False:
        return Injection(original.unmarked(pod, key), "left_out")
    before = copy.deepcopy(dict(pod))
    held = original.restore(before, key)
    _check(before)
    mode = wanted.mode or terms.mode
    if (why := _without(before, wanted, mode, terms)) is not None:
        return Injection(original.unmarked(pod, key), "nothing_to_protect", (why,))
    after = copy.deepcopy(before)
    listening = ports.serving(after)
    ports.check_free(listening)
    if mode == "redirect":
        found = _redirected(
            listening, wanted, namespace, namespace_labels, _probe_keys(before, namespace, key)
        )
    else:
        found = _swapped(listening, wanted)
    _add(after, namespace, wanted, terms, mode, found, held, key)
    sealed = original.seal(original.changed(before, after), key)
    for field, name, value in (("annotations", ORIGINAL, sealed), ("labels", INJECTED, "true")):
        after["metadata"][field] = {**(after["metadata"].get(field) or {}), name: value}
    return Injection(after, "injected", _warnings(before, mode))


@dataclass(frozen=True, slots=True)
class _Put:
    """How the sidecar stands before the application. `port` is one of its own container's."""

    upstream: str
    port: Mapping[str, Any] | None
    probes: Mapping[str, Any]


def _check(pod: Mapping[str, Any]) -> None:
    """What cannot have a sidecar at all. Raises Refused."""
    spec = pod.get("spec") or {}
    selector = spec.get("nodeSelector") or {}
    if (spec.get("os") or {}).get("name") == "windows" or (
        selector.get("kubernetes.io/os") == "windows"
    ):
        raise Refused("windows", "the sidecar runs on Linux, and this pod is for Windows nodes")
    if spec.get("hostNetwork"):
        raise Refused(
            "host_network",
            "with hostNetwork the pod's ports and network rules are the node's: a sidecar would "
            "stand in the way of others, and callers could pass it by; leave hostNetwork out, or "
            'the pod, with the annotation authz.sidecar/inject: "false"',
        )
    for each in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        if any(m.get("name") in (STATE, TOKEN) for m in each.get("volumeMounts") or []):
            raise Refused(
                "name_taken", f"container {each.get('name')} mounts a volume of the sidecar's own"
            )


def _without(pod: Mapping[str, Any], wanted: Wanted, mode: Mode, terms: Terms) -> str | None:
    """Why a pod is left without a sidecar, where that is right."""
    if wanted.inject or mode == "redirect":
        listens = True
    else:
        listens = any(ports.tcp_ports(each) for each in ports.serving(pod)) or bool(wanted.ports)
    ends = (pod.get("spec") or {}).get("restartPolicy", "Always") != "Always"
    if ends and not terms.native:
        if wanted.inject or any(ports.tcp_ports(each) for each in ports.serving(pod)):
            raise Refused(
                "never_ends",
                "on this cluster a sidecar would keep a job's pod from ever ending: it needs "
                "sidecar containers (Kubernetes 1.29); leave the pod out with the annotation "
                'authz.sidecar/inject: "false"',
            )
        return "it listens at no port: it has no sidecar"
    return None if listens else "it listens at no port that it names: it has no sidecar"


def _redirected(
    listening: list[ports.Container],
    wanted: Wanted,
    namespace: str,
    namespace_labels: Mapping[str, str],
    probe_key: Callable[[str], str],
) -> _Put:
    level = namespace_labels.get(_ENFORCE, "")
    if level in _RESTRICTING:
        raise Refused(
            "pod_security",
            f"namespace {namespace} enforces the Pod Security Standard {level}, which forbids the "
            "NET_ADMIN that mode redirect's init step needs; use mode port",
        )
    if wanted.ports:
        raise Refused(
            "annotation",
            "annotation authz.sidecar/port: in mode redirect all ports are taken; name those that "
            "are not with authz.sidecar/exclude-ports",
        )
    traffic = {"name": SIDECAR, "containerPort": TRAFFIC, "protocol": "TCP"}
    asked = probes.through_sidecar(listening, wanted.excluded, probe_key)
    return _Put("original-destination", traffic, asked)


def _probe_keys(
    pod: Mapping[str, Any], namespace: str, key: Ed25519PrivateKey
) -> Callable[[str], str]:
    """Makes the key of a probe by its name: the same for the same pod, and nobody else's guess."""
    metadata = pod.get("metadata") or {}
    name = metadata.get("name") or metadata.get("generateName") or ""

    def made(probe: str) -> str:
        text = f"sidecar probe {namespace}/{name}/{probe}"
        return hmac.new(key.private_bytes_raw(), text.encode(), "sha256").hexdigest()[:32]

    return made


def _swapped(listening: list[ports.Container], wanted: Wanted) -> _Put:
    if wanted.excluded:
        raise Refused(
            "annotation", "annotation authz.sidecar/exclude-ports: it is about mode redirect"
        )
    container, place = ports.chosen(listening, wanted.ports)
    port = container["ports"][place]
    name = port["name"]
    probes.by_number(container, name)
    traffic = {"name": name, "containerPort": TRAFFIC, "protocol": "TCP"}
    for field in ("hostPort", "hostIP"):  # from the node, too, the sidecar is what is reached
        if field in port:
            traffic[field] = port.pop(field)
    del port["name"]
    # Not on the sidecar's own container: before Kubernetes 1.33 a Service does not find the named
    # ports of a native one. Whose of the pod's containers a port is makes no other difference.
    container["ports"].append(traffic)
    return _Put(f"http://127.0.0.1:{port['containerPort']}", None, {})


def _add(
    pod: dict[str, Any], namespace: str, wanted: Wanted, terms: Terms, mode: Mode, put: _Put,
    held: Mapping[str, Mapping[str, Any]], key: Ed25519PrivateKey,
) -> None:  # fmt: skip
    metadata = pod.setdefault("metadata", {})
    spec = pod["spec"]
    name, prefix = metadata.get("name", ""), metadata.get("generateName", "")[:_PREFIX]
    registration = Registration(
        namespace,
        spec.get("serviceAccountName") or spec.get("serviceAccount") or "default",
        name or prefix,
        not name and bool(prefix),
        wanted.labels,
    )
    statement = sign(registration, key)
    if len(wanted.labels) > MAX_LABELS or len(statement) > MAX_TEXT:
        raise Refused(
            "labels",
            f"the control plane takes {MAX_LABELS} labels and {MAX_TEXT} characters of them",
        )
    grace = spec.get("terminationGracePeriodSeconds")
    variables = containers.environment(
        terms,
        namespace=namespace,
        labels=wanted.labels,
        registration=statement,
        upstream=put.upstream,
        probes=put.probes,
        drain=containers.drain_seconds(30 if grace is None else int(grace), terms.native),
    )
    made = containers.sidecar(terms, wanted.resources, variables, put.port)
    first = (
        [containers.redirect(terms, wanted.resources, wanted.excluded)]
        if mode == "redirect"
        else []
    )
    for each in (made, *first):
        containers.keep_defaults(each, held.get(each["name"]) or {})
    if terms.native:
        first.append(made)
    else:
        spec["containers"] = [made, *spec["containers"]]
    if first:
        # Before those of the pod, which may ask themselves whether it can be reached.
        spec["initContainers"] = [*first, *(spec.get("initContainers") or [])]
    spec["volumes"] = [*(spec.get("volumes") or []), *containers.volumes()]
    evictable.mark(metadata)


def _warnings(pod: Mapping[str, Any], mode: Mode) -> tuple[str, ...]:
    """What in a pod could undo what its sidecar is for."""
    found = []
    spec = pod.get("spec") or {}
    for each in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        security = each.get("securityContext") or {}
        added = (security.get("capabilities") or {}).get("add") or []
        if mode == "redirect" and (
            security.get("privileged") or {"NET_ADMIN", "ALL", "CAP_NET_ADMIN"} & set(added)
        ):
            found.append(f"container {each.get('name')} may change the rules of {REDIRECT}")
        if mode == "redirect" and each.get("name") in _MESHES:
            found.append(f"{each['name']} redirects what {REDIRECT} does: take one, or mode port")
    if spec.get("shareProcessNamespace"):
        found.append(
            f"with shareProcessNamespace a container of user {USER} or root can read what the "
            "sidecar holds"
        )
    if spec.get("dnsPolicy") in ("Default", "None"):
        found.append(
            f"with dnsPolicy {spec['dnsPolicy']} the control plane's name may not be found"
        )
    return tuple(found)
