"""Real WebSocket echo servers: `python -m tests.autobahn.echo websockets|aiohttp PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from aiohttp import WSMsgType, web
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

MAX_MESSAGE: Final = 32 * 1024 * 1024


async def by_websockets(port: int) -> None:
    """Every message comes back as it was; the request's headers, asked for with `headers`."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            if message == "headers" and connection.request is not None:
                message = str(connection.request.headers)
            await connection.send(message)

    deflate = ServerPerMessageDeflateFactory(compress_settings={"level": 1})  # the suite takes long
    async with serve(
        echo, "127.0.0.1", port, max_size=MAX_MESSAGE, ping_interval=None, extensions=[deflate]
    ):
        await asyncio.get_running_loop().create_future()


async def by_aiohttp(port: int) -> None:
    """The same, by another implementation."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                said = str(dict(request.headers)) if message.data == "headers" else message.data
                await socket.send_str(said)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.get_running_loop().create_future()


SERVERS: Final = {"websockets": by_websockets, "aiohttp": by_aiohttp}

if __name__ == "__main__":
    asyncio.run(SERVERS[sys.argv[1]](int(sys.argv[2])))
