"""An application as it is in a pod: several ports at every address, and no idea of a sidecar.

`python -m tests.e2e.upstreams.pod PORT...` answers a GET with what it saw of it, as JSON, and
echoes WebSocket messages.
"""

from __future__ import annotations

import asyncio
import json
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response


def seen(connection: ServerConnection, request: Request) -> Response | None:
    """None: go on with the handshake."""
    if request.headers.get("upgrade", "").lower() == "websocket":
        return None
    peer, own = (
        connection.transport.get_extra_info(which)[:2] for which in ("peername", "sockname")
    )
    headers = {name.lower(): value for name, value in request.headers.raw_items()}
    found = {"path": request.path, "peer": peer[0], "own": own, "headers": headers}
    return connection.respond(200, json.dumps(found))


async def echo(connection: ServerConnection) -> None:
    own = connection.transport.get_extra_info("sockname")[1]
    async for message in connection:
        await connection.send(f"{own}: {message!s}")


async def main(ports: list[int]) -> None:
    servers = [
        await serve(echo, None, port, process_request=seen, ping_interval=None)  # everywhere
        for port in ports
    ]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main([int(each) for each in sys.argv[1:]]))
