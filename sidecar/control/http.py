"""The control plane's HTTP side: alive, ready, metrics; where security events are pushed to; and
the pages that customers see, which guard themselves.

Shows no secret, and changes nothing but for a signed event of a transmitter that is allow-listed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    events: Handler | None = None,
    pages: Iterable[web.AbstractRouteDef] = (),
) -> web.Application:
    """`/healthz`, `/readyz`, `/metrics`; `POST /ssf/events` with `events`; customers' `pages`."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not serving\n")

    async def metrics(_request: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"content-type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
        ]
    )
    if events is not None:
        app.router.add_post("/ssf/events", events)
    app.add_routes(pages)
    return app


def runner(app: web.Application) -> web.AppRunner:
    """What serves it. No addresses in logs: a ticket stands in some."""
    log = logging.getLogger(f"{__name__}.protocol")
    log.addFilter(_of_ours)
    return web.AppRunner(app, access_log=None, handle_signals=False, logger=log)


def _of_ours(record: logging.LogRecord) -> bool:
    """Not what is no HTTP: it was answered with 400, anybody can send it, and aiohttp's message
    has the beginning of it."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)
