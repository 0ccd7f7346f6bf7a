"""The Discovery service: one stream per sidecar. Its rules are in `session`; this is the I/O."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from typing import Final
from urllib.parse import unquote

import grpc
from grpc import aio

from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet, FleetFull
from sidecar.control.identity import Identities, Workload
from sidecar.control.metrics import Counts
from sidecar.control.revocations import RevocationLog
from sidecar.control.session import Session
from sidecar.control.strangers import Crowded, Strangers
from sidecar.control.subjects.hub import Hub
from sidecar.errors import ClusterUnreachable, IdentityRefused
from sidecar.wire.discovery_pb2 import FromControl, FromSidecar, Hello, Report
from sidecar.wire.discovery_pb2_grpc import DiscoveryServicer

_log: Final = logging.getLogger(__name__)
HELLO_WITHIN: Final = 10.0  # seconds

Reported = Callable[[Session, Report], None]
Requests = AsyncIterator[FromSidecar]
Context = aio.ServicerContext[FromSidecar, FromControl]


class Discovery(DiscoveryServicer):
    """Serves every sidecar's stream until it ends or `Session.end` is called on it."""

    def __init__(
        self,
        catalogue: Catalogue,
        log: RevocationLog,
        fleet: Fleet,
        counts: Counts,
        clock: Callable[[], float],
        identities: Identities | None = None,
        hub: Hub | None = None,
        reported: Reported | None = None,
    ) -> None:
        """Without `hub` nobody is told of customers. With `identities` nobody is served who has not
        shown whose sidecar it is. `reported` hears how sidecars fare."""
        self._catalogue = catalogue
        self._log = log
        self._fleet = fleet
        self._counts = counts
        self._clock = clock
        self._identities = identities
        self._strangers = Strangers()
        self._hub = hub
        self._reported = reported

    # The coroutine form rather than a generator: when the stream breaks, its end runs at once.
    # The stub is written for the other form of a stream, too.
    async def Stream(self, request_iterator: Requests, context: Context) -> None:  # type: ignore[override]
        """The whole life of one stream."""
        session = await self._greet(request_iterator, context)
        reader = asyncio.create_task(self._read(request_iterator, session))
        try:
            while not session.ended:
                session.wake.clear()
                if self._hub is not None:
                    self._hub.look(session)
                while (message := session.next(self._catalogue, self._log)) is not None:
                    self._counts.pushes += message.HasField("push")
                    await context.write(message)
                await _woken(session)
        finally:
            self._fleet.leave(session)
            if self._hub is not None:
                self._hub.leave(session)
            reader.cancel()
            # A broken stream also fails the read under way; that error has been dealt with here.
            await asyncio.gather(reader, return_exceptions=True)
        await context.abort(grpc.StatusCode.ABORTED, session.ended)

    async def _greet(self, requests: Requests, context: Context) -> Session:
        """The session that a Hello begins. Aborts the call where there is none."""
        code, reason = grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a Hello"
        try:
            address = _readable(context.peer())
            with self._strangers.one(address) if self._identities else nullcontext():
                # First: of a stranger no message is read, which may have 64 MiB.
                workload = await self._shown(context)
                async with asyncio.timeout(HELLO_WITHIN):
                    first = await anext(requests)
                if first.HasField("hello"):
                    await self._identify(first.hello, workload)
                    now = self._clock()
                    session = Session(first.hello, address=address, since=now, clock=self._clock)
                    session.account = workload.account if workload is not None else ""
                    self._fleet.join(session)
                    self._counts.streams += 1
                    return session
        except StopAsyncIteration:
            pass
        except TimeoutError:
            code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came"
        except ValueError as error:
            reason = str(error)
        except IdentityRefused as error:
            self._counts.identities["refused"] += 1
            code, reason = grpc.StatusCode.UNAUTHENTICATED, str(error)
        except ClusterUnreachable as error:
            self._counts.identities["unknown"] += 1
            _log.warning("whose sidecar it is cannot be told: %s", error)  # not to strangers
            code, reason = grpc.StatusCode.UNAVAILABLE, "the cluster cannot be asked who this is"
        except (FleetFull, Crowded) as error:
            code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        self._counts.streams_refused += 1
        await context.abort(code, reason)
        raise AssertionError("abort returned")

    async def _shown(self, context: Context) -> Workload | None:
        """Whose sidecar calls; None where nobody has to show it. Raises IdentityRefused,
        ClusterUnreachable."""
        if self._identities is None:
            return None
        sent = dict(context.invocation_metadata() or ())
        scheme, _, token = str(sent.get("authorization", "")).partition(" ")
        found = next(iter(context.auth_context().get("peer_spiffe_id") or ()), b"")
        try:
            async with asyncio.timeout(HELLO_WITHIN):
                return await self._identities.shown(
                    token if scheme.lower() == "bearer" else None,
                    bytes(found).decode("utf-8", "replace") or None,
                )
        except TimeoutError:
            raise ClusterUnreachable("too many wait to show whose sidecar they are") from None

    async def _identify(self, hello: Hello, workload: Workload | None) -> None:
        """A Hello is of whom it says it is. Raises IdentityRefused."""
        if self._identities is None or workload is None:
            return
        workload = await self._identities.registered(workload, hello.registration)
        if hello.namespace != workload.namespace:
            raise IdentityRefused(
                f"it asks for namespace {hello.namespace!r}, and is of {workload.namespace!r}"
            )
        if workload.labels is not None and dict(hello.labels) != dict(workload.labels):
            raise IdentityRefused("its labels are not those of its registration")
        hello.sidecar_id = workload.name(hello.sidecar_id)
        self._counts.identities["shown"] += 1

    async def _read(self, requests: Requests, session: Session) -> None:
        reason = "the sidecar ended the stream"
        try:
            async for message in requests:
                if message.HasField("ack"):
                    self._counts.acks += session.ack(message.ack)
                elif message.HasField("nack"):
                    self._counts.nacks += session.nack(message.nack, self._log)
                elif message.HasField("hello"):
                    reason = "a second Hello"
                    break
                elif message.HasField("report"):
                    if self._reported is not None:
                        self._reported(session, message.report)
                    continue
                elif self._hub is not None:
                    self._hub.receive(session, message)
                    continue
                self._fleet.changed()
        finally:
            session.end(reason)


async def _woken(session: Session) -> None:
    """Until there may be more to send."""
    held_back = session.held_back
    if held_back is None:
        await session.wake.wait()
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(held_back):
            await session.wake.wait()


def _readable(peer: str) -> str:
    """`ipv4:127.0.0.1:5` and `ipv6:%5B::1%5D:5` as people write them."""
    return unquote(peer.partition(":")[2]) if peer.startswith(("ipv4:", "ipv6:")) else peer
