"""The client of a control plane's Admin service. gRPC's errors become ours here, and only here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

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
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)
T = TypeVar("T")


class AdminClient(ControlPlaneClient):
    """Every call raises ControlPlaneUnreachable without an answer. An apply that got none has an
    unknown outcome, and the error says so."""

    def __init__(self, server: Server | str, *, timeout: float = TIMEOUT) -> None:
        super().__init__(server, timeout=timeout)
        self._stub = AdminStub(self.channel)

    async def apply(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        """Publishes. Nothing is sent unless the control plane can be reached."""
        return await self._change(
            self._stub.Apply, request, "nothing was published",
            "Look with `sidecar get`, or apply again: what is already published makes no new "
            "release",
        )  # fmt: skip

    async def rollback(self, request: pb.RollbackRequest) -> pb.ApplyResponse:
        """Goes back to an earlier release."""
        return await self._change(
            self._stub.Rollback, request, "nothing was published",
            "Look with `sidecar history`, before you do it again",
        )  # fmt: skip

    async def review(self, request: pb.ReviewRequest) -> pb.ApplyResponse:
        """Says yes or no to a proposal."""
        return await self._change(
            self._stub.Review, request, "nothing was published",
            "Look with `sidecar approve`: what has been decided is decided once",
        )  # fmt: skip

    async def steer(self, request: pb.SteerRequest) -> pb.Rollout:
        """Pauses, resumes or aborts a rollout."""
        return await self._change(
            self._stub.Steer, request, "nothing was changed", "Look with `sidecar rollout status`"
        )

    async def rotate_signing_key(self) -> pb.SigningKeysResponse:
        """Makes a new one."""
        return await self._change(
            self._stub.RotateSigningKey, pb.RotateSigningKeyRequest(), "no key was made",
            "Look with `sidecar keys`",
        )  # fmt: skip

    async def delegate_signing(self, request: pb.DelegateSigningRequest) -> pb.SigningKeysResponse:
        """Lets another key sign releases."""
        return await self._change(
            self._stub.DelegateSigning, request, "nobody may sign who might not before",
            "Look with `sidecar keys`",
        )  # fmt: skip

    async def revoke(self, request: pb.RevokeRequest) -> pb.RevokeResponse:
        """Withdraws. Nothing is sent unless the control plane can be reached."""
        return await self._change(
            self._stub.Revoke, request, "nothing was withdrawn",
            "Do it again: to withdraw a thing twice changes nothing",
        )  # fmt: skip

    async def get(self, request: pb.GetRequest) -> pb.GetResponse:
        """What is published."""
        return await self._ask(self._stub.Get, request)

    async def diff(self, request: pb.DiffRequest) -> pb.DiffResponse:
        """What differs between two releases."""
        return await self._ask(self._stub.Diff, request)

    async def history(self, request: pb.HistoryRequest) -> pb.HistoryResponse:
        """Every release of a namespace."""
        return await self._ask(self._stub.History, request)

    async def rollouts(self, request: pb.RolloutsRequest) -> pb.RolloutsResponse:
        """How releases spread."""
        return await self._ask(self._stub.Rollouts, request)

    async def proposals(self, request: pb.ProposalsRequest) -> pb.ProposalsResponse:
        """What waits for a second person."""
        return await self._ask(self._stub.Proposals, request)

    async def audit(self, request: pb.AuditRequest) -> pb.AuditResponse:
        """What was done."""
        return await self._ask(self._stub.Audit, request)

    async def signing_keys(self) -> pb.SigningKeysResponse:
        """The keys that sign releases."""
        return await self._ask(self._stub.SigningKeys, pb.SigningKeysRequest())

    async def who_am_i(self) -> pb.WhoAmIResponse:
        """Who the control plane takes the caller for."""
        return await self._ask(self._stub.WhoAmI, pb.WhoAmIRequest())

    async def status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        """Which sidecar enforces what."""
        return await self._ask(self._stub.Status, request)

    async def revocations(self, request: pb.ListRevocationsRequest) -> pb.ListRevocationsResponse:
        """What is withdrawn."""
        return await self._ask(self._stub.ListRevocations, request)

    async def _ask(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        await self.reach()
        try:
            return await method(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._unreachable(error) from None

    async def _change(
        self,
        method: Callable[..., Awaitable[T]],
        request: object,
        consequence: str,
        advice: str,
    ) -> T:
        """Nothing is sent unless the control plane can be reached."""
        await self.reach(consequence)
        try:
            return await method(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            raise self._undone(error, advice) from None

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
