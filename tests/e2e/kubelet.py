"""Runs a pod's containers as processes in a network namespace, in the order and with the environment,
commands, users, capabilities and mounts that its spec says; probes and ends it as a kubelet does.

What an image holds is a command here: ours is `sidecar`, the Dockerfile's ENTRYPOINT.
"""

from __future__ import annotations

import http.client
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.namespaces import POD, ROOT, Namespace
from tests.e2e.processes import Running, until

SIDECAR_IMAGE = "registry.example/sidecar:test"
ENTRYPOINT = "sidecar"


def entrypoint() -> str:
    """As the Dockerfile has it."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    [found] = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert found == f'ENTRYPOINT ["{ENTRYPOINT}"]'
    return ENTRYPOINT


class Kubelet:
    """One node with one pod on it. `token` makes a service-account token for an audience."""

    def __init__(
        self,
        node: Namespace,
        space: Namespace,
        images: Mapping[str, Sequence[str]],
        token: Callable[[str], str],
        pod: Mapping[str, Any],
    ) -> None:
        assert entrypoint() == "sidecar"
        self.node = node
        self.space = space
        self.pod = pod
        self.running: dict[str, Running] = {}
        self._images = {SIDECAR_IMAGE: (sys.executable, "-m", "sidecar"), **images}
        self._folder = space.folder / pod["metadata"]["name"]
        self._folder.mkdir()
        self._volumes = {
            volume["name"]: self._volume(volume, token) for volume in pod["spec"].get("volumes", [])
        }

    # -- what a pod is

    @property
    def containers(self) -> list[dict[str, Any]]:
        spec = self.pod["spec"]
        return [*spec.get("initContainers", []), *spec["containers"]]

    def port(self, target: str | int) -> int:
        """Where a Service with this `targetPort` leads."""
        if isinstance(target, int):
            return target
        [found] = [
            port["containerPort"]
            for container in self.containers
            for port in container.get("ports", [])
            if port.get("name") == target and port.get("protocol", "TCP") == "TCP"
        ]
        return int(found)

    def _volume(self, volume: Mapping[str, Any], token: Callable[[str], str]) -> Path:
        folder: Path = self._folder / str(volume["name"])
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        if "projected" in volume:
            for source in volume["projected"]["sources"]:
                wanted = source["serviceAccountToken"]
                (folder / wanted["path"]).write_text(token(wanted["audience"]))
        else:
            assert "emptyDir" in volume
        return folder

    # -- its life

    def start(self) -> None:
        """As a kubelet starts it: init containers in their order, those that go on until they have
        started; then the others, until all are ready."""
        for container in self.pod["spec"].get("initContainers", []):
            if container.get("restartPolicy") == "Always":
                self._start(container)
                self._until(container, "startupProbe")
            else:
                done = self._start(container)
                code = done.process.wait(timeout=60)
                assert code == 0, done.said
        for container in self.pod["spec"]["containers"]:
            self._start(container)
        for container in self.containers:
            if container["name"] in self.running:
                self._until(container, "startupProbe")
                self._until(container, "readinessProbe")

    def end(self) -> None:
        """SIGTERM to all at once, after a preStop of each; sidecar containers after the others."""
        ordinary = self.pod["spec"]["containers"]
        going_on = [c for c in self.pod["spec"].get("initContainers", []) if goes_on(c)]
        hooks = {each["name"]: self._pre_stop(each) for each in ordinary}
        for each in ordinary:
            if hooks[each["name"]] is None:
                self.running[each["name"]].process.terminate()
        for each in ordinary:
            hook = hooks[each["name"]]
            if hook is not None:
                assert hook.process.wait(timeout=30) == 0, hook.said
                self.running[each["name"]].process.terminate()
        self._ended([each["name"] for each in ordinary])
        for each in reversed(going_on):
            self.running[each["name"]].process.terminate()
            self._ended([each["name"]])

    def kill(self) -> None:
        """Whatever is left."""
        for each in self.running.values():
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait(timeout=30)

    def _ended(self, names: Sequence[str]) -> None:
        for name in names:
            code = self.running[name].process.wait(timeout=40)
            assert code == 0, f"{name}: {code}\n{self.running[name].said}"

    def _pre_stop(self, container: Mapping[str, Any]) -> Running | None:
        hook = (container.get("lifecycle") or {}).get("preStop")
        if hook is None:
            return None
        command = self.space.command(*hook["exec"]["command"])
        return Running(command, self._folder, f"{container['name']}-prestop")

    def _start(self, container: Mapping[str, Any]) -> Running:
        name = container["name"]
        command = [*self._images[container["image"]], *container.get("args", [])]
        variables = [
            f"{each['name']}={each['value'].replace('$$', '$')}"
            for each in container.get("env", [])
        ]
        clean = ["env", "-i", f"PATH={os.environ['PATH']}", "PYTHONUNBUFFERED=1", *variables]
        mounted = ["unshare", "--mount", "sh", "-ec", f'{self._mounts(container)}; exec "$@"', "sh"]
        self.running[name] = started = Running(
            self.space.command(*mounted, *privileges(container), *clean, *command),
            self._folder, name,
        )  # fmt: skip
        return started

    def _mounts(self, container: Mapping[str, Any]) -> str:
        """Shell commands that put volumes where the container has them; what is there is hidden."""
        lines = ["mount --make-rprivate /"]
        for mount in container.get("volumeMounts", []):
            path = Path(mount["mountPath"])
            top = Path(*path.resolve().parts[:3]) if path.parts[1] != "run" else Path("/run")
            top = Path("/run") if str(path).startswith("/var/run") else top
            aim, volume = shlex.quote(str(path)), shlex.quote(str(self._volumes[mount["name"]]))
            lines += [
                f"mount -t tmpfs -o mode=0755 none {top}", f"mkdir -p {aim}",
                f"mount --bind {volume} {aim}",
            ]  # fmt: skip
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {aim}")
        return "; ".join(lines)

    # -- what a kubelet asks

    def probe(self, container: Mapping[str, Any], kind: str) -> int:
        """The status of an HTTP probe, from the node; 0 where nobody answers."""
        aim = container[kind]["httpGet"]
        port = aim["port"]
        if isinstance(port, str):
            [port] = [p["containerPort"] for p in container["ports"] if p.get("name") == port]
        headers = {each["name"]: each["value"] for each in aim.get("httpHeaders", [])}
        return self.get(int(port), aim["path"], headers)[0]

    def get(
        self, port: int, path: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """From the node to the pod's address."""
        connection = http.client.HTTPConnection(POD[0], port, timeout=20)
        try:
            connection.sock = self.node.connect(POD[0], port)
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def _until(self, container: Mapping[str, Any], kind: str) -> None:
        if kind not in container:
            return
        running = self.running[container["name"]]

        def succeeded() -> bool:
            assert running.process.poll() is None, running.said
            return 200 <= self.probe(container, kind) < 400

        until(succeeded, f"{container['name']}: {kind}: {running.said}")


def goes_on(container: Mapping[str, Any]) -> bool:
    return bool(container.get("restartPolicy") == "Always")


def privileges(container: Mapping[str, Any]) -> list[str]:
    """`setpriv` with what the security context leaves; but for reading what tests are made of."""
    security = container.get("securityContext") or {}
    if not security:
        return []
    user = security["runAsUser"]
    added = [name.lower() for name in security.get("capabilities", {}).get("add", [])]
    kept = ",".join(["-all", "+dac_read_search", *(f"+{name}" for name in added)])
    assert security["allowPrivilegeEscalation"] is False
    return [
        "setpriv", f"--reuid={user}", f"--regid={security['runAsGroup']}", "--clear-groups",
        f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}", "--no-new-privs",
    ]  # fmt: skip
