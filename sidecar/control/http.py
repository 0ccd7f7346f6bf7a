"""The control plane's HTTP side: alive, ready, metrics; where security events are pushed to; and
the pages that customers see, and the API, which guard themselves.

Of its own it shows no secret, and changes nothing but for a signed event of a transmitter that is
allow-listed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from math import inf
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sidecar.control.ports import taken
from sidecar.errors import Misuse

BACKLOG: Final = 128
HANDSHAKE: Final = 10.0  # seconds
IDLE: Final = 30.0  # seconds that a connection may be without a request, where they are bounded
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


def runner(app: web.Application, **settings: Any) -> web.AppRunner:
    """What serves it. No addresses in logs: a ticket stands in some."""
    log = logging.getLogger(f"{__name__}.protocol")
    log.addFilter(_of_ours)
    return web.AppRunner(app, access_log=None, handle_signals=False, logger=log, **settings)


async def serve(
    open_: AsyncExitStack,
    app: web.Application,
    flag: str,
    listen: str,
    tls: ssl.SSLContext | None = None,
    most: float = inf,
) -> str:
    """Listens until `open_` is closed, with at most so many connections; HOST:PORT. Raises Misuse,
    which names the flag."""
    made = runner(app) if most == inf else runner(app, keepalive_timeout=IDLE)
    await made.setup()
    open_.push_async_callback(made.cleanup)
    server = made.server
    if server is None:
        raise AssertionError("it was set up")

    def connection() -> asyncio.Protocol:
        return server() if len(server.connections) < most else _Full()

    host, _, port = listen.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        listening = await loop.create_server(
            connection, host.strip("[]"), int(port), ssl=tls, backlog=BACKLOG,
            ssl_handshake_timeout=HANDSHAKE if tls is not None else None,
        )  # fmt: skip
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise Misuse(f"{flag} {listen}: {error.strerror}") from None
        raise taken(listen, flag) from None
    open_.callback(listening.close)
    return f"{host}:{listening.sockets[0].getsockname()[1]}"


class _Full(asyncio.Protocol):
    """Instead of one more connection than there may be."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _of_ours(record: logging.LogRecord) -> bool:
    """Not what is no HTTP: it was answered with 400, anybody can send it, and aiohttp's message
    has the beginning of it."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)
