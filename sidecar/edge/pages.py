"""A few pages over HTTP, for health and admin: GET and HEAD of fixed paths, nothing else.

The proxy's own parser reads the requests. A web framework would do as well, but takes 15 MiB of
every pod (docs/performance.md) for seven pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from sidecar.decide.challenge import Answer
from sidecar.decide.request import Headers
from sidecar.edge import answers, listening
from sidecar.edge.forward import answer as answer_bytes
from sidecar.edge.http1 import NONE, RequestHead, parse_request_head, request_head_end
from sidecar.edge.sweeper import date_line
from sidecar.errors import BadRequest

Pages = Mapping[str, Callable[[], Awaitable[Answer]]]
"""Path -> what is there at the moment."""
LocalPages = Mapping[str, Callable[[str, Headers], Awaitable[Answer]]]
"""Path -> the same, for who has connected to this address, and sent these headers."""

MAX_CONNECTIONS: Final = 256
MAX_HEAD: Final = 16 * 1024
IDLE: Final = 75.0  # seconds, for a whole request or without one

_log: Final = logging.getLogger("sidecar")


class PageServer:
    """One listening port. `start`, then `close`."""

    def __init__(self, pages: Pages, local: LocalPages | None = None) -> None:
        self.pages = pages
        self.local = local or {}
        self.connections: dict[_Connection, None] = {}  # the oldest first
        self._servers: list[asyncio.Server] = []

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Where it listens; `::` is every address. Raises OSError where it cannot be had."""
        self._servers = await listening.listen(lambda: _Connection(self), host, port)
        name = self._servers[0].sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop listening, end every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # aborted transports tell their protocols in the next turn


class _Connection(asyncio.Protocol):
    """One client, one request at a time."""

    def __init__(self, server: PageServer) -> None:
        self._server = server
        self._held = b""
        self._full = False  # the client does not take what we write
        self._task: asyncio.Task[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio says BaseTransport; that of a stream can write.
        self._transport = transport  # type: ignore[assignment]
        others = self._server.connections
        if len(others) >= MAX_CONNECTIONS:
            # Whoever holds them all would else keep a kubelet out, and so end the pod.
            oldest = next((each for each in others if each._task is None), next(iter(others)))
            del others[oldest]
            oldest.abort()
        others[self] = None
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._held += data
        if self._task is None and not self._full:
            self._read()
        elif len(self._held) > MAX_HEAD:
            self.abort()  # sends on and on without reading an answer

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._task is None:
            self._read()

    def abort(self) -> None:
        self._transport.abort()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE, self.abort)

    def _read(self) -> None:
        if not self._held or self._full:
            return
        try:
            end = request_head_end(self._held, 0, MAX_HEAD)
            if end < 0:
                return
            head = parse_request_head(self._held[:end])
            if head.block.framing is not NONE and head.block.length:
                raise BadRequest("a page takes no body")
        except BadRequest as error:
            self._write(answers.bad_request(error), version=1, keep_alive=False, body=True)
            return
        self._held = self._held[end:]
        self._task = asyncio.get_running_loop().create_task(self._page(head))
        self._task.add_done_callback(partial(self._made, head))

    async def _page(self, head: RequestHead) -> Answer:
        page, local = self._server.pages.get(head.path), self._server.local.get(head.path)
        if page is None and local is None:
            return answers.no_page((*self._server.pages, *self._server.local))
        if head.method not in ("GET", "HEAD"):
            return answers.read_only()
        if page is not None:
            return await page()
        sockname = self._transport.get_extra_info("sockname")
        if local is None:
            return answers.broken_page()
        return await local(str(sockname[0]), head.block.headers)

    def _made(self, head: RequestHead, task: asyncio.Task[Answer]) -> None:
        if task is not self._task or task.cancelled():
            return
        self._task = None
        error = task.exception()
        if error is not None:
            _log.error("a page could not be made", exc_info=error)
        answer = task.result() if error is None else answers.broken_page()
        keep_alive = head.block.keep_alive and head.block.framing is NONE
        self._write(answer, head.version, keep_alive=keep_alive, body=head.method != "HEAD")
        if keep_alive:
            self._wait()
            self._read()

    def _write(self, answer: Answer, version: int, *, keep_alive: bool, body: bool) -> None:
        self._transport.write(
            answer_bytes(
                answer, version=version, keep_alive=keep_alive, body=body, date=date_line()
            )
        )
        if not keep_alive:
            self._held = b""
            self._transport.close()
