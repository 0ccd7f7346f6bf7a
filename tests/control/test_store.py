"""The store, against each database that it supports: nothing lost, nothing overwritten."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

import sidecar.control.subjects.schema  # noqa: F401  its tables are in the same metadata
from sidecar.control.schema import metadata
from sidecar.control.store import Conflict, Draft, Store
from sidecar.errors import Misuse, StoreFailed
from sidecar.facts.releases import verify_assignment
from sidecar.facts.signing import TrustedKeys
from tests.postgresql import new_database
from tests.publishing import policy


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}" if request.param == "sqlite" else new_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await Store.open(url, clock=lambda: 1000.0)
    yield opened
    await opened.close()


async def test_a_new_store_has_a_key_and_an_empty_platform(store: Store) -> None:
    releases = await store.newest()
    assert [(r.namespace, r.version, r.documents) for r in releases] == [("platform", 0, ())]
    assert len(store.public_keys) == 1
    assert not store.endorsements


async def test_releases_survive_a_restart_and_verify(store: Store, url: str) -> None:
    documents = (policy("a"), policy("b", selector={"app": "x"}))
    made = await store.publish([Draft("default", None, documents)])
    await store.close()
    again = await Store.open(url)
    found = await again.newest()
    assert [r.namespace for r in found] == ["default", "platform"]
    assert found[0] == made[0]
    assert found[0].manifest.issued == 1000
    assert again.public_keys == store.public_keys
    assignment = verify_assignment(
        [release.signed for release in found], documents, namespace="default",
        labels={"app": "x"}, trust=TrustedKeys(frozenset(again.public_keys)), floors={},
    )  # fmt: skip
    assert assignment.versions == {"default": 1, "platform": 0}
    await again.close()


async def test_versions_count_up_within_each_namespace(store: Store) -> None:
    await store.publish([Draft("a", None, (policy(namespace="a"),))])
    releases = await store.publish(
        [Draft("a", 1, ()), Draft("b", None, ()), Draft("platform", 0, ())]
    )
    assert [(r.namespace, r.version) for r in releases] == [("a", 2), ("b", 1), ("platform", 1)]
    newest = await store.newest(["a", "b"])
    assert [(r.namespace, r.version, len(r.documents)) for r in newest] == [
        ("a", 2, 0),
        ("b", 1, 0),
    ]


async def test_two_publishers_never_overwrite_each_other(store: Store) -> None:
    await store.publish([Draft("default", None, ())])
    outcomes = await asyncio.gather(
        *(store.publish([Draft("default", 1, (policy(f"p{n}"),))]) for n in range(8)),
        return_exceptions=True,
    )
    made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert (len(made), len(refused)) == (1, 7)
    assert await store.newest(["default"]) == made[0]


async def test_all_drafts_are_stored_or_none(store: Store) -> None:
    await store.publish([Draft("b", None, ())])
    with pytest.raises(Conflict) as conflict:
        await store.publish([Draft("a", None, (policy(namespace="a"),)), Draft("b", None, ())])
    assert conflict.value.newest == {"b": 1}
    assert await store.newest(["a"]) == []


async def test_a_floor_is_carried_on_until_it_is_raised(store: Store) -> None:
    floors = []
    for base, raises in ((None, False), (1, True), (2, False), (3, True)):
        made = await store.publish([Draft("default", base, (), raises)])
        floors.append(made[0].manifest.floor)
    assert floors == [0, 2, 2, 4]


async def test_equal_contents_are_stored_once(store: Store, url: str) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("looks into the SQLite file")
    await store.publish([Draft("default", None, (policy(),))])
    await store.publish([Draft("default", 1, (policy(), policy("q")))])
    await store.close()
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from contents")).scalar() == 2
        assert connection.execute(text("select count(*) from releases")).scalar() == 3
        assert connection.execute(text("pragma journal_mode")).scalar() == "wal"
    engine.dispose()


async def test_a_key_rotates_and_sidecars_that_pinned_the_old_one_go_on(
    store: Store, url: str
) -> None:
    await store.publish([Draft("default", None, (policy(),))])
    old = store.public_keys[0]
    new = await store.rotate_key()
    await store.publish([Draft("platform", 0, (policy("x", "platform"),))])
    await store.close()
    again = await Store.open(url)
    assert again.public_keys == (old, new)
    releases = await again.newest()
    for pinned in (old, new):
        assignment = verify_assignment(
            [release.signed for release in releases],
            [document for release in releases for document in release.documents],
            namespace="default", labels={}, trust=TrustedKeys(frozenset([pinned])), floors={},
            endorsements=again.endorsements,
        )  # fmt: skip
        assert assignment.versions == {"default": 1, "platform": 1}
    await again.close()


async def test_the_migrations_make_the_tables_that_queries_name(store: Store, url: str) -> None:
    await store.close()
    if not url.startswith("sqlite"):
        pytest.skip("compared once, on SQLite")

    def differences(connection: Connection) -> list[object]:
        found: list[object] = compare_metadata(MigrationContext.configure(connection), metadata)
        return found

    engine = create_engine(url)
    with engine.connect() as connection:
        assert differences(connection) == []
    engine.dispose()


async def test_a_store_of_a_newer_version_is_refused(store: Store, url: str) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("changes the SQLite file")
    await store.close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreFailed, match="newer version"):
        await Store.open(url)


async def test_one_control_plane_to_an_sqlite_file_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "made" / "store.db"
    store = await Store.open(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(StoreFailed, match="in use by another control plane"):
        await Store.open(f"sqlite:///{path}")
    await store.close()
    await (await Store.open(f"sqlite:///{path}")).close()


@pytest.mark.parametrize(
    "url",
    ["", "store.db", "mysql://host/db", "sqlite://", "sqlite:///relative.db", "sqlite:///:memory:"],
)
async def test_a_url_that_names_no_store_is_misuse(url: str) -> None:
    with pytest.raises(Misuse, match="--store"):
        await Store.open(url)


async def test_a_store_that_is_no_database_is_a_clear_failure(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("this is no database, and long enough to be looked at\n" * 9)
    with pytest.raises(StoreFailed, match="not a database"):
        await Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    with pytest.raises(StoreFailed, match="cannot be opened"):
        await Store.open(f"sqlite:///{tmp_path / 'store.db' / 'below'}")


async def test_a_password_in_the_url_is_not_repeated() -> None:
    with pytest.raises(Misuse) as misuse:
        await Store.open("mysql://user:secret@host/db")
    assert "secret" not in str(misuse.value)
