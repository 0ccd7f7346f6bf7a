"""The side of a process that meets traffic: proxy, authorizer, TLS, decision log, their numbers.

The one process has it, and so does each worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.config import RunSettings, variable
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.documents import Document
from sidecar.decide.pace import let_go
from sidecar.decide.snapshot import Snapshot
from sidecar.edge.address import Address, tls_connect
from sidecar.edge.assertions import Asserter
from sidecar.edge.authorizer import Authorizer
from sidecar.edge.callers import Callers
from sidecar.edge.destinations import Destinations
from sidecar.edge.evidence import Keys
from sidecar.edge.families import (
    insecure_families,
    proxy_families,
    remembered_family,
    tls_families,
)
from sidecar.edge.fields import CERTIFICATE_HEADERS
from sidecar.edge.forwarded import TrustedProxies, network
from sidecar.edge.handshakes import Handshakes
from sidecar.edge.limits import ProxyStats
from sidecar.edge.original import ORIGINAL_DESTINATION
from sidecar.edge.proxy import Proxy
from sidecar.edge.rates import RateTable
from sidecar.edge.replays import ReplayTable
from sidecar.edge.rotation import Rotation
from sidecar.edge.sweeper import Sweeper
from sidecar.edge.upstream import UpstreamPool
from sidecar.errors import Misuse
from sidecar.facts.beside import beside
from sidecar.facts.customers import Customers
from sidecar.facts.enrich import Enrichments
from sidecar.facts.introspection import Introspections
from sidecar.facts.secrets import Secrets
from sidecar.facts.subjects import SubjectsFile
from sidecar.plane import traffic_tls
from sidecar.plane.descriptors import raise_limit
from sidecar.plane.fact_families import (
    customer_families,
    enrichment_families,
    subject_families,
)
from sidecar.plane.garbage import Garbage
from sidecar.plane.shared import nonce_key
from sidecar.plane.tasks import Tasks
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics, counter, gauge

_log: Final = logging.getLogger("sidecar")


class Serving:
    """`load_files`, `adopt` and `listen`, then `stop`."""

    def __init__(
        self,
        settings: RunSettings,
        keys: Keys,
        log: DecisionLog,
        rates: RateTable | None = None,
        replays: ReplayTable | None = None,
        secret: bytes = b"",
        nonces: bytes = b"",
        customers: Customers | None = None,
    ) -> None:
        """`rates`, `replays`, `secret` and `nonces` (the key of those) are what several processes
        have in common. `customers` is who is asked about subjects, but for a file of them.

        Raises Misuse.
        """
        self.settings = settings
        raise_limit(settings.limits)
        self.metrics = Metrics()
        self.log = log
        secrets = Secrets(settings.secrets, variable)
        self.introspections = Introspections(secrets)
        self.enrichments = Enrichments(secrets)
        self.subjects = SubjectsFile(settings.subjects) if settings.subjects is not None else None
        self.customers = customers if self.subjects is None else None
        self.authorizer = Authorizer(
            keys,
            self.metrics,
            log,
            rates=rates,
            replays=replays,
            nonce_key=nonces or nonce_key(settings, secret),
            asserter=Asserter(secret),
            introspections=self.introspections,
            enrichments=self.enrichments,
            subjects=self.subjects,
            customers=self.customers,
        )
        if self.customers is not None:
            self.customers.changed = self.authorizer.subjects_changed
            self.customers.lost_or_found = self.authorizer.forget
        if self.subjects is not None:
            self.subjects.changed = self.authorizer.forget
        client, upstream = traffic_tls.client_side(settings), traffic_tls.upstream_side(settings)
        self.tls = [rotation for rotation in (client, upstream) if rotation is not None]
        self._callers: Callers | None = None
        if client is not None:
            self._callers = Callers(lambda: client.bundles)
            client.changed = self._vouched_anew
        self.proxy = Proxy(
            self.authorizer,
            _upstreams(settings, upstream),
            handshakes=Handshakes(lambda: client.context) if client is not None else None,
            callers=self._callers,
            told=CERTIFICATE_HEADERS.get(settings.client_cert_header, 0),
            trusted=TrustedProxies(network(each) for each in settings.trusted_proxies),
            strip=self.authorizer.rule_headers,
            read=self.authorizer.headers_read,
            remove=self.authorizer.credentials,
        )
        stats = self.proxy.stats
        self.proxy.sweeper.watch(Garbage(lambda: stats.in_flight > 0).sweep)
        self.metrics.register(self._families)
        self._tasks = Tasks()

    async def load_files(self) -> None:
        """Read what the settings name, certificates and subjects, and follow it. Raises Misuse with
        every mistake."""
        await traffic_tls.load(self.tls)
        if self.subjects is not None:
            await self.subjects.load()
            self._tasks.spawn(self.subjects.run())
        for rotation in self.tls:
            self._tasks.spawn(rotation.run())

    async def adopt(self, documents: Sequence[Document], version: str = "") -> Snapshot:
        """Compile off the loop, then swap one reference. Raises DocumentsInvalid."""
        snapshot = await beside.run(
            compile_snapshot,
            documents,
            namespace=self.settings.namespace,
            labels=self.settings.labels,
            version=version,
            hurry=self.authorizer.snapshot is None,
        )
        before = self.authorizer.snapshot
        parts = await beside.run(before.routes.parts) if before is not None else []
        self.authorizer.adopt(snapshot)
        if before is not None:
            parts.append(before)
            del before
            await beside.run(let_go, parts)
        return snapshot

    async def listen(
        self, host: str, port: int, *, reuse_port: bool = False
    ) -> list[tuple[str, int]]:
        """Begin to serve. Raises Misuse."""
        try:
            return await self.proxy.listen(host, port, reuse_port=reuse_port)
        except Misuse as error:
            raise Misuse(f"--listen: {error}") from None

    async def reload(self) -> None:
        """SIGHUP: read the TLS files and the subjects again, go on in a new log file."""
        self.log.reopen()
        if self.subjects is not None:
            await self.subjects.reload()
        for rotation in self.tls:
            await rotation.check(settled=True)

    async def drain(self) -> None:
        """Finish what is in flight within the limit, then close every connection."""
        if not await self.proxy.drain(self.settings.drain):
            _log.warning("requests still in flight after %g s were cut", self.settings.drain)
        await self.proxy.close()

    async def close(self) -> None:
        """After `drain`: end what runs beside the traffic, write the last records."""
        await self._tasks.cancel()
        await self.introspections.close()
        await self.enrichments.close()
        await asyncio.to_thread(self.log.close)

    def _vouched_anew(self) -> None:
        """The TLS files of the traffic have changed, and perhaps who vouches for whom."""
        if self._callers is not None and self._callers.renew():
            self.authorizer.forget()

    def _families(self) -> Iterable[Metric]:
        log, tokens = self.log, self.authorizer.evidence.tokens
        yield counter("sidecar_decision_log_written", "Decision records written.", log.written)
        yield counter("sidecar_decision_log_dropped", "Decision records lost.", log.dropped)
        yield gauge("sidecar_token_cache_entries", "Verified tokens remembered.", len(tokens))
        yield counter("sidecar_token_cache_hits", "Tokens found verified.", tokens.hits)
        yield counter("sidecar_token_cache_misses", "Tokens not found verified.", tokens.misses)
        yield counter("sidecar_token_cache_evictions", "Dropped at the bound.", tokens.evictions)
        yield from _decision_cache(self.authorizer.evidence.decisions)
        yield from _introspections(self.introspections)
        yield from enrichment_families(self.enrichments)
        if self.subjects is not None:
            yield from subject_families(self.subjects)
        if self.customers is not None:
            yield from customer_families(self.customers)
        yield _proofs(self.authorizer.replays)
        yield from proxy_families(self.proxy.stats)
        yield counter(
            "sidecar_withdrawn", "Ended midway: their credential was withdrawn.",
            self.proxy.withdrawals.ended,
        )  # fmt: skip
        yield remembered_family()
        yield from tls_families(self.proxy.handshakes, self.tls)
        yield insecure_families(
            insecure_upstream_skip_verify=self.settings.insecure_upstream_skip_verify
        )


def _introspections(introspections: Introspections) -> Iterable[Metric]:
    outcomes = CounterMetricFamily(
        "sidecar_introspections", "Questions about opaque tokens.", labels=["result"]
    )
    for result, count in sorted(introspections.outcomes.items()):
        outcomes.add_metric([result], count)
    yield outcomes
    answers = introspections.answers
    yield gauge("sidecar_introspection_cache_entries", "Answers remembered.", len(answers))
    yield counter("sidecar_introspection_cache_hits", "Answers found.", answers.hits)
    yield counter("sidecar_introspection_cache_evictions", "At the bound.", answers.evictions)
    breakers = GaugeMetricFamily(
        "sidecar_introspection_breaker_open", "1: left alone for a while.", labels=["issuer"]
    )
    for issuer, state in introspections.status().items():
        breakers.add_metric([issuer], float(state["open"]))
    yield breakers


def _proofs(replays: ReplayTable) -> Metric:
    family = CounterMetricFamily(
        "sidecar_proofs", "DPoP proofs that stood, by what became of them.", labels=["use"]
    )
    for use, count in replays.counts.items():
        family.add_metric([use.value], count)
    return family


def _decision_cache(decisions: ExpiringCache[Any, Any]) -> Iterable[Metric]:
    yield gauge("sidecar_decision_cache_entries", "Permits remembered.", len(decisions))
    yield counter("sidecar_decision_cache_hits", "Permits found.", decisions.hits)
    yield counter("sidecar_decision_cache_misses", "Permits not found.", decisions.misses)
    yield counter("sidecar_decision_cache_evictions", "Dropped at the bound.", decisions.evictions)


def _upstreams(settings: RunSettings, tls: Rotation | None) -> UpstreamPool | Destinations:
    limits = settings.limits
    if settings.upstream == ORIGINAL_DESTINATION:
        own_ports = frozenset((settings.health.port, settings.admin.port))
        return Destinations(limits, Sweeper(), ProxyStats(), own_ports=own_ports)
    address = Address.parse(settings.upstream)
    if tls is None:
        return UpstreamPool(address, limits, Sweeper(), ProxyStats())
    connect = tls_connect(address, lambda: tls.context, settings.upstream_server_name)
    pool = UpstreamPool(address, limits, Sweeper(), ProxyStats(), connect)
    tls.changed = pool.renew
    return pool
