"""Health, metrics and inspection, on ports of their own: never on the traffic port.

`health_app` is what a kubelet and Prometheus see; `admin_app` adds what only operators should.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

Page = Callable[[], Awaitable[bytes]]
"""What Prometheus is to see."""
State = Callable[[], Mapping[str, Any]]
Decisions = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]
Ready = Callable[[], str]
"""Why the sidecar is not ready; empty when it is."""

_JSON: Final = "application/json"


def health_app(page: Page, ready: Ready) -> web.Application:
    """`/healthz` answers while the process does, `/readyz` once there is a snapshot."""
    app = web.Application()
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz(ready))
    app.router.add_get("/metrics", _metrics(page))
    return app


def admin_app(
    page: Page,
    ready: Ready,
    snapshot: State,
    config: State,
    decisions: Decisions,
) -> web.Application:
    """The same, and `/snapshot`, `/config`, `/decisions` (the most recent, oldest first)."""
    app = health_app(page, ready)
    app.router.add_get("/snapshot", _state(snapshot))
    app.router.add_get("/config", _state(config))
    app.router.add_get("/decisions", _decisions(decisions))
    return app


async def serve(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Start serving; OSError where the address cannot be had. `runner.addresses` says where."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


async def _healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _readyz(ready: Ready) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.Response:
        why_not = ready()
        if why_not:
            return web.Response(status=503, text=f"not ready: {why_not}\n")
        return web.Response(text="ready\n")

    return handler


def _metrics(page: Page) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await page(), headers={"content-type": CONTENT_TYPE_LATEST})

    return handler


def _state(state: State) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.Response:
        return _json(state())

    return handler


def _decisions(decisions: Decisions) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.Response:
        return _json({"decisions": await decisions()})

    return handler


def _json(content: Mapping[str, Any]) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, content_type=_JSON)
