"""The pages over loopback, and a browser as far as headers and cookies go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, DummyCookieJar
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from sidecar.control.pages.site import application
from tests.control.pages.markup import Page, read
from tests.control.pages.records import T0, Records, records

SECRET = bytes(range(32))
FROM_HERE = {"sec-fetch-site": "same-origin"}


@dataclass
class Answer:
    """A response, read."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def page(self) -> Page:
        assert self.headers["content-type"] == "text/html; charset=utf-8"
        return read(self.text)


class Browser:
    """Keeps cookies, follows nothing. `now` is the server's clock."""

    def __init__(self, kept: Records, server: TestServer, client: ClientSession) -> None:
        self.records = kept
        self.server = server
        self._client = client
        self.cookies: dict[str, str] = {}
        self.now = T0

    @property
    def authority(self) -> str:
        return f"{self.server.host}:{self.server.port}"

    async def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any
    ) -> Answer:
        cookie = {"cookie": "; ".join(f"{n}={v}" for n, v in self.cookies.items())}
        async with self._client.request(
            method, f"http://{self.authority}{path}",
            headers={**(cookie if self.cookies else {}), **(headers or {})},
            allow_redirects=False, **more,
        ) as response:  # fmt: skip
            for name, morsel in response.cookies.items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]
            return Answer(response.status, CIMultiDict(response.headers), await response.read())

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return await self.send("GET", path, headers)

    async def post(
        self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None
    ) -> Answer:
        return await self.send("POST", path, FROM_HERE if headers is None else headers, data=fields)

    async def opened(self, path: str) -> dict[str, str]:
        """The fields of the page's first form."""
        answer = await self.get(path)
        assert answer.status == 200
        return answer.page.fields()

    async def entered(self) -> dict[str, str]:
        """On the privacy page: what each of its forms sends."""
        assert (await self.get("/privacy?ticket=mine")).status == 303
        found = await self.opened("/privacy")
        return {"token": found["token"], "lang": ""}


@asynccontextmanager
async def browsing(kept: Records | None = None, *, insecure: bool = True) -> AsyncIterator[Browser]:
    kept = records() if kept is None else kept
    holder: list[Browser] = []
    app = application(kept, SECRET, lambda: holder[0].now, insecure_cookies=insecure)
    server = TestServer(app)
    async with server, ClientSession(cookie_jar=DummyCookieJar()) as client:
        holder.append(Browser(kept, server, client))
        yield holder[0]
