"""One HTTP client for all that is fetched: no redirects, no proxies, bounded in time and size.

The library is imported when something is fetched first: 15 MiB that many sidecars never need.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import FetchFailed

if TYPE_CHECKING:
    import aiohttp

TIMEOUT: Final = 5.0  # seconds for one exchange, connecting included
MAX_BODY: Final = 1024 * 1024  # bytes of an answer
AT_ONCE: Final = 100  # connections


@dataclass(frozen=True, slots=True)
class Received:
    """A 200. Names of headers are in lower case; what is there twice is joined by commas."""

    body: bytes
    headers: Mapping[str, str]


class HttpClient:
    """`get`, `post` and `look_up`, then `close`. What goes wrong is a FetchFailed that names the
    address."""

    def __init__(
        self, *, timeout: float = TIMEOUT, max_body: int = MAX_BODY, at_once: int = AT_ONCE
    ) -> None:
        self._timeout = timeout
        self._max_body = max_body
        self._at_once = at_once
        self._session: aiohttp.ClientSession | None = None

    async def get(self, address: str) -> bytes:
        """The body of a 200."""
        return (await self._exchange("GET", address, address)).body

    async def post(
        self,
        address: str,
        form: Mapping[str, str],
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
    ) -> bytes:
        """The same, of a form that was sent."""
        found = await self._exchange("POST", address, address, headers=headers, data=form, tls=tls)
        return found.body

    async def look_up(
        self,
        method: str,
        origin: str,
        target: str,
        *,
        named: str,
        headers: Mapping[str, str],
        content: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        max_body: int = MAX_BODY,
    ) -> Received:
        """A 200 to a request for `target`, path and query, which goes out byte for byte as it is.

        It may hold what is nobody's business, so failures call it `named`.
        """
        from yarl import URL

        try:
            address = URL(str(URL(origin).origin()) + target, encoded=True)
        except ValueError:
            raise FetchFailed(f"{named}: no address that can be asked") from None
        return await self._exchange(
            method, address, named, headers=headers, data=content, tls=tls, max_body=max_body
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(
        self,
        method: str,
        address: Any,
        named: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Mapping[str, str] | bytes | None = None,
        tls: ssl.SSLContext | None = None,
        max_body: int = 0,
    ) -> Received:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._at_once),
                timeout=aiohttp.ClientTimeout(total=self._timeout), trust_env=False,
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
            )  # fmt: skip
        most = max_body or self._max_body
        body = bytearray()
        try:
            async with self._session.request(
                method, address, allow_redirects=False, data=data, ssl=tls if tls else True,
                headers={"accept": "application/json", "accept-encoding": "identity",
                         **(headers or {})},
            ) as response:  # fmt: skip
                if response.status != 200:
                    raise FetchFailed(f"{named}: answered {response.status}", response.status)
                while len(body) <= most and (more := await response.content.read(65536)):
                    body += more
        except TimeoutError:
            raise FetchFailed(f"{named}: no answer within {self._timeout:g} s") from None
        except aiohttp.ClientResponseError:  # it names the whole address, and may quote the answer
            raise FetchFailed(f"{named}: no sound HTTP answer") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            raise FetchFailed(f"{named}: {error}") from None
        if len(body) > most:
            raise FetchFailed(f"{named}: more than {most} bytes", 200)
        found: dict[str, str] = {}
        for name, value in response.headers.items():
            known = found.get(name.lower())
            found[name.lower()] = value if known is None else f"{known}, {value}"
        return Received(bytes(body), found)
