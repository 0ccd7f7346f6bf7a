"""The same as `node.mjs`, by aiohttp: `python aiohttp_server.py PORT CONTROL`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiohttp import web

seen: list[dict[str, Any]] = []


async def handle(request: web.Request) -> web.StreamResponse:
    body = (await request.read()).decode("latin-1")
    seen.append(
        {
            "line": f"{request.method} {request.raw_path} {request.headers.get('host')} {body}",
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "trailers": {},
        }
    )
    return web.Response(text="ok")


async def control(request: web.Request) -> web.Response:
    told = web.json_response(seen)
    seen.clear()
    return told


async def main(port: int, control_port: int) -> None:
    for handler, where in ((handle, port), (control, control_port)):
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", where).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
