"""The one place that builds objects and wires them; signals; drain."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import uvloop
from aiohttp import web
from prometheus_client.core import Metric

from sidecar import __version__
from sidecar.config import Address, ControlPlaneSettings, RunSettings
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.documents import Document
from sidecar.edge import admin
from sidecar.edge.address import Address as UpstreamAddress
from sidecar.edge.address import tls_connect
from sidecar.edge.authorizer import Authorizer
from sidecar.edge.certificates import ClientFiles, ServerFiles
from sidecar.edge.families import insecure_families, proxy_families, tls_families
from sidecar.edge.forwarded import TrustedProxies, network
from sidecar.edge.handshakes import Handshakes
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.proxy import Proxy
from sidecar.edge.rotation import Rotation
from sidecar.edge.sweeper import Sweeper
from sidecar.edge.upstream import UpstreamPool
from sidecar.errors import Misuse, SidecarError, StateUnusable, TlsFilesUnusable
from sidecar.facts.jwks import KeyStore
from sidecar.facts.policies import FilePolicies
from sidecar.facts.releases import Assignment
from sidecar.facts.signing import trust_for
from sidecar.facts.state import StateDirectory, default_state_dir
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics, counter, gauge, labelled_gauge

if TYPE_CHECKING:
    from sidecar.facts.discovery import DiscoveryClient

_log: Final = logging.getLogger("sidecar")


class DataPlane:
    """One sidecar, from settings to sockets. `start`, then `run` until a signal, then `stop`."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.log = DecisionLog(settings.decision_log)
        self.keys = KeyStore()
        self.authorizer = Authorizer(self.keys, self.metrics, self.log)
        self.tls: list[Rotation] = []
        self.proxy = Proxy(
            self.authorizer,
            self._pool(),
            handshakes=self._handshakes(),
            trusted=TrustedProxies(network(each) for each in settings.trusted_proxies),
            strip=self.authorizer.rule_headers,
        )
        self.policies: FilePolicies | None = None
        self.discovery: DiscoveryClient | None = None
        self.started = time.time()
        self._state: StateDirectory | None = None
        self._state_error = ""
        self._runners: list[web.AppRunner] = []
        self._bound: list[tuple[str, int]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Bind, load what is there, begin to serve. Raises SidecarError with what to do."""
        settings = self.settings
        await self._load_tls()
        if settings.policies is not None:
            self.policies = FilePolicies(settings.policies, settings.namespace, self._adopt)
            await self.policies.start()
            self._spawn(self.policies.run())
        elif settings.control_plane is not None:
            self.discovery = self._discovery(settings.control_plane)
            await self.discovery.restore()
            self._spawn(self.discovery.run())
        await self.keys.start()
        self.metrics.register(self._families)
        try:
            self._bound = await self.proxy.listen(settings.listen.host, settings.listen.port)
        except Misuse as error:
            raise Misuse(f"--listen: {error}") from None
        await self._serve("--health", settings.health, self._health_app())
        await self._serve("--admin", settings.admin, self._admin_app())
        gc.collect()
        gc.freeze()

    async def stop(self) -> None:
        """Finish what is in flight within the limit, then close everything."""
        if not await self.proxy.drain(self.settings.drain):
            _log.warning("requests still in flight after %g s were cut", self.settings.drain)
        await self.proxy.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.keys.close()
        for runner in self._runners:
            await runner.cleanup()
        if self._state is not None:
            self._state.close()
        await asyncio.to_thread(self.log.close)

    async def reload(self) -> None:
        """SIGHUP: read the documents and the TLS files again, go on in a new log file."""
        self.log.reopen()
        for rotation in self.tls:
            await rotation.check(settled=True)
        if self.policies is not None and self.authorizer.snapshot is not None:
            await self.policies.reload()

    def reload_soon(self) -> None:
        """The same, from a signal handler."""
        self._spawn(self.reload())

    # TLS on both sides.

    def _handshakes(self) -> Handshakes | None:
        settings = self.settings
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        optional = settings.tls_client_auth == "optional"
        files = ServerFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca, optional)
        rotation = Rotation("client", files)
        self.tls.append(rotation)
        return Handshakes(lambda: rotation.context)

    def _pool(self) -> UpstreamPool:
        settings = self.settings
        address = UpstreamAddress.parse(settings.upstream)
        if not address.tls:
            return UpstreamPool(address, Limits(), Sweeper(), ProxyStats())
        files = ClientFiles(
            settings.upstream_ca,
            settings.upstream_cert,
            settings.upstream_key,
            not settings.insecure_upstream_skip_verify,
        )
        rotation = Rotation("upstream", files)
        self.tls.append(rotation)
        connect = tls_connect(address, lambda: rotation.context, settings.upstream_server_name)
        pool = UpstreamPool(address, Limits(), Sweeper(), ProxyStats(), connect)
        rotation.changed = pool.renew
        return pool

    async def _load_tls(self) -> None:
        """Every file's mistake at once."""
        mistakes = []
        for rotation in self.tls:
            try:
                await asyncio.to_thread(rotation.load)
            except TlsFilesUnusable as error:
                mistakes.append(f"TLS towards the {rotation.side}: {error}")
        if mistakes:
            raise Misuse(mistakes)
        for rotation in self.tls:
            self._spawn(rotation.run())
        if self.settings.insecure_upstream_skip_verify:
            _log.warning(
                "insecure-upstream-skip-verify: whoever answers at %s is taken for the upstream",
                self.settings.upstream,
            )

    # Where policy comes from.

    async def _adopt(self, documents: Sequence[Document], version: str = "") -> None:
        """Compile off the loop, then swap one reference."""
        snapshot = await asyncio.to_thread(
            compile_snapshot,
            documents,
            namespace=self.settings.namespace,
            labels=self.settings.labels,
            version=version,
        )
        self.authorizer.adopt(snapshot)
        _log.info("enforcing %s: %d rules", snapshot.version, snapshot.rules)

    async def _adopt_release(self, assignment: Assignment) -> None:
        await self._adopt(assignment.documents, assignment.version)

    def _discovery(self, control_plane: Address) -> DiscoveryClient:
        settings = self.settings
        pem = settings.trust.read_bytes() if settings.trust is not None else None
        trust = trust_for(str(control_plane), trust_pem=pem, pinned=frozenset())
        from sidecar.facts.discovery import DiscoveryClient  # gRPC: 13 MiB that files do not need

        self._state = self._open_state(control_plane)  # once it is clear that it will be used
        return DiscoveryClient(
            str(control_plane),
            namespace=settings.namespace,
            labels=settings.labels,
            sidecar_id=self._state.sidecar_id() if self._state else os.urandom(16).hex(),
            trust=trust,
            adopt=self._adopt_release,
            state=self._state,
            build=__version__,
        )

    def _open_state(self, control_plane: Address) -> StateDirectory | None:
        """A folder that was named must work; the default one may be missing, which is said."""
        settings = self.settings
        if settings.state is not None:
            return StateDirectory.open(settings.state)
        path = default_state_dir(
            settings.state_home, str(control_plane), settings.namespace, settings.labels
        )
        try:
            return StateDirectory.open(path)
        except StateUnusable as error:
            self._state_error = str(error)
            _log.warning("the last-known-good release will not outlive this process: %s", error)
            return None

    # What others see.

    def _ready(self) -> str:
        return "" if self.authorizer.snapshot is not None else "no policy has been received yet"

    def _health_app(self) -> web.Application:
        return admin.health_app(self.metrics, self._ready)

    def _admin_app(self) -> web.Application:
        return admin.admin_app(
            self.metrics, self._ready, self.snapshot_state, self.config_state,
            lambda: self.log.recent,
        )  # fmt: skip

    def snapshot_state(self) -> dict[str, Any]:
        """What is enforced, since when, and how it got here."""
        snapshot = self.authorizer.snapshot
        found: dict[str, Any] = {"snapshot": None, "keys": self.keys.status()}
        if snapshot is not None:
            found["snapshot"] = {
                "version": snapshot.version,
                "digest": snapshot.digest,
                "namespace": snapshot.namespace,
                "labels": dict(snapshot.labels),
                "service": snapshot.service.name,
                "mode": "observe" if snapshot.service.observe else "enforce",
                "documents": snapshot.documents,
                "rules": snapshot.rules,
                "issuers": sorted(snapshot.issuers),
                "adopted": self.authorizer.adopted,
            }
        if self.discovery is not None:
            found["control_plane"] = {
                "address": str(self.settings.control_plane),
                "connected": self.discovery.connected,
                "age_seconds": self.discovery.age(time.time()),
                "last_error": self.discovery.last_error,
            }
        if self.policies is not None:
            found["policies"] = {"path": str(self.settings.policies), "error": self.policies.error}
        return found

    def config_state(self) -> dict[str, Any]:
        """The settings in force."""
        plain = (str, int, float, dict, tuple, type(None))
        return {
            name: value if isinstance(value, plain) else str(getattr(self.settings, name))
            for name, value in asdict(self.settings).items()
        }

    def _families(self) -> Iterable[Metric]:
        yield labelled_gauge("sidecar_build_info", "The program's version.", version=__version__)
        yield from self._snapshot_families()
        yield from self._source_families()
        log, tokens, keys = self.log, self.authorizer.evidence.tokens, self.keys
        yield counter("sidecar_decision_log_written", "Decision records written.", log.written)
        yield counter("sidecar_decision_log_dropped", "Decision records lost.", log.dropped)
        yield gauge("sidecar_token_cache_entries", "Verified tokens remembered.", len(tokens))
        yield counter("sidecar_token_cache_hits", "Tokens found verified.", tokens.hits)
        yield counter("sidecar_token_cache_misses", "Tokens not found verified.", tokens.misses)
        yield counter("sidecar_token_cache_evictions", "Dropped at the bound.", tokens.evictions)
        yield counter("sidecar_key_fetches", "Fetches of issuers' keys.", keys.fetches)
        yield counter("sidecar_key_fetch_failures", "Those that failed.", keys.failures)
        yield from proxy_families(self.proxy.stats)
        yield from tls_families(self.proxy.handshakes, self.tls)
        yield insecure_families(
            insecure_upstream_skip_verify=self.settings.insecure_upstream_skip_verify
        )

    def _snapshot_families(self) -> Iterable[Metric]:
        snapshot = self.authorizer.snapshot
        yield gauge("sidecar_snapshot_ready", "Whether there is one.", float(snapshot is not None))
        if snapshot is None:
            return
        age = self.discovery.age(time.time()) if self.discovery is not None else 0.0
        yield gauge(
            "sidecar_snapshot_age_seconds",
            "Since what is enforced was last known to be the newest.",
            age or 0.0,
        )
        yield gauge(
            "sidecar_snapshot_adopted_timestamp_seconds", "When it was.", self.authorizer.adopted
        )
        yield labelled_gauge(
            "sidecar_snapshot_info", "What is enforced.",
            version=snapshot.version, namespace=snapshot.namespace, digest=snapshot.digest[:16],
        )  # fmt: skip
        yield gauge("sidecar_snapshot_rules", "Rules in it.", snapshot.rules)
        yield gauge(
            "sidecar_observe_mode", "1: refusals are only logged.", float(snapshot.service.observe)
        )

    def _source_families(self) -> Iterable[Metric]:
        if self.discovery is not None:
            client = self.discovery
            yield gauge(
                "sidecar_control_plane_connected", "Whether its stream is open.",
                float(client.connected),
            )  # fmt: skip
            yield counter("sidecar_control_plane_reconnects", "Attempts.", client.reconnects)
            yield counter("sidecar_releases_adopted", "Releases acknowledged.", client.acks)
            yield counter("sidecar_releases_refused", "Releases not adopted.", client.nacks)
            yield gauge(
                "sidecar_state_usable", "Whether the last-known-good outlives the process.",
                float(self._state is not None and client.saved),
            )  # fmt: skip
        if self.policies is not None:
            yield counter("sidecar_policy_reloads", "Changes adopted.", self.policies.reloads)
            yield counter("sidecar_policy_rejects", "Changes with errors.", self.policies.rejected)

    async def _serve(self, flag: str, address: Address, app: web.Application) -> None:
        async def bind(host: str, port: int) -> None:
            self._runners.append(await admin.serve(app, host, port))

        await listening(flag, address, bind)

    def addresses(self) -> dict[str, str]:
        """Where it listens, with the ports that were chosen for port 0."""
        bound = [_address(runner.addresses[0]) for runner in self._runners]
        return {"listen": _address(self._bound[0]), "health": bound[0], "admin": bound[1]}

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(_report)


def run_data_plane(settings: RunSettings) -> int:
    """`sidecar run`: serve until SIGTERM or SIGINT, drain, exit code 0."""
    _logging()
    return uvloop.run(_run_data_plane(settings))


async def _run_data_plane(settings: RunSettings) -> int:
    plane = DataPlane(settings)
    # From the start: the default for SIGHUP is to die.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, plane.reload_soon)
    try:
        await plane.start()
    except BaseException:
        await plane.stop()
        raise
    where = ", ".join(f"{name} {address}" for name, address in plane.addresses().items())
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

    plane = ControlPlane()
    bound = await plane.start(
        str(settings.listen),
        str(settings.http),
        settings.store,
        insecure_unauthenticated=settings.insecure_unauthenticated,
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


async def listening(
    flag: str, address: Address, bind: Callable[[str, int], Awaitable[Any]]
) -> None:
    """Bind, or say who should change what."""
    try:
        await bind(address.host, address.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "is taken by another program; stop that one or choose another port"
        elif error.errno == errno.EACCES:
            why = "needs privileges that this user does not have; choose a port from 1024"
        elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            why = "is not an address of this machine; 0.0.0.0 and [::] are all of its addresses"
        else:
            why = f"cannot be listened on: {error.strerror or error}"
        raise Misuse(f"{flag}: {address} {why}") from None


def _address(bound: Any) -> str:
    return str(Address(bound[0], bound[1]))


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        error = task.exception()
        if isinstance(error, SidecarError):
            _log.error("%s", error)
        else:
            _log.error("a background task ended", exc_info=error)


def _logging() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
