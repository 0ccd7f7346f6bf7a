"""The one place that builds objects and wires them; signals; drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import uvloop
from prometheus_client.core import Metric

from sidecar import __version__
from sidecar.config import Address, ControlPlaneSettings, RunSettings
from sidecar.decide.documents import Document
from sidecar.decide.revocations import Revocation
from sidecar.edge import admin
from sidecar.edge.families import probe_family
from sidecar.edge.probes import Probes
from sidecar.facts.jwks import KeyStore
from sidecar.plane import inspection
from sidecar.plane.garbage import settle
from sidecar.plane.serving import Serving
from sidecar.plane.source import PolicySource
from sidecar.plane.tasks import Tasks
from sidecar.plane.traffic_tls import warn_of_insecure
from sidecar.telemetry import metrics
from sidecar.telemetry.decision_log import DecisionLog

_log: Final = logging.getLogger("sidecar")


class Plane(Protocol):
    """One sidecar, from settings to sockets: one process, or a supervisor and its workers."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where it listens, with the ports that were chosen for port 0."""

    async def start(self) -> None:
        """Bind, load what is there, begin to serve. Raises SidecarError with what to do."""

    async def stop(self) -> None:
        """Finish what is in flight within the limit, then close everything."""

    def reload_soon(self) -> None:
        """SIGHUP: read the documents and the TLS files again, go on in a new log file."""


class DataPlane:
    """All of it in one process."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.keys = KeyStore()
        self.serving = Serving(settings, self.keys, DecisionLog(settings.decision_log))
        authorizer = self.serving.authorizer
        self.source = PolicySource(
            settings, self._adopt, authorizer.evidence.revocations, self._withdraw
        )
        self._servers = inspection.Servers()
        self._probes = Probes(settings.probes)
        self._enforced = inspection.Enforced()
        self._listening: dict[str, str] = {}
        self._draining = False
        self._tasks = Tasks()

    @property
    def addresses(self) -> Mapping[str, str]:
        return {**self._listening, **self._servers.addresses}

    async def start(self) -> None:
        settings = self.settings
        await self.serving.load_files()
        warn_of_insecure(settings)
        await self.source.start()
        await self.keys.start()
        self.serving.metrics.register(self._families)
        bound = await self.serving.listen(settings.listen.host, settings.listen.port)
        self._listening["listen"] = str(Address(*bound[0]))
        await self._servers.start(
            "admin", settings.admin,
            admin.admin_pages(
                self._page, self._ready, self._snapshot_state,
                lambda: inspection.config_state(settings), self._decisions, self._enforced.page,
            ),
        )  # fmt: skip
        # Last: who hears that we are ready finds all the rest.
        await self._servers.start(
            "health", settings.health, admin.health_pages(self._page, self._ready),
            self._probes.pages(),
        )  # fmt: skip
        settle()

    async def stop(self) -> None:
        self._draining = True
        await self.serving.drain()
        await self._tasks.cancel()
        await self.source.close()
        await self.keys.close()
        await self._servers.close()
        await self._probes.close()
        await self.serving.close()

    def reload_soon(self) -> None:
        self._tasks.spawn(self._reload())

    async def _reload(self) -> None:
        await self.serving.reload()
        await self.source.reload()

    async def _adopt(self, documents: Sequence[Document], version: str) -> None:
        snapshot = await self.serving.adopt(documents, version)
        await self._enforced.keep(documents, snapshot)
        _log.info("enforcing %s: %d rules", snapshot.version, snapshot.rules)

    async def _withdraw(self, revocations: Sequence[Revocation]) -> None:
        self.serving.authorizer.withdraw(revocations)

    # What others see.

    def _ready(self) -> str:
        if self._draining:
            return "draining"
        known = self.serving.authorizer.snapshot is not None
        return "" if known else "no policy has been received yet"

    async def _page(self) -> bytes:
        return metrics.page(self.serving.metrics)

    async def _decisions(self) -> Sequence[Mapping[str, Any]]:
        return self.serving.log.recent

    def _snapshot_state(self) -> dict[str, Any]:
        """What is enforced, since when, and how it got here."""
        authorizer = self.serving.authorizer
        return {
            "snapshot": inspection.snapshot_state(authorizer.snapshot, authorizer.adopted),
            "keys": self.keys.status(),
            **self.source.status(),
        }

    def _families(self) -> Iterable[Metric]:
        authorizer = self.serving.authorizer
        yield inspection.build_family()
        yield from inspection.snapshot_families(
            authorizer.snapshot, authorizer.adopted, self.source.age()
        )
        yield from self.source.families()
        yield from inspection.key_families(self.keys)
        if self.settings.probes:
            yield probe_family(self._probes.counts)


def run_data_plane(settings: RunSettings) -> int:
    """`sidecar run`: serve until SIGTERM or SIGINT, drain, exit code 0."""
    _logging()
    if settings.workers > 1:
        # Not uvloop: its way of starting processes forks, which gRPC does not survive.
        from sidecar.plane.supervisor import Supervisor

        return asyncio.run(_run_data_plane(Supervisor, settings))
    return uvloop.run(_run_data_plane(DataPlane, settings))


async def _run_data_plane(make: Callable[[RunSettings], Plane], settings: RunSettings) -> int:
    plane = make(settings)
    # From the start: the default for SIGHUP is to die.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, plane.reload_soon)
    try:
        await plane.start()
    except BaseException:
        await plane.stop()
        raise
    where = ", ".join(f"{name} {address}" for name, address in plane.addresses.items())
    _log.info("sidecar %s for %s: %s", __version__, settings.upstream, where)
    await _signalled()
    _log.info("draining")
    await plane.stop()
    return 0


def run_control_plane(settings: ControlPlaneSettings) -> int:
    """`sidecar control-plane`: serve until SIGTERM or SIGINT, exit code 0."""
    _logging()
    return asyncio.run(_run_control_plane(settings))


async def _run_control_plane(settings: ControlPlaneSettings) -> int:
    from sidecar.control.server import ControlPlane
    from sidecar.control.transmitters import load

    file = settings.ssf_transmitters
    transmitters = load(file) if file is not None else None
    plane = ControlPlane()
    bound = await plane.start(
        str(settings.listen),
        str(settings.http),
        settings.store,
        insecure_unauthenticated=settings.insecure_unauthenticated,
        transmitters=transmitters,
    )
    _log.info("control plane %s: gRPC %s, HTTP %s", __version__, bound.grpc, bound.http)
    await _signalled()
    await plane.stop()
    return 0


async def _signalled() -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def _logging() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
