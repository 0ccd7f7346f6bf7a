"""The HTTP door before the Admin service: who calls, what is called, what comes of it.

In this order: nothing that a page or a proxy sends, nothing that is no call, nobody that may not;
only then is a body read. The service is called as gRPC calls it, and says what it says there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, Final

import grpc
from aiohttp import web
from google.protobuf.message import Message

from sidecar.control import peer_certificate
from sidecar.control.api import browsers, messages, openapi, problems, routes
from sidecar.control.api.bodies import Bodies
from sidecar.control.api.problems import HEADERS, Refused
from sidecar.control.api.routes import Route
from sidecar.control.api.streams import Gone, Lines, Streams
from sidecar.control.authority import Caller, Forbidden, Unauthenticated, acting
from sidecar.control.doors import ADMIN, Doorkeeper
from sidecar.control.peer_certificate import PeerCertificate
from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import AdminServicer

WITHIN: Final = 60.0  # seconds for a call
AT_ONCE: Final = 256  # calls; streams have the bound of watchers
LARGE: Final = 256 * 1024  # bytes of an answer that is written beside the loop
OUTCOMES: Final[Mapping[pb.Outcome.ValueType, int]] = {
    pb.OUTCOME_REFUSED: 422,
    pb.OUTCOME_CONFLICT: 409,
    pb.OUTCOME_AWAITS_APPROVAL: 202,
}
"""Statuses of an ApplyResponse; of others it is 200."""
_log: Final = logging.getLogger(__name__)


class Api:
    """The door of one listener. `close` ends what streams."""

    def __init__(
        self,
        admin: AdminServicer,
        keeper: Doorkeeper,
        *,
        loopback: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`loopback`: only this machine reaches the listener."""
        self._admin = admin
        self._keeper = keeper
        self._loopback = loopback
        self._clock = clock
        self._bodies = Bodies()
        self._calls = 0
        self._streams = Streams()

    def routes(self) -> list[web.RouteDef]:
        """For an application."""
        return [web.route("*", routes.ROOT + r"{rest:[\s\S]*}", self.handle)]

    def close(self) -> None:
        """Streams would go on for as long as somebody listens."""
        self._streams.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers, whatever it is."""
        try:
            return await self._handled(request)
        except Refused as refused:
            return problems.answer(refused)

    async def _handled(self, request: web.Request) -> web.StreamResponse:
        version = (request.version.major, request.version.minor)
        browsers.check(request.headers, version, loopback=self._loopback)
        path = request.rel_url.raw_path
        if path == routes.OPENAPI:
            _require_verb(request, ["GET", "HEAD"])
            return _sent(200, openapi.document())
        verbs, values = routes.find(path)
        if not verbs:
            raise Refused(404, "not_found", f"there is no such path; see {routes.OPENAPI}")
        read = verbs.get("GET")
        allowed = [*verbs, *(["HEAD"] if read is not None and not read.streams else [])]
        _require_verb(request, allowed)
        route = verbs["GET" if request.method == "HEAD" else request.method]
        caller = await self._admit(request, ADMIN + route.rpc)
        with self._place(route), self._bodies.place(request):
            message = await self._message(request, route, values)
            if route.streams:
                return await self._stream(request, route, message, caller)
            return await self._call(request, route, message, caller)

    async def _admit(self, request: web.Request, method: str) -> Caller:
        given = request.headers.getall("authorization", [])
        # Of two, one would be looked at here, and the other perhaps elsewhere: neither stands.
        shown = None if not given else "" if len(given) > 1 else given[0]
        try:
            return await self._keeper.admit(method, shown, _certificate(request), _peer(request))
        except Forbidden as error:
            raise Refused(403, "denied", str(error)) from None
        except Unauthenticated as error:
            raise problems.unauthenticated(error) from None

    @contextmanager
    def _place(self, route: Route) -> Iterator[None]:
        if self._calls >= AT_ONCE:
            raise Refused(503, "unavailable", f"{AT_ONCE} calls are under way", retry=1)
        counted = not route.streams
        self._calls += counted
        try:
            yield
        finally:
            self._calls -= counted

    async def _message(
        self, request: web.Request, route: Route, values: Mapping[str, str]
    ) -> Message:
        try:
            found = routes.of_query(route, request.rel_url.raw_query_string)
            make = partial(routes.message, route, values)
            if route.verb == "POST":
                return await self._bodies.read(request, make)
            if request.body_exists:
                raise Refused(400, "invalid_request", "no body is expected")
            return make(found)
        except messages.Unreadable as error:
            raise Refused(400, "invalid_request", str(error)) from None

    async def _call(
        self, request: web.Request, route: Route, message: Message, caller: Caller
    ) -> web.Response:
        try:
            async with asyncio.timeout(WITHIN) as end:
                with acting(caller):
                    answer = await self._answer(route, message, _Context(_peer(request)))
        except TimeoutError:
            if not end.expired():
                raise
            raise Refused(
                504, "unknown_outcome", f"no answer within {WITHIN:g} seconds; it may still be done"
            ) from None
        status = OUTCOMES.get(answer.outcome, 200) if isinstance(answer, pb.ApplyResponse) else 200
        if answer.ByteSize() > LARGE:
            return _sent(status, await asyncio.to_thread(messages.json_of, answer))
        return _sent(status, messages.json_of(answer))

    async def _answer(self, route: Route, message: Message, context: _Context) -> Any:
        """What the service says. Raises Refused."""
        try:
            return await getattr(self._admin, route.rpc)(message, context)
        except _Aborted as error:
            raise problems.of_grpc(error.code, error.details) from None
        except Forbidden as error:
            self._keeper.turned_away(ADMIN + route.rpc, context.peer, error)
            raise Refused(403, "denied", str(error)) from None
        except Gone:
            raise
        except Exception:  # noqa: BLE001 - a bug of ours: said in the log, and nowhere else
            _log.exception("%s failed", route.rpc)
            raise problems.of_grpc(grpc.StatusCode.UNKNOWN, "") from None

    async def _stream(
        self, request: web.Request, route: Route, message: Message, caller: Caller
    ) -> web.StreamResponse:
        lines = Lines(request)

        async def watched() -> Refused | None:
            try:
                with acting(caller):
                    await self._answer(route, message, _Context(_peer(request), lines.write))
            except Refused as refused:
                return refused
            return None

        left = inf if caller.expires == inf else caller.expires - self._clock()
        return await self._streams.serve(lines, watched(), left)


class _Aborted(Exception):
    """What the service ended a call with."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self.details = details
        super().__init__(details)


class _Context:
    """As much of gRPC's as the service makes use of."""

    def __init__(
        self, peer: str, write: Callable[[Message], Awaitable[None]] | None = None
    ) -> None:
        self.peer = peer
        self.write = write

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        raise _Aborted(code, details)


def _sent(status: int, body: bytes) -> web.Response:
    headers = {**HEADERS, "content-type": "application/json"}
    return web.Response(status=status, body=body, headers=headers)


def _require_verb(request: web.Request, allowed: list[str]) -> None:
    if request.method not in allowed:
        listed = ", ".join(allowed)
        raise Refused(405, "method_not_allowed", f"{listed} is possible", headers={"allow": listed})


def _certificate(request: web.Request) -> PeerCertificate | None:
    tls = request.transport.get_extra_info("ssl_object") if request.transport else None
    shown = tls.getpeercert(binary_form=True) if tls is not None else None
    if not shown:
        return None
    try:
        return peer_certificate.read_der(shown)
    except ValueError:  # TLS has verified what we cannot read: then it names nobody
        return PeerCertificate()


def _peer(request: web.Request) -> str:
    """ADDRESS:PORT, as gRPC's door has it."""
    found = request.transport.get_extra_info("peername") if request.transport else None
    host, port = found[:2] if found else ("", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
