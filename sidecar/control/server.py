"""The control plane as one object: store, streams, admin service, HTTP side; start and stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from aiohttp import web
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sidecar.control import database, http, metrics, strangers
from sidecar.control.admin import Admin, Desk
from sidecar.control.api.door import Api
from sidecar.control.api.tls import context_of
from sidecar.control.catalogue import Catalogue
from sidecar.control.certificates import ServerCertificates
from sidecar.control.checking import Validate
from sidecar.control.doors import Doorkeeper, DoorMetrics, Guard
from sidecar.control.events import Transmitter
from sidecar.control.fleet import Fleet
from sidecar.control.identity import Identities
from sidecar.control.keeping import Keeping
from sidecar.control.ports import listen_at
from sidecar.control.publish import Publisher
from sidecar.control.publisher_listener import PublisherListener, check
from sidecar.control.reach import Everyone
from sidecar.control.receive import Receiver
from sidecar.control.repeating import Repeating
from sidecar.control.revocations import RevocationLog
from sidecar.control.rollouts.conductor import LOOK, Conductor
from sidecar.control.rollouts.metrics import RolloutMetrics
from sidecar.control.roster import WRITE, Roster
from sidecar.control.service import Discovery
from sidecar.control.store import Store
from sidecar.control.subjects.admin import Noted
from sidecar.control.subjects.metrics import subject_metrics
from sidecar.control.subjects.service import Subjects
from sidecar.control.watching import Watching
from sidecar.control.withdraw import Withdrawer
from sidecar.decide import lint
from sidecar.facts.jwks import KeyStore
from sidecar.facts.signing import is_loopback
from sidecar.wire import admin_pb2, convert, discovery_pb2, subject_pb2
from sidecar.wire.admin_pb2_grpc import add_AdminServicer_to_server
from sidecar.wire.discovery_pb2_grpc import add_DiscoveryServicer_to_server
from sidecar.wire.subject_pb2_grpc import add_SubjectsServicer_to_server

MAX_STREAMS: Final = 20_000
MAX_API: Final = 1_000  # connections to --api
GRACE: Final = 2.0  # seconds that calls under way get when it stops
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else a taken port is shared in silence
    ("grpc.max_receive_message_length", convert.MAX_MESSAGE),
    ("grpc.max_send_message_length", convert.MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 15_000),  # a dead sidecar leaves `status` within 20 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # newer gRPC waits this long for an answer, else 60 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC calls clients abusive that ping more often than this, and cuts them off.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)
MAX_AGE: Final = 3600.0  # seconds, give or take a tenth, of a sidecar's connection
_SERVICES: Final = tuple(
    service.full_name
    for file in (discovery_pb2, admin_pb2, subject_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bound:
    """HOST:PORT of what listens now; empty where there is nothing."""

    grpc: str
    http: str
    fleet: str = ""
    mtls: str = ""
    api: str = ""


@dataclass(frozen=True, slots=True)
class FleetListener:
    """Where sidecars come, what the listener shows them, and how they show whose they are."""

    listen: str
    certificates: ServerCertificates
    identities: Identities


@dataclass(frozen=True, slots=True)
class Terms:
    """What publishing takes: `approvals` are the namespaces (`*`: all) in which a second person has
    to agree; with `delegated_only` the store's own key signs nothing. `trust_changed` hears the PEM
    of the keys that sidecars may be told to trust, at the start and whenever it is another one."""

    approvals: frozenset[str] = frozenset()
    delegated_only: bool = False
    trust_changed: Callable[[str], None] | None = None


class ControlPlane:
    """A control plane on one store. `start` once, `stop` once."""

    def __init__(
        self,
        *,
        validate: Validate = lint.review,
        max_streams: int = MAX_STREAMS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._validate = validate
        self._clock = clock
        self._catalogue = Catalogue()
        self._log = RevocationLog()
        self._fleet = Fleet(max_streams)
        self._counts = metrics.Counts()
        self._open = AsyncExitStack()
        self._ready = False
        self._subjects: Subjects | None = None
        self._conductor: Conductor | None = None
        self._keeping: Keeping | None = None
        self._keeper = Doorkeeper(None)
        self._insecure: dict[str, bool] = {}
        self._apis: list[Api] = []
        self._publisher_certificate_ends: Callable[[], float] | None = None

    @property
    def trust_pem(self) -> bytes:
        """The public keys of its releases, as `--trust` reads them; after `start`. They are also
        in a file beside an SQLite store, `STORE.trust.pem`, to be handed to sidecars."""
        return self._keeping.pem if self._keeping is not None else b""

    async def start(
        self,
        listen: str,
        http: str | None,
        store_url: str,
        *,
        insecure_unauthenticated: bool = False,
        transmitters: Mapping[str, Transmitter] | None = None,
        fleet: FleetListener | None = None,
        insecure_page_cookies: bool = False,
        events: str = "",
        publishers: PublisherListener | None = None,
        terms: Terms | None = None,
    ) -> Bound:
        """Listens at HOST:PORT (port 0: any free one). Raises Misuse and StoreFailed.

        `publishers` says who may publish. Without them anybody may, and only loopback is admitted,
        unless the insecure setting says so.
        `transmitters` may push security events; without any there is no endpoint for them. `fleet`
        is where sidecars come that have to show whose they are. `insecure_page_cookies`: customers'
        pages are on plain HTTP, which is for development. `events` is where those of customers'
        journeys go. `terms` says what publishing takes.
        """
        publishers = publishers or PublisherListener()
        check(listen, publishers, insecure_unauthenticated=insecure_unauthenticated)
        self._keeper = Doorkeeper(publishers.authority, self._clock)
        self._insecure = {
            "insecure_unauthenticated": publishers.authority is None and not is_loopback(listen),
            "insecure_page_cookies": insecure_page_cookies,
        }
        try:
            return await self._start(
                listen, http, store_url, transmitters or {}, fleet, insecure_page_cookies, events,
                publishers, terms or Terms(),
            )  # fmt: skip
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends every stream and waits for what is being published."""
        self._ready = False
        for api in self._apis:
            api.close()
        await self._open.aclose()

    async def _start(
        self,
        listen: str,
        http_listen: str | None,
        store_url: str,
        transmitters: Mapping[str, Transmitter],
        fleet: FleetListener | None,
        insecure_page_cookies: bool,
        events: str,
        publishers: PublisherListener,
        terms: Terms,
    ) -> Bound:
        store = await Store.open(store_url, clock=self._clock)
        self._open.push_async_callback(store.close)
        store.signs = not terms.delegated_only
        self._catalogue.endorsements = store.endorsements
        everyone = Everyone(self._catalogue, self._fleet, self._roster(store))
        publisher = Publisher(
            store, self._catalogue, self._validate, self._fleet.announce,
            sidecars=everyone.ids, approvals=terms.approvals,
        )  # fmt: skip
        await publisher.refresh()
        self._keeping = Keeping(store, publisher, terms.trust_changed)
        self._keeping.hand_out()
        self._log.id = sha256(store.public_keys[0]).hexdigest()[:16]
        withdrawer = Withdrawer(store, self._log, self._fleet.announce_withdrawals, self._clock)
        await withdrawer.load()
        self._subjects = Subjects(
            store.engine,
            self._catalogue,
            self._clock,
            sink=events,
            source=f"urn:sidecar:control-plane:{self._log.id}",
        )
        await self._subjects.start()
        self._open.push_async_callback(self._subjects.stop)
        conductor = self._conductor = Conductor(
            store, self._catalogue, self._fleet, everyone, publisher, self._fleet.announce
        )
        await conductor.history.load()
        watching = Watching(self._catalogue, self._log, self._fleet, everyone, self._clock)
        admin = Admin(
            Desk(
                store, publisher, conductor, withdrawer, self._keeping, self._catalogue, watching,
                self._counts,
            )
        )  # fmt: skip
        self._open.push_async_callback(admin.settle)
        grpc_bound, mtls_bound = await self._serve_grpc(listen, admin, publishers, store.note)
        fleet_bound = await self._serve_fleet(fleet) if fleet is not None else ""
        if not store.path:
            self._follow_others(store_url, publisher, withdrawer, self._subjects, self._keeping)
        self._again("rollouts", conductor.look, LOOK)
        receiver = await self._receiver(transmitters, withdrawer) if transmitters else None
        pages = await self._subjects.pages(insecure_cookies=insecure_page_cookies)
        http_bound = (
            await self._serve_http(http_listen, receiver, pages, admin) if http_listen else ""
        )
        api_bound = await self._serve_api(admin, *publishers.api) if publishers.api else ""
        self._ready = True
        return Bound(grpc_bound, http_bound, fleet_bound, mtls_bound, api_bound)

    def _roster(self, store: Store) -> Roster | None:
        """Of sidecars at all replicas, where there may be several."""
        if store.path is not None:
            return None
        roster = Roster(store, self._fleet)
        self._open.push_async_callback(roster.leave)
        self._again("what other replicas hear of sidecars", roster.write, WRITE)
        return roster

    def _again(self, what: str, work: Callable[[], Awaitable[None]], pause: float) -> None:
        repeating = Repeating(what, work, pause)
        repeating.start()
        self._open.push_async_callback(repeating.stop)

    def _meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs until the control plane stops."""
        task = asyncio.create_task(work)

        async def ended() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._open.push_async_callback(ended)

    def _follow_others(
        self,
        store_url: str,
        publisher: Publisher,
        withdrawer: Withdrawer,
        subjects: Subjects,
        keeping: Keeping,
    ) -> None:
        """What other replicas publish and withdraw reaches the sidecars of this one, too."""
        from sidecar.control.announcements import SUBJECTS, Announcements

        async def changed(about: frozenset[str]) -> None:
            if "" in about:
                await withdrawer.take_over()
                await publisher.take_over()
                keeping.hand_out()
            if SUBJECTS in about:
                await subjects.take_over()

        url, _ = database.address(store_url)
        self._meanwhile(Announcements(url, changed).run())

    async def _serve_grpc(
        self, listen: str, admin: Admin, publishers: PublisherListener, noted: Noted
    ) -> tuple[str, str]:
        """Where it listens, and where with certificates of clients."""
        authority, tls = publishers.authority, publishers.certificates
        # Sidecars show nothing here: beyond loopback they have the fleet's listener for it.
        places = [listen, *(publishers.mtls or ())[:1]]
        discovery = authority is None or all(is_loopback(str(place)) for place in places)
        if not discovery:
            where = " and ".join(map(str, places))
            _log.info("no sidecars are served at %s: they come to --fleet-listen", where)
        options: tuple[tuple[str, int], ...] = _OPTIONS
        if authority is not None:
            await authority.start()
            self._open.push_async_callback(authority.close)
            # A certificate is looked at when a connection begins.
            options = (*_OPTIONS, ("grpc.max_connection_age_ms", int(MAX_AGE * 1000)),
                       ("grpc.max_connection_age_grace_ms", 60_000))  # fmt: skip
        guard = Guard(self._keeper, discovery=discovery, clock=self._clock)
        server = aio.server(options=options, interceptors=[guard])
        services = [name for name in _SERVICES if discovery or not name.endswith("Discovery")]
        if discovery:
            add_DiscoveryServicer_to_server(self._discovery(None), server)
        add_AdminServicer_to_server(admin, server)
        if self._subjects is not None:
            add_SubjectsServicer_to_server(self._subjects.admin(noted), server)
        healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]  # unknown to grpc-stubs
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        for service in ("", *services):
            await healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection(
            (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        credentials = tls.credentials() if tls is not None else None
        self._publisher_certificate_ends = tls.ends if tls is not None else None
        bound, mtls_bound = listen_at(server, "--listen", listen, credentials), ""
        if publishers.mtls is not None:
            where, certificates = publishers.mtls
            shown = certificates.credentials()
            mtls_bound = listen_at(server, "--publisher-mtls-listen", where, shown)
        await server.start()
        self._open.push_async_callback(self._stop_grpc, server, healthy)
        return bound, mtls_bound

    async def _serve_fleet(self, fleet: FleetListener) -> str:
        """Discovery and nothing else, for whoever shows whose sidecar it is: anew with each
        connection, so that nobody is served for long whose pod or certificate is gone."""
        age = ("grpc.max_connection_age_ms", int(MAX_AGE * 1000))
        # A stream would go on for ever within a grace without an end.
        server = aio.server(
            options=(*_OPTIONS, age, ("grpc.max_connection_age_grace_ms", 1000)),
            maximum_concurrent_rpcs=self._fleet.most + strangers.MOST,
        )
        self._open.push_async_callback(fleet.identities.close)
        self._counts.certificate_ends = fleet.certificates.ends
        add_DiscoveryServicer_to_server(self._discovery(fleet.identities), server)
        bound = listen_at(server, "--fleet-listen", fleet.listen, fleet.certificates.credentials())
        await server.start()
        self._open.push_async_callback(self._stop_grpc, server, None)
        return bound

    def _discovery(self, identities: Identities | None) -> Discovery:
        return Discovery(
            self._catalogue,
            self._log,
            self._fleet,
            self._counts,
            self._clock,
            identities,
            self._subjects.hub if self._subjects is not None else None,
            self._conductor.reported if self._conductor is not None else None,
        )

    async def _stop_grpc(self, server: Any, healthy: Any) -> None:
        if healthy is not None:
            await healthy.enter_graceful_shutdown()
        stopping = asyncio.create_task(server.stop(GRACE))
        for session in self._fleet:
            session.end("the control plane is stopping")
        await stopping

    async def _receiver(
        self, transmitters: Mapping[str, Transmitter], withdrawer: Withdrawer
    ) -> Receiver:
        keys = KeyStore(self._clock)
        keys.use(each.issuer for each in transmitters.values())
        await keys.start()
        self._open.push_async_callback(keys.close)
        signalled = self._subjects.signalled if self._subjects is not None else None
        return Receiver(transmitters, withdrawer, keys, self._counts.events, self._clock, signalled)

    async def _serve_http(
        self, listen: str, receiver: Receiver | None, pages: list[web.RouteDef], admin: Admin
    ) -> str:
        registry = metrics.registry(self._counts, self._fleet, self._catalogue, self._log)
        registry.register(
            DoorMetrics(self._keeper, self._insecure, self._publisher_certificate_ends)
        )
        if self._conductor is not None:
            registry.register(RolloutMetrics(self._conductor, self._catalogue))
        if self._subjects is not None:
            registry.register(subject_metrics(self._subjects))
        pages = [*pages, *(self._api(admin, loopback=True) if is_loopback(listen) else ())]
        handle = receiver.handle if receiver is not None else None
        app = http.application(registry, lambda: self._ready, handle, pages)
        return await http.serve(self._open, app, "--http", listen)

    async def _serve_api(self, admin: Admin, where: str, shown: ServerCertificates | None) -> str:
        app = web.Application()
        app.add_routes(self._api(admin, loopback=is_loopback(where)))
        tls = context_of(shown) if shown is not None else None
        return await http.serve(self._open, app, "--api", where, tls, MAX_API)

    def _api(self, admin: Admin, *, loopback: bool) -> list[web.RouteDef]:
        api = Api(admin, self._keeper, loopback=loopback, clock=self._clock)
        self._apis.append(api)
        return api.routes()
