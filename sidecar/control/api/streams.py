"""Answers that go on: JSON values, one to a line, for as long as somebody listens and may.

A last line that is a problem (it has a `status`) says why it ends; without one the time of a stream
is over, or the control plane stops, and who still wants to know comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import orjson
from aiohttp import web
from google.protobuf.message import Message

from sidecar.control.api import messages, problems
from sidecar.control.api.problems import HEADERS, Refused
from sidecar.control.authority import Unauthenticated

LONGEST: Final = 3600.0  # seconds
BEAT: Final = 15.0  # seconds after which an empty line finds out whether anybody still listens
CONTENT_TYPE: Final = "application/x-ndjson"


class Gone(Exception):
    """Nobody listens any more."""


class Lines:
    """One answer; it begins with the first line."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={**HEADERS, "content-type": CONTENT_TYPE})

    @property
    def begun(self) -> bool:
        """Whether it has a status already."""
        return self.response.prepared

    async def write(self, message: Message) -> None:
        """Raises Gone."""
        await self._write(messages.json_of(message) + b"\n")

    async def beat(self) -> None:
        """Raises Gone."""
        if self.begun:
            await self._write(b"\n")

    async def end(self, refused: Refused | None) -> None:
        """Raises Gone."""
        if refused is not None:
            await self._write(orjson.dumps(problems.body(refused)) + b"\n")
        try:
            await self.response.write_eof()
        except ConnectionError:
            raise Gone from None

    async def _write(self, data: bytes) -> None:
        try:
            if not self.begun:
                await self.response.prepare(self._request)
            await self.response.write(data)
        except ConnectionError:
            raise Gone from None


class Streams:
    """Those of a listener."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[Any]] = set()
        self._closed = False

    def close(self) -> None:
        """Ends them, and begins no more."""
        self._closed = True
        for each in self._open:
            each.cancel()

    async def serve(
        self, lines: Lines, work: Coroutine[Any, Any, Refused | None], left: float
    ) -> web.StreamResponse:
        """Answers with what `work` writes, for at most `left` seconds of the caller's credential.
        Raises Refused where nothing was written."""
        if self._closed:
            work.close()
            raise _stops()
        task = asyncio.create_task(_within(work, left))
        self._open.add(task)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=BEAT)
                if not task.done():
                    await lines.beat()
            refused = None if task.cancelled() else task.result()
            if not lines.begun:
                raise refused or _stops()
            await lines.end(refused)
        except Gone:
            pass
        finally:
            self._open.discard(task)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return lines.response


def _stops() -> Refused:
    return Refused(503, "unavailable", "the control plane stops", retry=1)


async def _within(work: Coroutine[Any, Any, Refused | None], left: float) -> Refused | None:
    try:
        async with asyncio.timeout(min(LONGEST, left)):
            return await work
    except TimeoutError:
        if left > LONGEST:
            return None
        return problems.unauthenticated(
            Unauthenticated("the credential has ended; come with a new one")
        )
