"""Events on their way to other systems: a real server that fails in every way, and a file."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.control.store import Store
from sidecar.control.subjects import delivery as module
from sidecar.control.subjects.delivery import Delivery, NotTaken
from sidecar.control.subjects.store import SubjectStore
from tests.control.subjects.callers import caller, known
from tests.control.subjects.conftest import Clock
from tests.postgresql import new_database
from tests.publishing import WITHIN


class Sink:
    """Takes batches, or does with them what `script` says next."""

    def __init__(self) -> None:
        self.script: list[int | str] = []
        self.batches: list[list[dict[str, Any]]] = []
        self.came: list[web.Request] = []
        self.elsewhere = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.came.append(request)
        wanted = self.script.pop(0) if self.script else 202
        if wanted == "take and die":
            self.batches.append(body)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if wanted == "die":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if wanted == "redirect":
            return web.Response(status=307, headers={"location": "/elsewhere"})
        assert isinstance(wanted, int)
        if 200 <= wanted < 300:
            self.batches.append(body)
        return web.Response(status=wanted)

    async def other(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()

    def ids(self) -> list[str]:
        return [each["id"] for batch in self.batches for each in batch]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    made = Sink()
    app = web.Application()
    app.router.add_post("/events", made.take)
    app.router.add_route("*", "/elsewhere", made.other)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    yield made
    await runner.cleanup()


def delivery(store: Store, subjects: SubjectStore, sink: str, clock: Clock) -> Delivery:
    return Delivery(subjects, store.engine, sink, "urn:test", clock)


async def happen(subjects: SubjectStore, number: int, who: str = "alice") -> str:
    """So many events of somebody; their id."""
    record = await known(subjects, caller(who))
    for place in range(number):
        data = {"place": place}
        await subjects.report(record.customer, "sidecar.request.refused", data)
    return record.customer


async def test_events_come_as_cloudevents_in_batches_and_in_order(
    store: Store, subjects: SubjectStore, sink: Sink, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    customer = await happen(subjects, 4)
    going = delivery(store, subjects, sink.url, clock)
    assert [await going.step() for _ in range(3)] == [3, 2, 0]
    first = sink.batches[0][0]
    assert first == {
        "specversion": "1.0", "id": first["id"], "source": "urn:test",
        "type": "sidecar.subject.linked", "subject": customer, "time": "1970-01-12T13:46:40Z",
        "datacontenttype": "application/json", "sequence": first["sequence"],
        "data": {"kind": "created", "type": "subject"},
    }  # fmt: skip
    assert sink.came[0].content_type == "application/cloudevents-batch+json"
    sent = [each for batch in sink.batches for each in batch]
    assert [each["data"].get("place") for each in sent] == [None, 0, 1, 2, 3]
    assert [each["sequence"] for each in sent] == sorted(each["sequence"] for each in sent)
    assert len(set(sink.ids())) == 5
    assert going.delivered == 5


@pytest.mark.parametrize("failure", [500, 400, 304, 199 + 201, "redirect", "die"])
async def test_what_was_not_taken_is_sent_again_before_anything_else(
    store: Store, subjects: SubjectStore, sink: Sink, clock: Clock, failure: int | str
) -> None:
    await happen(subjects, 1)
    going = delivery(store, subjects, sink.url, clock)
    sink.script = [failure] * 2
    for _ in range(2):
        with pytest.raises(NotTaken):
            await going.step()
    clock.now += 5.0
    assert going.lag() == 5.0
    await happen(subjects, 1, "bob")
    while await going.step():
        pass
    assert going.lag() == 0.0
    assert len(sink.ids()) == len(set(sink.ids())) == 4
    assert sink.elsewhere == 0


async def test_what_was_taken_without_a_word_comes_twice_with_the_same_ids(
    store: Store, subjects: SubjectStore, sink: Sink, clock: Clock
) -> None:
    await happen(subjects, 1)
    going = delivery(store, subjects, sink.url, clock)
    sink.script = ["take and die"]
    with pytest.raises(NotTaken):
        await going.step()
    await going.step()
    assert sink.batches[0] == sink.batches[1]


async def test_nobody_at_the_address_is_a_failure_like_any_other(
    store: Store, subjects: SubjectStore, sink: Sink, clock: Clock
) -> None:
    await happen(subjects, 1)
    going = delivery(store, subjects, "http://127.0.0.1:1/events", clock)
    with pytest.raises(NotTaken):
        await going.step()
    assert await delivery(store, subjects, sink.url, clock).step() == 2


async def test_it_goes_on_where_it_was_after_a_restart(
    url: str, store: Store, subjects: SubjectStore, sink: Sink, clock: Clock
) -> None:
    await happen(subjects, 2)
    assert await delivery(store, subjects, sink.url, clock).step() == 3
    await happen(subjects, 1)
    await store.close()
    again = await Store.open(url, clock=clock)
    assert await delivery(again, SubjectStore(again.engine, clock), sink.url, clock).step() == 1
    await again.close()
    assert len(sink.ids()) == len(set(sink.ids())) == 4


async def test_failures_are_followed_by_growing_pauses_and_a_success_ends_them(
    store: Store, subjects: SubjectStore, sink: Sink, clock: Clock
) -> None:
    pauses: list[float] = []
    taken = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if sink.batches:
            taken.set()
        await asyncio.sleep(0)

    await happen(subjects, 1)
    sink.script = [500] * 9
    going = Delivery(subjects, store.engine, sink.url, "urn:test", clock, sleep=sleep)
    task = asyncio.create_task(going.run())
    async with asyncio.timeout(WITHIN):
        await taken.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pauses[:9] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert pauses[9] == 0
    assert going.failures == 9


async def test_a_file_takes_a_line_each_and_is_its_owners_alone(
    store: Store, subjects: SubjectStore, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    going = delivery(store, subjects, str(path), clock)
    for _ in range(2):
        await happen(subjects, 2)
        await going.step()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["data"].get("place") for each in lines] == [None, 0, 1, 0, 1]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_took_a_part_holds_no_half_a_line(
    store: Store,
    subjects: SubjectStore,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "events.jsonl"
    going = delivery(store, subjects, str(path), clock)
    await happen(subjects, 1)
    await going.step()
    await happen(subjects, 1)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NotTaken):
        await going.step()
    monkeypatch.undo()
    await going.step()
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 3


async def test_of_two_control_planes_on_one_store_one_delivers(sink: Sink, clock: Clock) -> None:
    url = await asyncio.to_thread(new_database)
    stores = [await Store.open(url, clock=clock) for _ in range(2)]
    going = [delivery(each, SubjectStore(each.engine, clock), "", clock) for each in stores]
    async with going[0]._alone() as first, going[1]._alone() as second:
        assert (first, second) == (True, False)
    async with going[1]._alone() as second:
        assert second
    for each in stores:
        await each.close()
