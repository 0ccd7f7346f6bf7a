"""The supervisor of several workers: owns policy, keys, the port and what workers share.

It serves no traffic. Workers decide with what it sends them, and a release is acknowledged when
none of them decides with an older one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.config import Address, RunSettings
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.documents import Document
from sidecar.decide.revocations import Revocation, Revocations, pack
from sidecar.decide.snapshot import Snapshot
from sidecar.edge import admin
from sidecar.edge.families import probe_family
from sidecar.edge.probes import Probes
from sidecar.facts.beside import beside
from sidecar.facts.jwks import KeyStore
from sidecar.facts.subjects import SubjectsFile
from sidecar.plane import inspection, messages, traffic_tls
from sidecar.plane.crew import Crew
from sidecar.plane.port import HeldPort
from sidecar.plane.shared import Shared, nonce_key
from sidecar.plane.slot import Release
from sidecar.plane.source import PolicySource, asks_about_customers, subject_stream
from sidecar.plane.tasks import Tasks
from sidecar.telemetry import fared, metrics
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.merged import Merged

ADOPT: Final = 10.0  # seconds that a worker has to adopt a release, and what it may take longer:
SLOWER: Final = 4.0  # times as long as here, were all of them to share one core

_log: Final = logging.getLogger("sidecar")


class Supervisor:
    """`start`, then `stop`."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.snapshot: Snapshot | None = None  # enforced by every worker
        self.adopted = 0.0
        self.keys = KeyStore()
        self._withdrawn = Revocations()
        self._shared = Shared()
        self._nonce_key = nonce_key(settings, self._shared.key)  # once: all workers have the same
        self.crew = Crew(
            settings.workers,
            self._begin,
            self._shared.descriptors,
            self.keys.shared,
            self.keys.fetch_if_due,
            self._withdrawn.packed,
            customers=asks_about_customers(settings),
        )
        customers = self.crew.customers
        self.source = PolicySource(
            settings,
            self._adopt,
            self._withdrawn,
            self._withdraw,
            None if customers is None else subject_stream(customers, settings.namespace),
            self._totals,
        )
        self.keys.changed = self.crew.keys_changed
        self._settings_sent = messages.settings_to_bytes(settings)
        self._releases = 0
        self._adopting = asyncio.Lock()
        self._port: HeldPort | None = None
        self._servers = inspection.Servers()
        self._probes = Probes(settings.probes)
        self._enforced = inspection.Enforced()
        self._draining = False
        self._tasks = Tasks()

    @property
    def addresses(self) -> Mapping[str, str]:
        found = dict(self._servers.addresses)
        return (
            found if self._port is None else {"listen": str(Address(*self._port.address)), **found}
        )

    async def start(self) -> None:
        settings = self.settings
        await self._check()
        await self.source.start()
        await self.keys.start()
        self._port = await HeldPort.hold(settings.listen.host, settings.listen.port)
        await self.crew.start(self._port.port)
        await self._servers.start(
            "admin", settings.admin,
            admin.admin_pages(
                self._page, self._ready, self._snapshot_state,
                lambda: inspection.config_state(settings), self.crew.decisions, self._enforced.page,
            ),
        )  # fmt: skip
        # Last: who hears that we are ready finds all the rest.
        await self._servers.start(
            "health", settings.health, admin.health_pages(self._page, self._ready),
            self._probes.pages(),
        )  # fmt: skip

    async def stop(self) -> None:
        self._draining = True
        await self.crew.drain(self.settings.drain)  # with keys and policy until the last request
        await self._tasks.cancel()
        await self.source.close()
        await self.keys.close()
        await self._servers.close()
        await self._probes.close()
        if self._port is not None:
            self._port.close()
        self._shared.close()

    def reload_soon(self) -> None:
        self.crew.reload()
        self._tasks.spawn(self.source.reload())

    async def _check(self) -> None:
        """What would end every worker's start ends this one. Raises Misuse."""
        settings = self.settings
        sides = (traffic_tls.client_side(settings), traffic_tls.upstream_side(settings))
        await traffic_tls.load(rotation for rotation in sides if rotation is not None)
        if settings.subjects is not None:
            await SubjectsFile(settings.subjects).load()
        traffic_tls.warn_of_insecure(settings)
        await asyncio.to_thread(DecisionLog(settings.decision_log).close)

    def _begin(self, worker: int) -> messages.Begin:
        return messages.Begin(
            worker, __version__, self._settings_sent, self._shared.key, self._nonce_key
        )

    async def _adopt(self, documents: Sequence[Document], version: str) -> None:
        """Raises DocumentsInvalid, before any worker has heard of them."""
        async with self._adopting:
            began = time.perf_counter()
            snapshot = await beside.run(
                compile_snapshot,
                documents,
                namespace=self.settings.namespace,
                labels=self.settings.labels,
                version=version,
                hurry=True,  # no request passes through this process
            )
            took = time.perf_counter() - began
            self.keys.use(snapshot.issuers.values())
            self._releases += 1
            await self.crew.adopt(
                Release(
                    self._releases,
                    version,
                    tuple(document.canonical for document in documents),
                    ADOPT + SLOWER * took * self.settings.workers,
                )
            )
            self.snapshot, self.adopted = snapshot, time.time()
            await self._enforced.keep(documents, snapshot)
            _log.info("enforcing %s: %d rules", snapshot.version, snapshot.rules)

    async def _withdraw(self, revocations: Sequence[Revocation]) -> None:
        self._withdrawn.add(revocations)
        await self.crew.withdraw(pack(revocations))

    # What others see.

    async def _totals(self) -> fared.Fared:
        return fared.of_families((await self.crew.count()).families)

    def _ready(self) -> str:
        if self._draining:
            return "draining"
        if self.snapshot is None:
            return "no policy has been received yet"
        return self.crew.not_ready()

    async def _page(self) -> bytes:
        return metrics.page(_Page(await self.crew.count(), self._families()))

    def _snapshot_state(self) -> dict[str, Any]:
        return {
            "snapshot": inspection.snapshot_state(self.snapshot, self.adopted),
            "keys": self.keys.status(),
            **self.source.status(),
            "workers": self.crew.status(),
        }

    def _families(self) -> Iterable[Metric]:
        yield inspection.build_family()
        yield from inspection.snapshot_families(self.snapshot, self.adopted, self.source.age())
        yield from self.source.families()
        yield from inspection.key_families(self.keys)
        if self.settings.probes:
            yield probe_family(self._probes.counts)
        yield from self.crew.families()


class _Page(Collector):
    """The workers' numbers and our own."""

    def __init__(self, counted: Merged, own: Iterable[Metric]) -> None:
        self._counted = counted
        self._own = own

    def collect(self) -> Iterator[Metric]:
        yield from self._counted.metrics()
        yield from self._own
