"""The webhook as a server: reviews by TLS, at a path that the API server alone knows (`path`);
health and metrics."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from sidecar.errors import ClusterUnreachable, Misuse
from sidecar.facts.kubernetes import KubernetesApi
from sidecar.inject.pod import Injection, inject
from sidecar.inject.review import BadReview, Request, answer, leave, read, refuse
from sidecar.inject.shown import Shown
from sidecar.inject.sources import Ready

MAX_REVIEW: Final = 4 * 1024 * 1024  # bytes; an object of Kubernetes has at most 1.5 MiB
MOST_HELD: Final = 2 * MAX_REVIEW  # of all under review; parsed it is many times that
BODY_WITHIN: Final = 5.0  # seconds
AT_ONCE: Final = 256  # reviews
NAMESPACES: Final = 10_000  # remembered
FRESH: Final = 10.0  # seconds that a namespace's labels count

_log: Final = logging.getLogger("sidecar.inject")


class Webhook:
    """Answers reviews. `ready` gives what they need, or says what is missing; `admits` says whether
    a path is the one that the API server was told."""

    def __init__(
        self,
        api: KubernetesApi,
        ready: Callable[[], Ready | str],
        admits: Callable[[str], bool],
        *,
        insecure_allow_uninjected: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """With the insecure setting a pod that cannot get its sidecar for reasons that are not its
        own is created without."""
        self.results: dict[str, int] = {}
        self._api = api
        self._ready = ready
        self._admits = admits
        self._allow = insecure_allow_uninjected
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._held = 0  # bytes, of all requests
        self._labels: dict[str, tuple[float, Mapping[str, str]]] = {}

    async def handle(self, http: web.Request) -> web.Response:
        """One AdmissionReview, for who knows the path; nothing is read of others. What is held of
        all of them is bounded, and what comes beyond it is answered with 503."""
        if not self._admits(http.rel_url.raw_path):
            self._count("stranger")
            return web.Response(status=404, text="there is nothing here\n")
        if http.method != "POST":
            raise web.HTTPMethodNotAllowed(http.method, ["POST"])
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_WITHIN):
                async for chunk in http.content.iter_any():
                    data += chunk
                    self._held += len(chunk)
                    if len(data) > MAX_REVIEW:
                        raise web.HTTPRequestEntityTooLarge(MAX_REVIEW, len(data))
                    if self._held > MOST_HELD:
                        self._count("crowded")
                        return web.Response(status=503, text="too much is under review\n")
            return await self._reviewed(bytes(data))
        except TimeoutError:
            self._count("bad_review")
            return web.Response(status=408, text="the review did not come in time\n")
        finally:
            self._held -= len(data)

    async def _reviewed(self, data: bytes) -> web.Response:
        try:
            request = read(data)
        except BadReview as error:
            self._count("bad_review")
            return web.Response(status=400, text=f"{error}\n")
        async with self._turns:
            found, result = await self._answer(request)
        self._count(result)
        if result != "injected":
            _log.info("%s: %s", result, _of(request, found))
        return web.json_response(found)

    async def _answer(self, request: Request) -> tuple[dict[str, Any], str]:
        try:
            ready = self._ready()
            if isinstance(ready, str):
                return self._unable(request, ready)
            labels = await self._namespace_labels(request.namespace)
        except ClusterUnreachable as error:
            return self._unable(request, str(error))
        try:
            return await asyncio.to_thread(
                answer, request, lambda: self._inject(request, labels, ready)
            )
        except Exception:  # noqa: BLE001 - no pod may start without its sidecar for a defect
            _log.exception("injecting into a pod of %s failed", request.namespace)
            return self._unable(request, "internal error; the webhook's log has it")

    def _inject(self, request: Request, labels: Mapping[str, str], ready: Ready) -> Injection:
        return inject(request.pod, request.namespace, labels, ready.terms, ready.key)

    def _unable(self, request: Request, why: str) -> tuple[dict[str, Any], str]:
        if self._allow:
            return leave(request.uid, f"the pod has no sidecar: {why}"), "unable_let_in"
        return refuse(request.uid, why), "unable"

    async def _namespace_labels(self, name: str) -> Mapping[str, str]:
        """Raises ClusterUnreachable."""
        known = self._labels.get(name)
        if known is not None and self._clock() < known[0]:
            return known[1]
        found = await self._api.get(f"/api/v1/namespaces/{name}")
        labels = (found.get("metadata") or {}).get("labels") or {}
        if len(self._labels) >= NAMESPACES:
            self._labels.clear()
        self._labels[name] = self._clock() + FRESH, labels
        return labels

    def _count(self, result: str) -> None:
        self.results[result] = self.results.get(result, 0) + 1


def _of(request: Request, found: Mapping[str, Any]) -> str:
    """A pod that got no sidecar, and why: whoever made its controller is not told. Nothing of it
    has been validated yet."""
    metadata, response = request.pod.get("metadata") or {}, found["response"]
    name = metadata.get("name") or metadata.get("generateName")
    why = response.get("warnings") or [response.get("status", {}).get("message", "")]
    return f"{request.namespace}/{name}: {' '.join(why)}".encode("unicode_escape").decode()


class _Metrics(Collector):
    def __init__(self, webhook: Webhook, shown: Shown) -> None:
        self._webhook = webhook
        self._shown = shown

    def collect(self) -> Iterator[Metric]:
        reviews = CounterMetricFamily(
            "sidecar_inject_reviews", "Pods reviewed, by what came of them.", labels=["result"]
        )
        for result, count in sorted(self._webhook.results.items()):
            reviews.add_metric([result], count)
        yield reviews
        yield GaugeMetricFamily(
            "sidecar_inject_certificate_expiry_timestamp_seconds",
            "When the certificate that the API server is shown ends; 0: there is none.",
            value=self._shown.ends,
        )


class Servers:
    """`start`, then `close`."""

    def __init__(self, webhook: Webhook, shown: Shown, ready: Callable[[], str]) -> None:
        """`ready` says what is missing; empty: nothing."""
        self._webhook = webhook
        self._shown = shown
        self._ready = ready
        self._open = AsyncExitStack()

    async def start(self, listen: tuple[str, int], http: tuple[str, int]) -> tuple[str, str]:
        """Where both listen now. Raises Misuse."""
        reviews = web.Application(client_max_size=MAX_REVIEW)
        reviews.router.add_route("*", "/{path:.*}", self._webhook.handle)
        pages = web.Application()
        pages.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        registry = CollectorRegistry()
        registry.register(_Metrics(self._webhook, self._shown))
        self._registry = registry
        return (
            await self._serve("--listen", reviews, listen, self._shown.context),
            await self._serve("--http", pages, http, None),
        )

    async def close(self) -> None:
        """Reviews under way are answered first."""
        await self._open.aclose()

    async def _serve(
        self, flag: str, app: web.Application, where: tuple[str, int], tls: ssl.SSLContext | None
    ) -> str:
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, *where, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise Misuse(f"{flag} {where[0]}:{where[1]}: {error.strerror}") from None
        host, port = runner.addresses[0][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        missing = self._ready()
        return web.Response(
            status=503 if missing else 200, text=f"{missing}\n" if missing else "ready\n"
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"content-type": CONTENT_TYPE_LATEST})
