"""What is done again and again goes on."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.control.subjects.service import always
from sidecar.errors import StoreFailed


async def test_what_fails_is_said_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[Exception | None] = [StoreFailed("locked"), ZeroDivisionError(), None, ValueError()]
    done = asyncio.Event()

    async def work() -> None:
        if not ends:
            done.set()
            return
        end = ends.pop(0)
        if end is not None:
            raise end

    task = asyncio.create_task(always(work, 0))
    await asyncio.wait_for(done.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.exc_info is not None for record in caplog.records] == [False, True, True]
