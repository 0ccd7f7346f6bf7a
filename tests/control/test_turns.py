"""Publishing beside checks that take their time: nobody waits who need not, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.control.applications import Application, Result
from sidecar.control.authority import Caller, Permission
from sidecar.control.catalogue import Catalogue
from sidecar.control.publish import Publisher
from sidecar.control.store import Store
from sidecar.decide.documents import Document
from sidecar.errors import Problem
from tests.publishing import WITHIN, policy


class Desk:
    """A publisher over a real store. Checking what has a document named `slow` waits for `go`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.catalogue = Catalogue()
        self.publisher = Publisher(store, self.catalogue, self._validate, lambda _: None)
        self.go = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.slow = 0
        self.checked: list[list[str]] = []
        self.news = asyncio.Event()

    def _validate(self, documents: Sequence[Document]) -> list[Problem]:
        self.checked.append([document.name for document in documents])
        if any(document.name == "slow" for document in documents) and not self.go.is_set():
            self.slow += 1
            self.loop.call_soon_threadsafe(self.news.set)
            assert self.go.wait(WITHIN)
        return []

    def apply(self, *documents: Document, **fields: Any) -> asyncio.Task[Result]:
        texts = [document.canonical for document in documents]
        return asyncio.create_task(self.publisher.apply(Application(texts, **fields)))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not condition():
                await self.news.wait()
                self.news.clear()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    made = Desk(store)
    await made.publisher.refresh()
    yield made
    made.go.set()
    await store.close()


@pytest.mark.parametrize("namespace", ["default", "other"])
async def test_nobody_waits_for_a_dry_run(desk: Desk, namespace: str) -> None:
    dry = desk.apply(policy("slow"), dry_run=True)
    await desk.until(lambda: desk.slow == 1)
    async with asyncio.timeout(WITHIN):
        assert (await desk.apply(policy("a", namespace))).outcome == "published"
        assert (await desk.publisher.rollback(namespace, 0, Application(()))).outcome == "refused"
    assert not dry.done()
    desk.go.set()
    assert (await dry).outcome == "would_publish"


async def test_nor_for_another_dry_run_to_be_checked(desk: Desk) -> None:
    dry = [desk.apply(policy("slow", f"n{n}"), dry_run=True) for n in range(8)]
    await desk.until(lambda: desk.slow == 1)
    async with asyncio.timeout(WITHIN):
        assert (await desk.apply(policy("a"))).outcome == "published"
    assert desk.slow == 1
    desk.go.set()
    assert {result.outcome for result in await asyncio.gather(*dry)} == {"would_publish"}


async def test_nobody_takes_all_the_dry_runs_that_there_can_be(desk: Desk) -> None:
    viewers = [Caller(name, (Permission("viewer"),)) for name in "abcde"]

    def tried(who: Caller) -> asyncio.Task[Result]:
        application = Application([policy("slow").canonical], dry_run=True)
        return asyncio.create_task(desk.publisher.apply(application, who))

    under_way = [tried(viewers[0]) for _ in range(4)]
    await desk.until(lambda: desk.slow == 1)
    over = await tried(viewers[0])
    assert [each.message for each in over.problems] == ["too many dry runs are under way"]
    under_way += [tried(who) for who in viewers[1:4] for _ in range(4)]
    assert (await tried(viewers[4])).outcome == "refused"
    desk.go.set()
    assert {result.outcome for result in await asyncio.gather(*under_way)} == {"would_publish"}
    assert (await tried(viewers[4])).outcome == "would_publish"


async def test_what_takes_long_in_one_namespace_keeps_nobody_from_another(desk: Desk) -> None:
    slow = desk.apply(policy("slow", "one"))
    await desk.until(lambda: desk.slow == 1)
    async with asyncio.timeout(WITHIN):
        for n in range(9):  # more often than there are attempts: it is not what was checked
            assert (await desk.apply(policy("a", "two", path=f"/{n}"))).outcome == "published"
    desk.go.set()
    assert (await slow).outcome == "published"
    assert sum("slow" in names for names in desk.checked) == 1


async def test_what_has_moved_meanwhile_is_checked_anew(desk: Desk) -> None:
    slow = desk.apply(policy("slow", "one"))
    await desk.until(lambda: desk.slow == 1)
    async with asyncio.timeout(WITHIN):
        assert (await desk.apply(policy("new", "platform"))).outcome == "published"
    desk.go.set()
    assert (await slow).outcome == "published"
    assert ["new", "slow"] in desk.checked


async def test_platform_is_checked_again_only_with_what_has_moved(desk: Desk) -> None:
    await desk.apply(policy("a", "one"))
    await desk.apply(policy("b", "two"))
    slow = desk.apply(policy("slow", "platform"))
    await desk.until(lambda: desk.slow == 1)
    async with asyncio.timeout(WITHIN):
        assert (await desk.apply(policy("c", "two"))).outcome == "published"
    desk.go.set()
    assert (await slow).outcome == "published"
    assert desk.checked.count(["slow", "a"]) == 1
    assert ["slow", "b", "c"] in desk.checked


async def test_those_of_one_namespace_come_one_after_the_other(desk: Desk) -> None:
    first = desk.apply(policy("slow"))
    await desk.until(lambda: desk.slow == 1)
    second = desk.apply(policy("b"))
    desk.go.set()
    assert [(await each).releases[0].version for each in (first, second)] == [1, 2]
    assert [each.name for each in desk.catalogue.documents("default")] == ["b", "slow"]
