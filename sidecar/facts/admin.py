"""The client of a control plane's Admin service. gRPC's errors become ours here, and only here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc
from grpc import aio

from sidecar.errors import ControlPlaneUnreachable
from sidecar.facts.control_client import ControlPlaneClient
from sidecar.facts.server import TIMEOUT, Server
from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import AdminStub

_NOTHING_HAPPENED: Final = frozenset(
    (
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)


class AdminClient(ControlPlaneClient):
    """Every call raises ControlPlaneUnreachable without an answer. An apply that got none has an
    unknown outcome, and the error says so."""

    def __init__(self, server: Server | str, *, timeout: float = TIMEOUT) -> None:
        super().__init__(server, timeout=timeout)
        self._stub = AdminStub(self.channel)

    async def apply(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        """Publishes. Nothing is sent unless the control plane can be reached."""
        await self.reach("nothing was published")
        try:
            return await self._stub.Apply(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._undone(
                error,
                "Look with `sidecar get`, or apply again: what is already published makes no new "
                "release",
            ) from None

    async def get(self, request: pb.GetRequest) -> pb.GetResponse:
        """What is published."""
        await self.reach()
        try:
            return await self._stub.Get(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._unreachable(error) from None

    async def who_am_i(self) -> pb.WhoAmIResponse:
        """Who the control plane takes the caller for."""
        await self.reach()
        try:
            return await self._stub.WhoAmI(pb.WhoAmIRequest(), timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._unreachable(error) from None

    async def status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        """Which sidecar enforces what."""
        await self.reach()
        try:
            return await self._stub.Status(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._unreachable(error) from None

    async def revoke(self, request: pb.RevokeRequest) -> pb.RevokeResponse:
        """Withdraws. Nothing is sent unless the control plane can be reached."""
        await self.reach("nothing was withdrawn")
        try:
            return await self._stub.Revoke(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._undone(
                error, "Do it again: to withdraw a thing twice changes nothing"
            ) from None

    async def revocations(self, request: pb.ListRevocationsRequest) -> pb.ListRevocationsResponse:
        """What is withdrawn."""
        await self.reach()
        try:
            return await self._stub.ListRevocations(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._unreachable(error) from None

    async def watch(
        self, releases: Sequence[pb.Release], *, within: float
    ) -> AsyncIterator[Sequence[pb.Progress.Reach]]:
        """How far releases have come, at every change, for at most `within` seconds."""
        request = pb.WatchRequest(
            releases=[
                pb.NamespaceVersion(namespace=release.namespace, version=release.version)
                for release in releases
            ]
        )
        async for progress in self.follow(request, within=within):
            yield progress.reaches

    async def follow(
        self, request: pb.WatchRequest, *, within: float
    ) -> AsyncIterator[pb.Progress]:
        """The same, of whatever the request asks about."""
        call = self._stub.Watch(request, timeout=within)
        try:
            async for progress in call:
                yield progress
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._unreachable(error) from None
        finally:
            call.cancel()

    def _undone(self, error: aio.AioRpcError, advice: str) -> ControlPlaneUnreachable:
        """Of a call that changes something: whether it did, and where nobody knows what to do."""
        denied = self.denied(error)
        if denied is not None:
            return denied
        if error.code() in _NOTHING_HAPPENED:
            return ControlPlaneUnreachable(f"{self.server}: {error.details()}")
        late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        reason = f"no answer within {self.timeout:g}s" if late else str(error.details())
        return ControlPlaneUnreachable(f"outcome unknown: {self.server}: {reason}. {advice}")

    def _unreachable(self, error: aio.AioRpcError) -> ControlPlaneUnreachable:
        denied = self.denied(error)
        if denied is not None:
            return denied
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ControlPlaneUnreachable(f"{self.server}: no answer within {self.timeout:g}s")
        return ControlPlaneUnreachable(f"{self.server}: {error.code().name}: {error.details()}")
