"""One HTTP client for all that is fetched: no redirects, no proxies, bounded in time and size.

The library is imported when something is fetched first: 15 MiB that many sidecars never need.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from sidecar.errors import FetchFailed

if TYPE_CHECKING:
    import aiohttp

TIMEOUT: Final = 5.0  # seconds for one exchange, connecting included
MAX_BODY: Final = 1024 * 1024  # bytes of an answer


class HttpClient:
    """`get` and `post`, then `close`. What goes wrong is a FetchFailed that names the address."""

    def __init__(self, *, timeout: float = TIMEOUT, max_body: int = MAX_BODY) -> None:
        self._timeout = timeout
        self._max_body = max_body
        self._session: aiohttp.ClientSession | None = None

    async def get(self, address: str) -> bytes:
        """The body of a 200."""
        return await self._exchange("GET", address, {}, None, None)

    async def post(
        self,
        address: str,
        form: Mapping[str, str],
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
    ) -> bytes:
        """The same, of a form that was sent."""
        return await self._exchange("POST", address, headers, form, tls)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(
        self,
        method: str,
        address: str,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None,
        tls: ssl.SSLContext | None,
    ) -> bytes:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout), trust_env=False,
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
            )  # fmt: skip
        try:
            async with self._session.request(
                method, address, allow_redirects=False, data=form, ssl=tls if tls else True,
                headers={"accept": "application/json", "accept-encoding": "identity", **headers},
            ) as response:  # fmt: skip
                if response.status != 200:
                    raise FetchFailed(f"{address}: answered {response.status}", response.status)
                body = await response.content.read(self._max_body + 1)
                while len(body) <= self._max_body and (more := await response.content.read(65536)):
                    body += more
        except TimeoutError:
            raise FetchFailed(f"{address}: no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            raise FetchFailed(f"{address}: {error}") from None
        if len(body) > self._max_body:
            raise FetchFailed(f"{address}: more than {self._max_body} bytes", 200)
        return body
