"""Publishing: merged, checked as a whole, stored whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.control import applications
from sidecar.control.applications import Application, Result
from sidecar.control.catalogue import Catalogue
from sidecar.control.publish import Publisher
from sidecar.control.store import Draft, Store
from sidecar.decide.documents import Document
from sidecar.errors import Problem, StoreFailed
from tests.publishing import policy


class Desk:
    """A publisher over a real store; `checked` is what was validated, `verdict` what is said."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.catalogue = Catalogue()
        self.checked: list[list[str]] = []
        self.announced: list[str] = []
        self.verdict: list[Problem] = []
        self.publisher = Publisher(store, self.catalogue, self._validate, self._announce)

    def _validate(self, documents: Sequence[Document]) -> list[Problem]:
        self.checked.append([document.ref for document in documents])
        return self.verdict

    def _announce(self, namespaces: Iterable[str]) -> None:
        self.announced += sorted(namespaces)

    async def apply(self, *documents: Document, **fields: Any) -> Result:
        texts = [document.canonical for document in documents]
        return await self.publisher.apply(Application(texts, **fields))

    async def published(self) -> dict[str, list[str]]:
        """What a restart would find."""
        return {
            f"{release.namespace}@{release.version}": [d.name for d in release.documents]
            for release in await self.store.newest()
        }


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    made = Desk(store)
    made.catalogue.take(await store.newest())
    yield made
    await store.close()


def diff(result: Result) -> list[str]:
    return [f"{change.what} {change.document.rpartition('/')[2]}" for change in result.changes]


async def test_documents_are_merged_and_the_difference_is_told(desk: Desk) -> None:
    first = await desk.apply(policy("a"), policy("b"))
    assert (first.outcome, diff(first)) == ("published", ["added a", "added b"])
    second = await desk.apply(policy("b", path="/new"), policy("c"))
    assert diff(second) == ["changed b", "added c"]
    assert await desk.published() == {"default@2": ["a", "b", "c"], "platform@0": []}
    assert desk.announced == ["default", "default"]


async def test_what_is_published_already_makes_no_release(desk: Desk) -> None:
    await desk.apply(policy("a"), policy("b"))
    result = await desk.apply(policy("a"))
    assert (result.outcome, diff(result), list(result.releases)) == (
        "unchanged",
        ["unchanged a"],
        [],
    )
    assert "default@1" in await desk.published()


async def test_prune_removes_what_is_not_given(desk: Desk) -> None:
    await desk.apply(policy("a"), policy("b"), policy("c", "other"))
    result = await desk.apply(policy("b"), prune=True)
    assert diff(result) == ["removed a", "unchanged b"]
    result = await desk.apply(prune=True, namespaces=["other", "never-seen"])
    assert diff(result) == ["removed c"]
    assert await desk.published() == {"default@2": ["b"], "other@2": [], "platform@0": []}


async def test_a_dry_run_tells_and_stores_nothing(desk: Desk) -> None:
    desk.verdict = [Problem("careful", warning=True)]
    result = await desk.apply(policy("a"), dry_run=True)
    assert (result.outcome, diff(result)) == ("would_publish", ["added a"])
    assert [problem.message for problem in result.problems] == ["careful"]
    assert await desk.published() == {"platform@0": []}
    assert not desk.announced


async def test_an_error_refuses_everything_and_a_warning_nothing(desk: Desk) -> None:
    desk.verdict = [Problem("bad", file="f", line=1, document="AccessPolicy/default/a")]
    refused = await desk.apply(policy("a"), policy("b", "other"))
    assert refused.outcome == "refused"
    assert refused.problems == [Problem("bad", document="AccessPolicy/default/a")]  # said once
    assert await desk.published() == {"platform@0": []}
    desk.verdict = [Problem("careful", warning=True)]
    published = await desk.apply(policy("a"))
    assert published.outcome == "published"
    assert published.problems == desk.verdict


async def test_each_namespace_is_checked_with_platform_and_platform_with_each(desk: Desk) -> None:
    await desk.apply(policy("a"), policy("b", "other"))
    assert desk.checked == [["AccessPolicy/default/a"], ["AccessPolicy/other/b"]]
    desk.checked.clear()
    await desk.apply(policy("p", "platform"))
    assert desk.checked == [
        ["AccessPolicy/platform/p", "AccessPolicy/default/a"],
        ["AccessPolicy/platform/p", "AccessPolicy/other/b"],
        ["AccessPolicy/platform/p"],
    ]
    desk.checked.clear()
    await desk.apply(policy("c"))
    assert desk.checked == [
        ["AccessPolicy/platform/p", "AccessPolicy/default/a", "AccessPolicy/default/c"]
    ]


async def test_several_namespaces_are_one_apply(desk: Desk) -> None:
    result = await desk.apply(policy("a"), policy("b", "other"), policy("c", "platform"))
    assert [(r.namespace, r.version) for r in result.releases] == [
        ("default", 1), ("other", 1), ("platform", 1),
    ]  # fmt: skip


async def test_documents_that_are_none_are_refused(desk: Desk) -> None:
    for texts in ([b"\xff"], [b"{}"], [b""], [policy("a").canonical, policy("a").canonical]):
        result = await desk.publisher.apply(Application(texts))
        assert result.outcome == "refused"
        assert result.problems
    assert await desk.published() == {"platform@0": []}


async def test_a_stale_base_is_a_conflict_and_names_the_newest(desk: Desk) -> None:
    await desk.apply(policy("a"))
    for base in ({"default": 0}, {"default": 2}, {"unknown": 1}):
        result = await desk.apply(policy("b"), base_versions=base)
        assert result.outcome == "conflict"
    stale = await desk.apply(policy("b"), base_versions={"default": 9})
    assert [release.version for release in stale.releases] == [1]
    assert (await desk.apply(policy("b"), base_versions={"default": 1})).outcome == "published"


async def test_publishers_at_the_same_moment_both_get_through_and_nothing_is_lost(
    desk: Desk,
) -> None:
    results = await asyncio.gather(*(desk.apply(policy(f"p{n}")) for n in range(10)))
    assert {result.outcome for result in results} == {"published"}
    assert sorted(r.releases[0].version for r in results) == list(range(1, 11))
    assert (await desk.published())["default@10"] == sorted(f"p{n}" for n in range(10))


async def test_what_another_replica_published_is_merged_and_not_overwritten(desk: Desk) -> None:
    await desk.store.publish([Draft("default", None, (policy("theirs"),))])
    result = await desk.apply(policy("ours"))
    assert result.outcome == "published"
    assert await desk.published() == {"default@2": ["ours", "theirs"], "platform@0": []}
    assert desk.announced == ["default", "default"]


async def test_a_raised_floor_is_a_release_of_its_own(desk: Desk) -> None:
    await desk.apply(policy("a"))
    result = await desk.apply(policy("a"), raise_floor=True)
    assert [(r.version, r.manifest.floor) for r in result.releases] == [(2, 2)]


async def test_too_large_a_namespace_is_refused_before_it_is_checked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applications, "MAX_NAMESPACE", len(policy("a").canonical))
    assert (await desk.apply(policy("a"))).outcome == "published"
    desk.checked.clear()
    result = await desk.apply(policy("b"))
    assert result.outcome == "refused"
    assert "split it" in result.problems[0].hint
    assert not desk.checked


async def test_a_store_that_fails_publishes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: Any) -> None:
        raise StoreFailed("disk full")

    monkeypatch.setattr(desk.store, "publish", fail)
    with pytest.raises(StoreFailed, match="disk full"):
        await desk.apply(policy("a"))
    assert desk.catalogue.newest("default") is None
    assert not desk.announced


async def test_a_document_that_cannot_be_read_for_a_bug_of_ours_is_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(data: bytes) -> Document:
        raise RuntimeError("a bug")

    monkeypatch.setattr(applications, "from_canonical", fails)
    result = await desk.apply(policy("a"))
    assert result.outcome == "refused"
    assert [(p.document, p.message) for p in result.problems] == [
        ("AccessPolicy/default/a", "internal error: RuntimeError: a bug")
    ]
    result = await desk.publisher.apply(Application([b"x"]))
    assert result.problems[0].document == "document 1 of those applied"


async def test_a_document_that_cannot_be_validated_for_a_bug_of_ours_is_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(documents: Sequence[Document]) -> list[Problem]:
        if any(document.name == "bad" for document in documents):
            raise RuntimeError("a bug")
        return []

    monkeypatch.setattr(desk.publisher._publication._checking, "_validate", fails)
    result = await desk.apply(policy("good"), policy("bad"))
    assert result.outcome == "refused"
    assert [problem.document for problem in result.problems] == ["AccessPolicy/default/bad"]
    assert await desk.published() == {"platform@0": []}
    assert (await desk.apply(policy("good"))).outcome == "published"
