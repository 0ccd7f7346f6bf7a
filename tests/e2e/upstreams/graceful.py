"""An application that ends well: `python -m tests.e2e.upstreams.graceful PORT`.

It answers GET / with the headers it saw, /ready with 200, and /slow once it was told to end: what is
in flight then is finished, and nothing new is accepted.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from aiohttp import web


async def main(port: int) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def seen(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        print(f"request {request.path}", flush=True)
        return web.Response(text=json.dumps({"path": request.path, "headers": headers}))

    async def slow(_request: web.Request) -> web.Response:
        print("slow begun", flush=True)
        await told.wait()
        return web.Response(text="finished")

    application = web.Application()
    application.router.add_get("/slow", slow)
    application.router.add_get("/{path:.*}", seen)
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=20)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()  # everywhere
    print("listening", flush=True)
    await told.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
