"""What stands before the Admin and Subjects services: who calls, and whether they may at all.

`METHODS` says what a method takes; what a caller may do with a namespace is for the service, which
asks `authority.current()`. What is not in the table is for administrators alone. Every door goes by
`Doorkeeper.admit`, which counts and logs those it turns away; this file also has the gRPC one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from math import inf
from typing import Any, Final
from urllib.parse import unquote

import grpc
from grpc import aio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.control import peer_certificate
from sidecar.control.authority import (
    ANYBODY,
    Caller,
    Forbidden,
    Unauthenticated,
    Verb,
    acting,
)
from sidecar.control.credentials import Authority
from sidecar.control.peer_certificate import PeerCertificate
from sidecar.decide.rates import Rate

ADMIN: Final = "/sidecar.v1.Admin/"
SUBJECTS: Final = "/sidecar.v1.Subjects/"
DISCOVERY: Final = "/sidecar.v1.Discovery/"
_OPEN: Final = ("/grpc.health.v1.Health/", DISCOVERY)
_REFLECTION: Final = "/grpc.reflection."
_LOGGED: Final = Rate.filling(1.0, 20)  # refused calls
_log: Final = logging.getLogger(__name__)
Need = Callable[[Caller], bool]


def _somewhere(*verbs: Verb) -> Need:
    return lambda caller: caller.may_somewhere(*verbs)


def _everywhere(*verbs: Verb) -> Need:
    return lambda caller: any(caller.may_everywhere(verb) for verb in verbs)


# Withdrawals and the audit trail are of no namespace: nothing for who is limited to some.
METHODS: Final[Mapping[str, tuple[Need, str]]] = {
    **dict.fromkeys(
        ("Rollback", "Steer"),
        (_somewhere("publish", "approve"), "role publisher, approver or admin"),
    ),
    **dict.fromkeys(
        # Who may look may try without publishing; what is published Publisher.apply asks for.
        ("Apply", "Get", "Diff", "History", "Rollouts", "Proposals", "Status", "Watch", "WhoAmI",
         "SigningKeys"),
        (_somewhere("view"), "any role"),
    ),
    # One's own proposal may be taken back without being an approver.
    "Review": (_somewhere("publish", "approve"), "role publisher, approver or admin"),
    **dict.fromkeys(
        ("Revoke", "ListRevocations"),
        (
            _everywhere("publish", "administer"),
            "role publisher or admin for every namespace and kind",
        ),
    ),
}  # fmt: skip
"""Of Admin: what a caller has to have, and that in words."""
_ADMINISTRATOR: Final = (_everywhere("administer"), "role admin for every namespace and kind")
_CUSTOMERS: Final[tuple[Need, str]] = (
    lambda caller: caller.may_see_customers, "a permission with `customers: true`",
)  # fmt: skip


def admitted(method: str, caller: Caller) -> None:
    """Whether a call of this method (`/sidecar.v1.Admin/Apply`) is served at all. Raises Forbidden,
    which says what is missing."""
    if method.startswith(SUBJECTS):
        allows, wanted = _CUSTOMERS
    elif method.startswith(_REFLECTION):
        allows, wanted = METHODS["WhoAmI"]
    elif method.startswith(ADMIN):
        allows, wanted = METHODS.get(method.removeprefix(ADMIN), _ADMINISTRATOR)
    else:
        allows, wanted = _ADMINISTRATOR
    if allows(caller):
        return
    if not caller.permissions:
        raise Forbidden(f"no permission in the file of --publishers is of {caller.name}")
    raise Forbidden(f"{caller.name} lacks {wanted}, which {method.rpartition('/')[2]} takes")


class Doorkeeper:
    """Admits callers; without an authority everybody, as `local`."""

    def __init__(self, authority: Authority | None, clock: Callable[[], float] = time.time) -> None:
        self.authority = authority
        self.refused: Counter[str] = Counter()
        self._clock = clock
        self._said = 0.0
        self._unsaid = 0

    async def admit(
        self,
        method: str,
        authorization: str | None,
        certificate: PeerCertificate | None,
        peer: str,
    ) -> Caller:
        """Who calls, from ADDRESS:PORT. Raises Unauthenticated and Forbidden; both are counted and
        logged here."""
        if self.authority is None:
            return ANYBODY
        try:
            caller = await self.authority.identify(authorization, certificate, peer)
            admitted(method, caller)
        except (Unauthenticated, Forbidden) as error:
            self.turned_away(method, peer, error)
            raise
        return caller

    def turned_away(self, method: str, peer: str, error: Unauthenticated | Forbidden) -> None:
        """Counts and logs one that a service refused; a flood of them is not logged whole."""
        self.refused[error.reason if isinstance(error, Unauthenticated) else "forbidden"] += 1
        now = self._clock()
        if _LOGGED.wait(self._said, now) > 0:
            self._unsaid += 1
            return
        self._said = _LOGGED.after(self._said, now)
        more = f" ({self._unsaid} more were refused and not logged)" if self._unsaid else ""
        self._unsaid = 0
        _log.warning("refused %s to %s: %s%s", method, peer, error, more)


class Guard(aio.ServerInterceptor):  # type: ignore[type-arg]  # it takes none
    """The gRPC door. Nobody's message is read before it is known whose it is: one may have 64 MiB.
    Health is open; Discovery has its own ways, and is served here only if `discovery`."""

    def __init__(
        self,
        keeper: Doorkeeper,
        *,
        discovery: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keeper = keeper
        self._discovery = discovery
        self._clock = clock

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        method = details.method
        if method.startswith(DISCOVERY) and not self._discovery:
            return grpc.stream_stream_rpc_method_handler(_elsewhere)
        handler = await continuation(details)
        if handler is None or method.startswith(_OPEN):
            return handler
        return self._guarded(method, handler)

    def _guarded(self, method: str, handler: Any) -> Any:
        serve = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        async def guarded(requests: AsyncIterator[Any], context: Any) -> Any:
            caller = await self._admit(method, context)
            with acting(caller):
                try:
                    left = None if caller.expires == inf else caller.expires - self._clock()
                    async with asyncio.timeout(left if handler.response_streaming else None) as end:
                        whole = handler.request_streaming
                        request = requests if whole else await _only(requests, context)
                        return await _served(serve(request, context), context)
                except (Unauthenticated, Forbidden) as error:
                    self._keeper.turned_away(method, _peer(context), error)
                    await _refuse(context, error)
                except TimeoutError:
                    if not end.expired():
                        raise
                    ended = Unauthenticated("the credential has ended; come with a new one")
                    await _refuse(context, ended)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    async def _admit(self, method: str, context: Any) -> Caller:
        try:
            return await self._keeper.admit(
                method, _authorization(context), _certificate(context), _peer(context)
            )
        except (Unauthenticated, Forbidden) as error:
            await _refuse(context, error)
        raise AssertionError("abort returned")


class DoorMetrics(Collector):
    """What the doors counted, and which insecure settings are on."""

    def __init__(
        self,
        keeper: Doorkeeper,
        insecure: Mapping[str, bool],
        certificate_ends: Callable[[], float] | None = None,
    ) -> None:
        """`certificate_ends`: when the certificate that publishers are shown does, Unix time."""
        self._keeper = keeper
        self._insecure = insecure
        self._certificate_ends = certificate_ends

    def collect(self) -> Iterator[Metric]:
        refused = CounterMetricFamily(
            "sidecar_control_calls_refused", "Calls that were turned away.", labels=["reason"]
        )
        for reason, count in sorted(self._keeper.refused.items()):
            refused.add_metric([reason], count)
        yield refused
        insecure = GaugeMetricFamily(
            "sidecar_control_insecure", "Insecure settings that are on.", labels=["setting"]
        )
        for setting, on in self._insecure.items():
            insecure.add_metric([setting], on)
        yield insecure
        if self._certificate_ends is not None:
            yield GaugeMetricFamily(
                "sidecar_control_publisher_certificate_expiry_timestamp_seconds",
                "When the certificate that publishers are shown ends.",
                value=self._certificate_ends(),
            )
        authority = self._keeper.authority
        if authority is not None:
            authority.refresh()
            yield GaugeMetricFamily(
                "sidecar_control_publishers_current",
                "Whether the file of publishers, as it is now, is the one that counts.",
                value=not authority.error,
            )


async def _served(served: Any, context: Any) -> Any:
    if not inspect.isasyncgen(served):
        return await served
    async for each in served:
        await context.write(each)
    return None


async def _only(requests: AsyncIterator[Any], context: Any) -> Any:
    async for request in requests:
        return request
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a message is expected")
    raise AssertionError("abort returned")


async def _elsewhere(requests: AsyncIterator[Any], context: Any) -> None:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        "sidecars are not served here, but at the control plane's --fleet-listen",
    )


async def _refuse(context: Any, error: Unauthenticated | Forbidden) -> None:
    """Ends the call. ABORTED says, as everywhere here, that nothing has been done."""
    if isinstance(error, Forbidden):
        code = grpc.StatusCode.PERMISSION_DENIED
    elif not error.later:
        code = grpc.StatusCode.UNAUTHENTICATED
    elif error.reason == "keys_unavailable":
        code = grpc.StatusCode.ABORTED
    else:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    await context.abort(code, str(error))


def _authorization(context: Any) -> str | None:
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    # Of two, one would be looked at here, and the other perhaps elsewhere: neither stands.
    return None if not found else "" if len(found) > 1 else str(found[0])


def _certificate(context: Any) -> PeerCertificate | None:
    found = (context.auth_context() or {}).get("x509_pem_cert")
    try:
        return peer_certificate.read(bytes(found[0])) if found else None
    except ValueError:  # gRPC has verified what we cannot read: then it names nobody
        return PeerCertificate()


def _peer(context: Any) -> str:
    """ADDRESS:PORT; `ipv4:127.0.0.1:5` and `ipv6:%5B::1%5D:5` are gRPC's ways to write it."""
    peer = str(context.peer())
    return unquote(peer.partition(":")[2]) if peer.startswith(("ipv4:", "ipv6:")) else peer
