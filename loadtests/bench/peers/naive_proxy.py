"""A proxy as one writes it in an afternoon: `naive_proxy.py PORT UPSTREAM_PORT JWK_FILE`.

aiohttp's server, one shared aiohttp client session, PyJWT with its results in a dict. It has no
limits, no metrics and no log, and forwards whatever the two libraries make of a request.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import uvloop
from aiohttp import web

ISSUER: Final = "https://idp.example"
AUDIENCE: Final = "accounts"
SCOPE: Final = "accounts:read"
HOP_BY_HOP: Final = frozenset(
    ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"]
)


class Proxy:
    def __init__(self, upstream: str, key: Any) -> None:
        self._upstream = upstream
        self._key = key
        self._verified: dict[str, dict[str, Any]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def session(self, _: web.Application) -> Any:
        connector = aiohttp.TCPConnector(limit=512)
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as self._session:
            yield

    def status(self, authorization: str) -> int:
        """200, 401 or 403."""
        token = authorization.removeprefix("Bearer ")
        claims = self._verified.get(token)
        if claims is None:
            try:
                claims = jwt.decode(
                    token, self._key, ["RS256"], issuer=ISSUER, audience=AUDIENCE, leeway=30
                )
            except jwt.InvalidTokenError:
                return 401
            self._verified[token] = claims
        if claims["exp"] + 30 < time.time():
            return 401
        return 200 if SCOPE in claims["scope"].split() else 403

    async def forward(self, request: web.Request) -> web.StreamResponse:
        status = self.status(request.headers.get("authorization", ""))
        if status != 200:
            return web.Response(status=status)
        assert self._session is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers,
            data=request.content if request.can_read_body else None, allow_redirects=False,
        ) as answer:  # fmt: skip
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def main() -> None:
    port, upstream, file = sys.argv[1:]
    key = jwt.PyJWK.from_json(Path(file).read_text()).key
    proxy = Proxy(f"http://127.0.0.1:{upstream}", key)
    app = web.Application(client_max_size=0)
    app.cleanup_ctx.append(proxy.session)
    app.router.add_route("*", "/{path:.*}", proxy.forward)
    uvloop.install()
    web.run_app(
        app, host="127.0.0.1", port=int(port), backlog=1024, access_log=None, print=lambda _: None,
        keepalive_timeout=600,
    )  # fmt: skip


if __name__ == "__main__":
    main()
