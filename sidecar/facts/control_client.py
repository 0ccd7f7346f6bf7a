"""What clients of a control plane have in common: one channel, reached before anything is sent."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

import grpc
from grpc import aio

from sidecar.errors import ControlPlaneUnreachable
from sidecar.wire import convert

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", convert.MAX_MESSAGE),
    ("grpc.max_send_message_length", convert.MAX_MESSAGE),
    ("grpc.enable_http_proxy", 0),  # addresses come from the settings alone
    ("grpc.enable_retries", 0),
)


class ControlPlaneClient:
    """Calls to one control plane; `timeout` is in seconds, for each."""

    def __init__(self, server: str, *, timeout: float) -> None:
        self.server = server
        self.timeout = timeout
        self.channel = aio.insecure_channel(server, options=_OPTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.channel.close(None)

    async def reach(self, consequence: str = "") -> None:
        """Connects, so that what fails later is known to have been sent. Raises
        ControlPlaneUnreachable, which names the consequence."""
        try:
            async with asyncio.timeout(self.timeout):
                state = self.channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise TimeoutError
                    await self.channel.wait_for_state_change(state)
                    state = self.channel.get_state(try_to_connect=True)
        except TimeoutError:
            told = f"; {consequence}" if consequence else ""
            raise ControlPlaneUnreachable(
                f"no control plane answers at {self.server}{told}. Is it running, and is --server "
                "its --listen address?"
            ) from None
