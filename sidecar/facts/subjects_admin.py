"""The client of a control plane's Subjects service. gRPC's errors become ours here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from grpc import aio

from sidecar.errors import ControlPlaneUnreachable, Misuse
from sidecar.wire import convert
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.subject_pb2_grpc import SubjectsStub

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", convert.MAX_MESSAGE),
    ("grpc.enable_http_proxy", 0),  # addresses come from the settings alone
    ("grpc.enable_retries", 0),
)
_OURS: Final = frozenset((grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT))
T = TypeVar("T")


class SubjectsClient:
    """Calls to one control plane; `timeout` is in seconds, for each. Every call raises
    ControlPlaneUnreachable without an answer, and Misuse for what it says cannot be."""

    def __init__(self, server: str, *, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._channel = aio.insecure_channel(server, options=_OPTIONS)
        self._stub = SubjectsStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close(None)

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
        try:
            return await call(request, timeout=self._timeout, wait_for_ready=True)
        except aio.AioRpcError as error:
            said = error.details() or error.code().name
            if error.code() in _OURS:
                raise Misuse(said) from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                said = f"no answer within {self._timeout:g} s; the outcome is unknown"
            raise ControlPlaneUnreachable(f"{self._server}: {said}") from None
