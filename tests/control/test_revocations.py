"""The log of what was withdrawn: what is taken, what is sent to whom, what is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.control import revocations
from sidecar.control.revocations import (
    Cursor,
    NotWithdrawn,
    Numbered,
    RevocationLog,
    TooManyWithdrawn,
    Withdrawal,
    check,
)
from sidecar.control.store import Event, Replayed, Store
from sidecar.control.withdraw import Withdrawer
from sidecar.decide.revocations import target
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Ack, Nack, Push

NOW = 1_800_000_000.0
ALICE = Withdrawal("subject", "https://idp.example", "alice", NOW, NOW + 3600)


def log_of(count: int, id_: str = "log") -> RevocationLog:
    log = RevocationLog(id_)
    log.take(
        (Numbered(n, 0, replace(ALICE, value=f"s{n}")) for n in range(1, count + 1)), NOW
    )  # fmt: skip
    return log


def push(cursor: Cursor, log: RevocationLog) -> Push:
    message = cursor.next(log)
    assert message is not None
    assert message.HasField("push")
    return message.push


def names(found: Push) -> list[str]:
    return [resource.name for resource in found.resources]


def ack(cursor: Cursor, found: Push, warning: str = "") -> bool:
    return cursor.ack(Ack(type=convert.REVOCATION, nonce=found.nonce, warning=warning))


def test_who_holds_all_is_told_so_once() -> None:
    log = log_of(3)
    cursor = Cursor(log.position(3))
    message = cursor.next(log)
    assert message is not None
    assert message.idle.type == convert.REVOCATION
    assert cursor.next(log) is None
    assert cursor.holds(3)


@pytest.mark.parametrize("position", ["", "other:3", "log:", "log:x", "log:-1", "log:" + "9" * 30])
def test_who_holds_another_log_gets_all_of_this_one(position: str) -> None:
    found = push(Cursor(position), log_of(3))
    assert names(found) == ["revocation/1", "revocation/2", "revocation/3"]
    assert (found.position.rpartition(":")[0], found.more) == ("log:3", False)


def test_a_reconnect_is_sent_what_is_new() -> None:
    found = push(Cursor(log_of(3).position(2)), log_of(3))
    assert names(found) == ["revocation/3"]
    revocation = found.resources[0].revocation
    assert revocation.target == target("subject", "https://idp.example", "s3")
    assert (revocation.before_ms, revocation.expires) == (int(NOW) * 1000, int(NOW) + 3600)


def test_a_store_restored_from_a_backup_sends_all_anew() -> None:
    """It gives the same numbers again, for other things: what a sidecar holds is not all of it."""
    before = log_of(3)
    held = before.position(3)
    restored = log_of(1)
    assert names(push(Cursor(held), restored)) == ["revocation/1"]  # beyond its end
    restored.take(
        [Numbered(2, 5, replace(ALICE, value="mallory")), Numbered(3, 5, ALICE)], NOW
    )  # fmt: skip
    found = push(Cursor(held), restored)
    assert names(found) == ["revocation/1", "revocation/2", "revocation/3"]
    assert push(Cursor(restored.position(2)), restored).resources[0].name == "revocation/3"
    restored.forget(NOW + 3600)
    assert Cursor(restored.position(3)).next(restored) is not None


def test_one_unanswered_push_and_the_rest_as_one() -> None:
    log = log_of(1)
    cursor = Cursor("")
    first = push(cursor, log)
    log.take([Numbered(2, 0, ALICE), Numbered(3, 0, ALICE)], NOW)
    assert cursor.next(log) is None
    assert not cursor.holds(1)
    assert not cursor.ack(Ack(nonce="other"))
    assert ack(cursor, first)
    assert cursor.holds(1)
    assert not cursor.holds(2)
    assert names(push(cursor, log)) == ["revocation/2", "revocation/3"]


def test_many_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "BATCH", 2)
    log, cursor = log_of(5), Cursor("")
    seen: list[str] = []
    more = True
    while more:
        found = push(cursor, log)
        seen += names(found)
        more = found.more
        assert ack(cursor, found)
    assert seen == [f"revocation/{n}" for n in range(1, 6)]
    assert cursor.next(log) is None
    assert cursor.holds(5)


def test_what_is_refused_is_tried_again_with_the_next() -> None:
    log, cursor = log_of(1), Cursor("")
    first = push(cursor, log)
    assert cursor.nack(Nack(nonce=first.nonce, error="full"), log)
    assert cursor.next(log) is None
    assert (cursor.refuses(1), cursor.last_error) == (True, "full")
    log.take([Numbered(2, 0, ALICE)], NOW)
    second = push(cursor, log)
    assert names(second) == ["revocation/1", "revocation/2"]
    assert ack(cursor, second, "disk full")
    assert (cursor.refuses(1), cursor.holds(2), cursor.last_error) == (False, True, "disk full")


def test_the_expired_are_forgotten_and_never_sent() -> None:
    log = RevocationLog("log")
    log.take(
        [Numbered(1, 0, replace(ALICE, expires=NOW + 1)), Numbered(2, 0, ALICE)], NOW
    )  # fmt: skip
    log.forget(NOW + 1)
    assert len(log) == 1
    assert names(push(Cursor(""), log)) == ["revocation/2"]
    second = log.position(2)
    log.take([Numbered(3, 0, replace(ALICE, expires=NOW))], NOW)
    found = push(Cursor(second), log)
    assert (names(found), found.position) == ([], log.position(3))


def test_found_newest_first() -> None:
    log = log_of(5)
    assert [each.number for each in log.found("", "", 2)] == [5, 4]
    assert [each.number for each in log.found("https://idp.example", "s2", 10)] == [2]
    assert log.found("https://other.example", "", 10) == []


@pytest.mark.parametrize(
    "bad",
    [
        replace(ALICE, kind="everything"),  # type: ignore[arg-type]  # as the wire could bring it
        replace(ALICE, issuer=""),
        replace(ALICE, value=""),
        replace(ALICE, value="x" * 4097),
        replace(ALICE, value="a\0b"),
        replace(ALICE, issuer="\ud800"),
        replace(ALICE, reason="r" * 1025),
        replace(ALICE, expires=NOW),
        replace(ALICE, expires=NOW + 401 * 86_400),
        replace(ALICE, expires=float("nan")),
        replace(ALICE, before=NOW + 301),
        replace(ALICE, before=-1.0),
    ],
)
def test_what_makes_no_sense_is_refused(bad: Withdrawal) -> None:
    with pytest.raises(NotWithdrawn):
        check([ALICE, bad], NOW)
    check([ALICE], NOW)


async def withdrawer(folder: Path, log: RevocationLog, told: list[int]) -> tuple[Store, Withdrawer]:
    store = await Store.open(f"sqlite:///{folder / 'store.db'}", clock=lambda: NOW)
    made = Withdrawer(store, log, lambda: told.append(log.newest), lambda: NOW)
    await made.load()
    return store, made


async def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    told: list[int] = []
    store, first = await withdrawer(tmp_path, RevocationLog("log"), told)
    assert await first.withdraw([ALICE, replace(ALICE, value="bob", before=None)]) == 2
    await store.close()
    log = RevocationLog("log")
    store, second = await withdrawer(tmp_path, log, told)
    assert [each.withdrawal.value for each in log.found("", "", 10)] == ["bob", "alice"]
    assert log.found("", "alice", 1)[0].withdrawal == ALICE
    assert await second.withdraw([ALICE]) == 3
    await store.close()
    assert told == [2, 3]


async def test_a_number_is_never_given_twice_although_rows_are_forgotten(tmp_path: Path) -> None:
    store, made = await withdrawer(tmp_path, RevocationLog("log"), [])
    soon = replace(ALICE, expires=NOW + 1)
    assert await made.withdraw([soon, soon, soon]) == 3
    later = await Store.open(f"sqlite:///{tmp_path / 'other.db'}", clock=lambda: NOW)
    await later.close()
    store.clock = lambda: NOW + 10
    assert [each.number for each in await store.withdraw([ALICE])] == [4]
    assert [each.number for each in await store.withdrawn()] == [3, 4]
    await store.close()


async def test_an_event_counts_once_and_with_all_that_it_withdraws(tmp_path: Path) -> None:
    told: list[int] = []
    log = RevocationLog("log")
    store, made = await withdrawer(tmp_path, log, told)
    event = Event("e" * 64, int(NOW) + 100)
    assert await made.withdraw([ALICE], event) == 1
    with pytest.raises(Replayed):
        await made.withdraw([replace(ALICE, value="bob")], event)
    assert (len(log), told) == (1, [1])
    assert await made.withdraw([], Event("f" * 64, int(NOW) + 100)) == 1
    assert told == [1]  # nobody needs to be told of nothing
    await store.close()
    store, made = await withdrawer(tmp_path, RevocationLog("log"), told)
    with pytest.raises(Replayed):
        await made.withdraw([ALICE], event)
    store.clock = lambda: NOW + 101
    assert await made.withdraw([ALICE], event) == 2
    await store.close()


async def test_the_bound_is_said_and_nothing_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.control.withdraw.MOST", 2)
    log = RevocationLog("log")
    store, made = await withdrawer(tmp_path, log, [])
    await made.withdraw([ALICE])
    with pytest.raises(TooManyWithdrawn, match="1 are withdrawn"):
        await made.withdraw([ALICE, ALICE])
    assert await made.withdraw([ALICE]) == 2
    assert len(await store.withdrawn()) == 2
    await store.close()


async def test_events_leave_room_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.control.withdraw.MOST", 3)
    monkeypatch.setattr("sidecar.control.withdraw.RESERVED", 1)
    store, made = await withdrawer(tmp_path, RevocationLog("log"), [])
    await made.withdraw([ALICE, ALICE], Event("e" * 64, int(NOW) + 100))
    with pytest.raises(TooManyWithdrawn):
        await made.withdraw([ALICE], Event("f" * 64, int(NOW) + 100))
    assert await made.withdraw([ALICE]) == 3
    await store.close()
