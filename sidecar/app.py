"""The one place that builds objects and wires them; signals; drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import uvloop
from prometheus_client.core import Metric

from sidecar import __version__
from sidecar.config import (
    Address,
    ControlPlaneSettings,
    FleetSettings,
    InjectSettings,
    PublisherSettings,
    RunSettings,
    variable,
)
from sidecar.decide.documents import Document
from sidecar.decide.revocations import Revocation
from sidecar.edge import admin
from sidecar.edge.families import probe_family
from sidecar.edge.probes import Probes
from sidecar.facts import registration
from sidecar.facts.customers import Customers
from sidecar.facts.jwks import KeyStore
from sidecar.plane import inspection
from sidecar.plane.garbage import settle
from sidecar.plane.serving import Serving
from sidecar.plane.source import PolicySource, asks_about_customers, subject_stream
from sidecar.plane.tasks import Tasks
from sidecar.plane.traffic_tls import warn_of_insecure
from sidecar.telemetry import fared, metrics
from sidecar.telemetry.decision_log import DecisionLog

if TYPE_CHECKING:
    from sidecar.control.identity import WorkloadTokens
    from sidecar.control.publisher_listener import PublisherListener
    from sidecar.control.server import FleetListener

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
        customers = Customers() if asks_about_customers(settings) else None
        log = DecisionLog(settings.decision_log)
        self.serving = Serving(settings, self.keys, log, customers=customers)
        authorizer = self.serving.authorizer
        self.source = PolicySource(
            settings,
            self._adopt,
            authorizer.evidence.revocations,
            self._withdraw,
            None if customers is None else subject_stream(customers, settings.namespace),
            self._totals,
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

    async def _totals(self) -> fared.Fared:
        return fared.of_metrics(self.serving.metrics)

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
    from sidecar.control.server import ControlPlane, Terms
    from sidecar.control.transmitters import load

    file = settings.ssf_transmitters
    transmitters = load(file) if file is not None else None
    fleet = _fleet(settings, settings.fleet) if settings.fleet is not None else None
    plane = ControlPlane()
    told = Told()
    bound = await plane.start(
        str(settings.listen),
        str(settings.http),
        settings.store,
        insecure_unauthenticated=settings.insecure_unauthenticated,
        transmitters=transmitters,
        fleet=fleet,
        insecure_page_cookies=settings.insecure_page_cookies,
        events=settings.events,
        publishers=_publishers(settings.publishers),
        terms=Terms(settings.publishers.approvals, settings.publishers.delegated_only, told.put),
    )
    if settings.insecure_page_cookies:
        _log.warning("insecure_page_cookies: customers' pages work without TLS")
    where = f"gRPC {bound.grpc}, HTTP {bound.http}" + (bound.fleet and f", fleet {bound.fleet}")
    where += bound.mtls and f", with certificates {bound.mtls}"
    where += bound.api and f", API {bound.api}"
    _log.info("control plane %s: %s", __version__, where)
    async with _publishing(settings, told):
        await _signalled()
    await plane.stop()
    return 0


def _publishers(settings: PublisherSettings) -> PublisherListener:
    """Who may publish, and what they are shown. Raises Misuse."""
    from sidecar.control.certificates import ServerCertificates
    from sidecar.control.credentials import Authority
    from sidecar.control.publisher_listener import PublisherListener

    def shown(client_ca: Path | None) -> ServerCertificates | None:
        flags = "--publisher-tls-cert, --publisher-tls-key, --publisher-client-ca"
        return ServerCertificates(*settings.tls, client_ca, flags) if settings.tls else None

    where, asking = settings.mtls_listen, shown(settings.client_ca)
    return PublisherListener(
        authority=Authority(settings.file) if settings.file is not None else None,
        certificates=shown(None) if where is not None else asking,
        mtls=(str(where), asking) if where is not None and asking is not None else None,
        api=(str(settings.api), shown(settings.client_ca)) if settings.api is not None else None,
    )


def _fleet(settings: ControlPlaneSettings, fleet: FleetSettings) -> FleetListener:
    """Where sidecars come, and what checks whose they are."""
    from sidecar.control.certificates import ServerCertificates
    from sidecar.control.identity import Identities
    from sidecar.control.server import FleetListener

    keys = fleet.registration_keys
    return FleetListener(
        str(fleet.listen),
        ServerCertificates(fleet.tls_cert, fleet.tls_key, fleet.tls_client_ca),
        Identities(
            _workload_tokens(settings, fleet),
            None if keys is None else partial(registration.read_keys, keys),
            fleet.trust_domain,
        ),
    )


def _workload_tokens(settings: ControlPlaneSettings, fleet: FleetSettings) -> WorkloadTokens | None:
    from sidecar.control.identity import ClusterKeys, TokenReviews, cluster_issuer
    from sidecar.facts.kubernetes import Cluster, KubernetesApi

    how = fleet.workload_tokens
    if how is None:
        return None
    if how == "tokenreview":
        cluster = Cluster.named(settings.kubernetes, variable)
        return TokenReviews(KubernetesApi(cluster), fleet.workload_audience)
    issuer = cluster_issuer(fleet.workload_issuer, fleet.workload_audience, how)
    return ClusterKeys(issuer, KeyStore())


class Told:
    """The newest of what is said, for whoever comes to hear it later."""

    def __init__(self) -> None:
        self._last = ""
        self._hear: Callable[[str], object] | None = None

    def put(self, text: str) -> None:
        self._last = text
        if self._hear is not None:
            self._hear(text)

    def hear(self, hear: Callable[[str], object]) -> None:
        self._hear = hear
        if self._last:
            hear(self._last)


@asynccontextmanager
async def _publishing(settings: ControlPlaneSettings, told: Told) -> AsyncIterator[None]:
    """Puts the public keys of releases where they are wanted, now and whenever they change."""
    if settings.publish_keys is None:
        yield
        return
    from sidecar.facts.kubernetes import Cluster, KubernetesApi
    from sidecar.facts.published_keys import publish_keys

    api = KubernetesApi(Cluster.named(settings.kubernetes, variable))
    tasks = Tasks()
    config_map = settings.publish_keys
    last: list[asyncio.Task[None]] = []

    def put(pem: str) -> None:
        for task in last:
            task.cancel()  # lest what was said before comes after it
        last[:] = [tasks.spawn(publish_keys(api, config_map, "release.pem", pem))]

    told.hear(put)
    try:
        yield
    finally:
        await tasks.cancel()
        await api.close()


def run_inject(settings: InjectSettings) -> int:
    """`sidecar inject`: answer the API server until SIGTERM or SIGINT, exit code 0."""
    _logging()
    return asyncio.run(_run_inject(settings))


async def _run_inject(settings: InjectSettings) -> int:
    from sidecar.facts.kubernetes import Cluster, KubernetesApi
    from sidecar.facts.published_keys import publish_keys
    from sidecar.inject.certificates import Material
    from sidecar.inject.keeper import Keeper, Kept
    from sidecar.inject.path import ReviewPath
    from sidecar.inject.server import Servers, Webhook
    from sidecar.inject.shown import Shown, watch_files
    from sidecar.inject.sources import Sources
    from sidecar.inject.terms import Terms
    from sidecar.inject.version import watch_version

    api = KubernetesApi(Cluster.named(settings.kubernetes, variable))
    tasks, shown, path = Tasks(), Shown(), ReviewPath()
    terms = Terms(
        image=settings.image, control_plane=str(settings.control_plane), ca="", trust="",
        mode=settings.mode, native=False, pull_policy=settings.pull_policy,
        resources=settings.sidecar_resources, settings=settings.sidecar_settings,
    )  # fmt: skip
    native = {"always": True, "never": False}.get(settings.native)
    sources = Sources(terms, settings.ca, settings.trust, native)

    def use(material: Material) -> None:
        path.announced(material.path)
        sources.use(material)
        if settings.service:
            shown.use(material)
        if settings.publish_keys is not None:
            pem = material.registration_pem()
            tasks.spawn(publish_keys(api, settings.publish_keys, "registration.pem", pem))

    if settings.tls_cert is not None and settings.tls_key is not None:
        shown.use_files(settings.tls_cert, settings.tls_key)
        tasks.spawn(watch_files(shown, settings.tls_cert, settings.tls_key))
    if native is None:
        tasks.spawn(watch_version(api, sources))
    kept = Kept(settings.secret, settings.service, settings.webhook_configuration)
    keeper = Keeper(api, kept, use, path.expect)
    tasks.spawn(keeper.run())
    webhook = Webhook(
        api, sources.ready, path.admits,
        insecure_allow_uninjected=settings.insecure_allow_uninjected,
    )  # fmt: skip
    servers = Servers(webhook, shown, lambda: sources.missing() or shown.missing())
    try:
        bound = await servers.start(
            (settings.listen.host, settings.listen.port), (settings.http.host, settings.http.port)
        )
        _log.info("injection webhook %s: reviews %s, HTTP %s", __version__, *bound)
        await _signalled()
    finally:
        await servers.close()
        await tasks.cancel()
        await api.close()
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
