"""What clients of a control plane have in common: one channel, reached before anything is sent, and
what they show of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc import aio

from sidecar.errors import ControlPlaneRefused, ControlPlaneUnreachable, FetchFailed, Misuse
from sidecar.facts.server import TIMEOUT, Server
from sidecar.wire import convert

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", convert.MAX_MESSAGE),
    ("grpc.max_send_message_length", convert.MAX_MESSAGE),
    ("grpc.enable_http_proxy", 0),  # addresses come from the settings alone
    ("grpc.enable_retries", 0),
)
LONGEST_TOKEN: Final = 16 * 1024  # bytes


class ControlPlaneClient:
    """Calls to one control plane. Raises Misuse where its settings contradict each other, or would
    send a token in plain text over the network."""

    def __init__(self, server: Server | str, *, timeout: float = TIMEOUT) -> None:
        """An address alone is spoken to in plain text, as nobody, with this `timeout`."""
        to = Server(server, timeout=timeout) if isinstance(server, str) else server
        mistakes = list(to.mistakes())
        if mistakes:
            raise Misuse(mistakes)
        self.server = to.address
        self.timeout = to.timeout
        self._to = to
        shows: Any = None
        if to.token_file is not None:
            shows = [_BearerOnce(to.token_file), _BearerStream(to.token_file)]
        if to.ca is None:
            self.channel = aio.insecure_channel(to.address, options=_OPTIONS, interceptors=shows)
        else:
            credentials = grpc.ssl_channel_credentials(_read(to.ca), _read(to.key), _read(to.cert))
            self.channel = aio.secure_channel(
                to.address, credentials, options=_OPTIONS, interceptors=shows
            )

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
                f"its --listen address? {self._doubt()}"
            ) from None

    def denied(self, error: aio.AioRpcError) -> ControlPlaneRefused | None:
        """Of a call that was not for this caller, which has changed nothing; None: of another."""
        said = error.details()
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            return ControlPlaneRefused(
                f"{self.server} does not permit it: {said}. Who may do what is in the control "
                "plane's --publishers file"
            )
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            shown = self._to.token_file
            mend = f". Renew the token in {shown}" if shown is not None else ""
            return ControlPlaneRefused(f"{self.server} does not know who calls: {said}{mend}")
        return None

    def _doubt(self) -> str:
        if self._to.ca is None:
            return "If it wants TLS, give --server-ca FILE"
        asked = "" if self._to.cert is not None else ", and does it want a --server-cert"
        return f"Does {self._to.ca} vouch for its certificate and is that for this name{asked}?"


class _Bearer:
    """Adds the token of a file to each call, as it is then."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def shown(self, details: Any) -> Any:
        metadata = aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {_token(self._path)}")
        return details._replace(metadata=metadata)


# Two, because a channel takes an interceptor for one kind of call only.
class _BearerOnce(_Bearer, aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(self.shown(client_call_details), request)


class _BearerStream(_Bearer, aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(self.shown(client_call_details), request)


def _token(path: Path) -> str:
    content = _read(path) or b""
    token = content.decode("ascii", "replace").strip()
    if not token or len(token) > LONGEST_TOKEN or not token.isprintable() or "\ufffd" in token:
        raise Misuse(f"--server-token-file: {path} holds no token")
    return token


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise FetchFailed(f"{path} cannot be read: {error.strerror}") from None
