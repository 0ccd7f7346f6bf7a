"""What the HTTP side keeps to itself."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecar.control import http


async def failing(_request: web.Request) -> web.Response:
    raise ZeroDivisionError


async def status_of(port: int, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    line = await reader.readline()
    writer.close()
    return line.split()[1]


async def test_what_is_no_http_is_answered_and_does_not_reach_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pages = [web.get("/failing", failing)]
    runner = http.runner(http.application(CollectorRegistry(), lambda: True, pages=pages))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        with caplog.at_level(logging.INFO):
            for head in (b"GET /i?ticket=" + b"secret" * 2_000, b"GET /i?ticket=secret\0"):
                assert await status_of(port, head + b" HTTP/1.1\r\nHost: a\r\n\r\n") == b"400"
            assert await status_of(port, b"\0\0\r\n\r\n") == b"400"
            assert caplog.records == []
            fails = b"GET /failing?ticket=secret HTTP/1.1\r\nHost: a\r\n\r\n"
            assert await status_of(port, fails) == b"500"
    finally:
        await runner.cleanup()
    assert [record.exc_info is not None for record in caplog.records] == [True]  # a defect of ours
    assert "secret" not in caplog.text
