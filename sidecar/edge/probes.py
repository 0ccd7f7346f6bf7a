"""Asks the service how it is, for a kubelet that cannot: without a credential it would be refused.

`GET /probe/NAME` at the health port is answered with what one probe of the service says, and with
nothing else of it: a status, and when it failed a word of ours why. As a kubelet does, a probe goes
to the address at which we were asked, unless it names a host; HTTPS is not verified, redirects are
not followed, and 200 to 399 is success. Whoever asks for a probe that is under way gets its answer:
however many ask, the service is asked once at a time.

The health port is open to whoever reaches the pod. A hook changes what the service does (`/stop`),
so it can have a `key`, and is then for nobody but the kubelet, whose request shows it.

The libraries are imported where there are such probes, before anybody asks: that takes long, and
many sidecars never need them.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from sidecar.decide.challenge import Answer
from sidecar.decide.request import Headers
from sidecar.errors import FetchFailed

AT_ONCE: Final = 32  # probes under way, of all names and addresses
AGENT: Final = "kube-probe/sidecar"
KEY: Final = b"probe-key"  # not x-sidecar-…: what callers say so is taken for nothing
_SERVING: Final = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus
_MESSAGE: Final = 1024  # bytes of an answer over gRPC
_TEXT: Final = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"cache-control", b"no-store"),
)


Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GET. `host` is where to connect; empty: where we were asked."""

    port: Port
    path: str = "/"
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"
    headers: dict[str, str] = {}
    host: str = ""


class Tcp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A connection that stands."""

    port: Port
    host: str = ""


class Grpc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`grpc.health.v1`, for one service or, where that is empty, the whole server."""

    port: Port
    service: str = ""


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the three. `timeout` is in seconds, for the whole of it. Who asks must show `key` in
    the header `probe-key`; empty: anybody may ask."""

    http: Http | None = None
    tcp: Tcp | None = None
    grpc: Grpc | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    key: str = ""

    def __str__(self) -> str:
        """For people; headers and queries may hold what is nobody's business."""
        within = f"within {self.timeout:g} s"
        if self.http is not None:
            http = self.http
            path = http.path.partition("?")[0]
            return f"GET {http.scheme.lower()}://{http.host or '*'}:{http.port}{path} {within}"
        if self.tcp is not None:
            return f"TCP {self.tcp.host or '*'}:{self.tcp.port} {within}"
        grpc = self.grpc
        return f"gRPC *:{grpc.port} {grpc.service} {within}" if grpc is not None else ""


class Probes:
    """All of one sidecar. `pages` for the health port, then `close`."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self.counts: dict[tuple[str, str], int] = {}  # by name and result
        self._probes = probes
        if any(probe.http is not None for probe in probes.values()):
            import aiohttp  # noqa: F401
        if any(probe.grpc is not None for probe in probes.values()):
            import grpc_health.v1.health_pb2_grpc  # noqa: F401
        self._under_way: dict[tuple[str, str], asyncio.Task[str]] = {}

    def pages(self) -> Mapping[str, Callable[[str, Headers], Awaitable[Answer]]]:
        """By path; a page is told at which address it was asked for, and with which headers."""

        def page(name: str) -> Callable[[str, Headers], Awaitable[Answer]]:
            return lambda here, headers: self._page(name, here, headers)

        return {f"/probe/{name}": page(name) for name in self._probes}

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _page(self, name: str, here: str, headers: Headers) -> Answer:
        key = self._probes[name].key.encode()
        shown = next((value for header, value in headers if header == KEY), b"")
        if key and not hmac.compare_digest(key, shown):
            self._count(name, "forbidden")
            return Answer(403, list(_TEXT), b"failed: this is for the kubelet alone\n")
        return await self._answered(name, here)

    async def _answered(self, name: str, here: str) -> Answer:
        key = (name, here)
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= AT_ONCE:
                self._count(name, "crowded")
                return _said("too many probes are under way")
            task = asyncio.create_task(self._asked(name, here))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key))
        await asyncio.wait({task})  # not awaited: it does not end with one of those who ask
        return _said("it was ended" if task.cancelled() else task.result())

    async def _asked(self, name: str, here: str) -> str:
        """Empty: it is well. Otherwise why not."""
        probe = self._probes[name]
        why = ""
        try:
            async with asyncio.timeout(probe.timeout):
                await _ask(probe, here)
        except TimeoutError:
            why = f"no answer within {probe.timeout:g} s"
        except FetchFailed as error:
            why = str(error)
        self._count(name, "failure" if why else "success")
        return why

    def _count(self, name: str, result: str) -> None:
        self.counts[name, result] = self.counts.get((name, result), 0) + 1


def _said(why_not: str) -> Answer:
    text = f"failed: {why_not}\n" if why_not else "ok\n"
    return Answer(503 if why_not else 200, list(_TEXT), text.encode())


def _ask(probe: Probe, here: str) -> Coroutine[Any, Any, None]:
    if probe.http is not None:
        return _http(probe.http, probe.http.host or here)
    if probe.tcp is not None:
        return _tcp(probe.tcp.host or here, probe.tcp.port)
    if probe.grpc is not None:
        return _grpc(probe.grpc, here)
    raise FetchFailed("it asks for nothing")


async def _http(wanted: Http, host: str) -> None:
    import aiohttp
    from yarl import URL

    authority = f"[{host}]" if ":" in host else host
    path = wanted.path.removeprefix("/")  # Kubernetes takes it without as well
    address = URL(f"{wanted.scheme.lower()}://{authority}:{wanted.port}/{path}", encoded=True)
    headers = {"user-agent": AGENT, "accept": "*/*"}
    headers.update((name.lower(), value) for name, value in wanted.headers.items())
    connector = aiohttp.TCPConnector(ssl=False, force_close=True, use_dns_cache=False)
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
                skip_auto_headers=("accept-encoding",), trust_env=False,
                timeout=aiohttp.ClientTimeout(),  # ours is around all of this
            ) as session,
            session.get(address, headers=headers, allow_redirects=False) as response,
        ):  # fmt: skip
            if not 200 <= response.status <= 399:
                raise FetchFailed(f"it answered {response.status}")
            # Of the body nothing is read beyond what came with the head.
    except aiohttp.ClientConnectorError as error:
        raise FetchFailed(_unconnected(error.os_error)) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise FetchFailed("no sound HTTP answer") from None


def _unconnected(error: OSError) -> str:
    number = error.errno or 0  # of the system, or below 0 of the names' lookup
    return f"no connection: {os.strerror(number) if number > 0 else 'no such host'}"


async def _tcp(host: str, port: int) -> None:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        raise FetchFailed(_unconnected(error)) from None
    writer.close()


async def _grpc(wanted: Grpc, host: str) -> None:
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    authority = f"[{host}]" if ":" in host else host
    options = (
        ("grpc.primary_user_agent", AGENT),
        ("grpc.max_receive_message_length", _MESSAGE),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    )
    async with grpc.aio.insecure_channel(f"{authority}:{wanted.port}", options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=wanted.service))
        except grpc.aio.AioRpcError as error:  # its details are the service's words
            raise FetchFailed(f"gRPC {error.code().name}") from None
    if answer.status != _SERVING:
        raise FetchFailed("not serving")
