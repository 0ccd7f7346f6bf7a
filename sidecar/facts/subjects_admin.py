"""The client of a control plane's Subjects service. gRPC's errors become ours here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
from grpc import aio

from sidecar.errors import ControlPlaneUnreachable, Misuse
from sidecar.facts.control_client import ControlPlaneClient
from sidecar.facts.server import TIMEOUT, Server
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.subject_pb2_grpc import SubjectsStub

_OURS: Final = frozenset((grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT))
T = TypeVar("T")


class SubjectsClient(ControlPlaneClient):
    """Every call raises ControlPlaneUnreachable without an answer, and Misuse for what it says
    cannot be."""

    def __init__(self, server: Server | str, *, timeout: float = TIMEOUT) -> None:
        super().__init__(server, timeout=timeout)
        self._stub = SubjectsStub(self.channel)

    async def show(self, request: pb.ShowSubjectRequest) -> pb.ShowSubjectResponse:
        return await self._call(self._stub.Show, request)

    async def decide(self, request: pb.DecideRequest) -> pb.DecideResponse:
        return await self._call(self._stub.Decide, request)

    async def set(self, request: pb.SetSubjectRequest) -> pb.SetSubjectResponse:
        return await self._call(self._stub.Set, request)

    async def undo(self, request: pb.UndoLinkRequest) -> pb.UndoLinkResponse:
        return await self._call(self._stub.Undo, request)

    async def export(self, request: pb.ExportSubjectRequest) -> pb.ExportSubjectResponse:
        return await self._call(self._stub.Export, request)

    async def erase(self, request: pb.EraseSubjectRequest) -> pb.EraseSubjectResponse:
        return await self._call(self._stub.Erase, request)

    async def _call(self, call: Callable[..., Awaitable[T]], request: Any) -> T:
        await self.reach()
        try:
            return await call(request, timeout=self.timeout)
        except aio.AioRpcError as error:
            said = error.details() or error.code().name
            denied = self.denied(error)
            if denied is not None:
                raise denied from None
            if error.code() in _OURS:
                raise Misuse(said) from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                said = f"no answer within {self.timeout:g} s; the outcome is unknown"
            raise ControlPlaneUnreachable(f"{self.server}: {said}") from None
