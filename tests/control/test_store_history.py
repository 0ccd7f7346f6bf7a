"""What the store keeps besides releases, against each database: who builds on whom, rollouts, the
audit trail; and that nobody can change what is history, whoever tries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control import audit, expiries
from sidecar.control.releases import By
from sidecar.control.rollouts.plan import Plan, Rollout, Stage
from sidecar.control.rollouts.rows import keep_baseline, read_rollouts
from sidecar.control.store import Draft, Store
from sidecar.errors import StoreFailed
from sidecar.facts.audit import START, broken
from sidecar.facts.releases import Manifest
from tests.postgresql import new_database
from tests.publishing import policy

PLAN = Plan((Stage(0.5), Stage(1.0)))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}" if request.param == "sqlite" else new_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await Store.open(url, clock=lambda: 1000.5)
    yield opened
    await opened.close()


def rollout(version: int = 2, stable: int = 1) -> Rollout:
    return Rollout("default", version, stable, PLAN, "alice", 1000.5)


async def test_a_release_says_who_made_it_why_and_what_it_builds_on(store: Store) -> None:
    await store.publish([Draft("default", None, (policy("a"),))])
    by = By("alice", message="more", approver="bob", asked=900.0)
    made = await store.publish([Draft("default", 1, (policy("b"),), parent=1)], by)
    found = await store.release("default", 2)
    assert found == made[0]
    assert found is not None
    assert (found.author, found.message, found.approver) == ("alice", "more", "bob")
    assert (found.asked, found.created, found.parent, found.restores) == (900.0, 1000.5, 1, None)
    assert await store.release("default", 3) is None
    first = await store.release("default", 1)
    assert first is not None
    assert first.parent is None


async def test_what_is_enforced_is_the_newest_that_no_rollout_holds_back(store: Store) -> None:
    await store.publish([Draft("default", None, (policy("a"),))])
    await store.publish([Draft("default", 1, (policy("b"),), rollout=rollout())])
    found = {each.stable.namespace: each for each in await store.published()}["default"]
    assert (found.stable.version, found.newest) == (1, 2)
    assert found.candidate is not None
    assert found.candidate.version == 2
    assert found.rollout == rollout()
    assert found.parents == {1: None, 2: 1}

    aborted = await store.steer(replace(rollout(), state="aborted", ended=1001.0), By("bob"))
    assert aborted is not None
    found = (await store.published(["default"]))[0]
    assert (found.stable.version, found.candidate, found.newest) == (1, None, 2)

    # The next one builds on what is enforced, and not on what was taken back.
    draft = Draft("default", 2, (policy("c"),), parent=1, rollout=rollout(3))
    await store.publish([draft])
    done = await store.steer(replace(rollout(3), state="completed", ended=1002.0), By("bob"))
    assert done is not None
    found = (await store.published(["default"]))[0]
    assert (found.stable.version, found.newest) == (3, 3)
    assert found.parents == {1: None, 2: 1, 3: 1}


async def test_of_two_who_steer_at_a_time_one_is_late(store: Store) -> None:
    await store.publish([Draft("default", None, ())])
    await store.publish([Draft("default", 1, (policy(),), rollout=rollout())])
    first = rollout()
    outcomes = await asyncio.gather(
        *(store.steer(replace(first, reason=f"r{n}"), By(f"p{n}")) for n in range(6))
    )
    assert sum(outcome is not None for outcome in outcomes) == 1
    async with store.transaction() as connection:
        kept = await read_rollouts(connection, namespaces=["default"])
    assert kept == [next(outcome for outcome in outcomes if outcome is not None)]
    assert kept[0].revision == 1


async def test_what_it_is_compared_with_stays_with_it_and_makes_nobody_late(store: Store) -> None:
    await store.publish([Draft("default", None, ())])
    await store.publish([Draft("default", 1, (policy(),), rollout=rollout())])
    async with store.transaction() as connection:
        assert (await read_rollouts(connection))[0].baseline == ""
        await keep_baseline(connection, rollout(), "[1]")
        await keep_baseline(connection, rollout(7), "[2]")
    changed = await store.steer(replace(rollout(), stage=1), By("bob"))
    assert changed is not None
    found = (await store.published(["default"]))[0].rollout
    assert found is not None
    assert (found.stage, found.baseline) == (1, "[1]")


async def test_everything_done_is_in_a_chain_that_holds(store: Store, url: str) -> None:
    await asyncio.gather(
        *(store.publish([Draft(f"n{n}", None, ())], By(f"p{n}", message="m")) for n in range(8))
    )
    await store.rotate_key(By("alice", "rotate-key"))
    with pytest.raises(StoreFailed):
        await store.publish([Draft("n0", None, ())], By("late"))
    await store.close()
    again = await Store.open(url)
    async with again.transaction() as connection:
        records = await audit.read(connection, 0, 1000)
        head = await audit.head(connection)
        newest = await audit.read(connection, 0, 2, newest=True)
    assert broken(records, START) == (head, "")
    bodies = [orjson.loads(record.content) for record in records]
    assert sorted(body["by"] for body in bodies) == sorted([*(f"p{n}" for n in range(8)), "alice"])
    assert [body["action"] for body in bodies] == ["apply"] * 8 + ["rotate-key"]
    assert [record.number for record in newest] == [9, 8]
    release = await again.release("n3", 1)
    assert release is not None
    mine = next(body for body in bodies if body["by"] == "p3")
    assert mine["about"]["releases"] == {"n3@1": release.signed.digest}
    assert mine["at"] == 1000.5
    await again.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET content = hash",
        "DELETE FROM audit",
        "UPDATE contents SET canonical = '{}'",
        "DELETE FROM contents",
        "UPDATE entries SET sha256 = ''",
        "DELETE FROM entries",
        "DELETE FROM releases",
        "INSERT OR REPLACE INTO audit SELECT number, hash, hash FROM audit",
        "INSERT OR REPLACE INTO contents SELECT sha256, '{}' FROM contents",
        "UPDATE releases SET manifest = ''",
        "UPDATE releases SET author = 'mallory'",
        "UPDATE releases SET version = version + 10",
    ],
)
async def test_history_cannot_be_changed_in_the_database(store: Store, statement: str) -> None:
    await store.publish([Draft("default", None, (policy(),))])
    with pytest.raises((StoreFailed, DBAPIError)):
        async with store.transaction() as connection:
            await connection.execute(text(statement))
    found = await store.release("default", 1)
    assert found is not None
    assert found.documents == (policy(),)


async def test_a_transaction_that_fails_leaves_no_record(store: Store) -> None:
    async def also(connection: AsyncConnection) -> None:
        await expiries.insert_expiry(connection, "default", 99, 0.0)  # of no such release

    with pytest.raises(StoreFailed):
        await store.publish([Draft("default", None, (policy(),))], By("alice"), also)
    async with store.transaction() as connection:
        assert await audit.head(connection) == START
    assert await store.release("default", 1) is None


async def test_delegated_keys_are_endorsed_and_known_once(store: Store, url: str) -> None:
    await store.delegate(bytes(range(32)), "ci", By("alice", "delegate-signing"))
    with pytest.raises(StoreFailed, match="already"):
        await store.delegate(bytes(range(32)), "other", By("alice", "delegate-signing"))
    await store.close()
    again = await Store.open(url)
    assert [(each.name, each.public_key) for each in again.keys.delegated] == [
        ("ci", bytes(range(32)))
    ]
    assert again.endorsements[0].by == again.public_keys[0]
    await again.close()


async def test_a_store_that_signs_nothing_publishes_nothing_unsigned(store: Store) -> None:
    store.signs = False
    with pytest.raises(StoreFailed, match="signed elsewhere"):
        await store.publish([Draft("default", None, ())])


async def test_releases_of_before_get_their_parents(tmp_path: Path) -> None:
    """A store as the version before this one left it."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = await Store.open(url)
    made = await store.publish([Draft("default", None, (policy(),))])
    manifest = made[0].signed.manifest
    async with store.transaction() as connection:
        for name in ("releases_kept", "releases_unchanged", "releases_no_replace"):
            await connection.execute(text(f"DROP TRIGGER {name}"))
        for table in ("audit", "contents", "entries"):
            for what in ("update", "delete", "replace"):
                await connection.execute(text(f"DROP TRIGGER {table}_no_{what}"))
        for table in ("rollouts", "proposals", "expiries", "delegated_keys", "audit", "replicas",
                      "roster"):  # fmt: skip
            await connection.execute(text(f"DROP TABLE {table}"))
        for column in ("author", "approver", "message", "parent", "restores", "asked", "created",
                       "settled"):  # fmt: skip
            await connection.execute(text(f"ALTER TABLE releases DROP COLUMN {column}"))
        second = replace(Manifest.from_bytes(manifest), version=2, issued=77).to_bytes()
        await connection.execute(
            text(
                "INSERT INTO releases (namespace, version, floor, issued, manifest) "
                "VALUES ('default', 2, 0, 77, :manifest)"
            ),
            {"manifest": second},
        )
        await connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    await store.close()
    again = await Store.open(url)
    found = (await again.published(["default"]))[0]
    assert found.parents == {1: None, 2: 1}
    assert (found.stable.version, found.stable.author, found.stable.created) == (2, "", 77.0)
    await again.close()
