"""The customers of one stream, as a state machine."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sidecar.control.subjects import following as module
from sidecar.control.subjects.following import Following
from sidecar.wire import convert
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import (
    Ack,
    FromControl,
    Held,
    Nack,
    Push,
    Resource,
    Subscription,
)


def following(held: Mapping[str, str] | None = None) -> Following:
    return Following(
        Subscription(
            type=convert.SUBJECT,
            held=[Held(name=f"subject/{k}", version=v) for k, v in (held or {}).items()],
        )
    )


def ready(*keys: str, held: Mapping[str, str] | None = None) -> Following:
    """That follows `cus_KEY` by each key, and has said that it is current."""
    found = following(held)
    found.ready()
    for key in keys:
        found.follow(key, f"cus_{key}")
    while found.next() is not None:
        pass
    return found


def record(key: str, number: int = 1, customer: str = "") -> Resource:
    customer = customer or f"cus_{key}"
    return Resource(
        name=f"subject/{key}",
        version=f"{customer}:{number}",
        subject=pb.SubjectRecord(customer=customer, version=number),
    )


def pushed(found: Following) -> Push:
    message = found.next()
    assert message is not None
    assert message.HasField("push")
    return message.push


def versions(push: Push) -> list[str]:
    return [each.version for each in push.resources]


def test_nothing_is_said_to_be_current_before_what_was_brought_was_looked_at() -> None:
    found = following({"a": "cus_a:1"})
    assert found.brought() == [("a", "cus_a")]
    found.offer("a", record("a", 2))
    assert found.next() is None
    found.ready()
    assert found.brought() == []
    assert versions(pushed(found)) == ["cus_a:2"]


def test_who_is_current_is_told_so_once() -> None:
    found = following()
    found.ready()
    message = found.next()
    assert message is not None
    assert message.idle.type == convert.SUBJECT
    assert found.next() is None


def test_one_unanswered_push_and_changes_meanwhile_are_one() -> None:
    found = ready("a", "b")
    found.offer("a", record("a", 1))
    first = pushed(found)
    for number in range(2, 9):
        found.offer("a", record("a", number))
        found.offer("b", record("b", number))
        assert found.next() is None
    assert found.ack(Ack(nonce=first.nonce))
    second = pushed(found)
    assert second.nonce != first.nonce
    assert versions(second) == ["cus_a:8", "cus_b:8"]
    assert found.ack(Ack(nonce=second.nonce))
    assert found.next() is None


def test_many_records_are_several_pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    found = ready("a", "b", "c")
    for key in "abc":
        found.offer(key, record(key))
    first = pushed(found)
    assert len(first.resources) == 2
    found.ack(Ack(nonce=first.nonce))
    assert versions(pushed(found)) == ["cus_c:1"]


def test_the_version_that_it_holds_is_not_sent_again_unless_it_reads_otherwise_now() -> None:
    found = ready(held={"a": "cus_a:3"})
    found.offer("a", record("a", 3))
    assert found.next() is None
    found.offer("a", record("a", 3), again=True)
    assert versions(pushed(found)) == ["cus_a:3"]


@pytest.mark.parametrize("again", [False, True])
def test_what_was_read_earlier_and_comes_later_is_left_out(again: bool) -> None:
    found = ready("a")
    found.offer("a", record("a", 5))
    found.offer("a", record("a", 4), again=again)
    push = pushed(found)
    assert versions(push) == ["cus_a:5"]
    found.ack(Ack(nonce=push.nonce))
    found.offer("a", record("a", 4), again=again)
    assert found.next() is None
    found.offer("a", None)
    found.offer("a", record("a", 4), again=again)
    assert list(pushed(found).removed) == ["subject/a"]


def test_somebody_else_by_the_same_key_is_not_older() -> None:
    found = ready("a")
    found.offer("a", record("a", 5))
    found.ack(Ack(nonce=pushed(found).nonce))
    found.offer("a", None)
    found.follow("a", "cus_new")
    found.offer("a", record("a", 1, "cus_new"))
    push = pushed(found)
    assert versions(push) == ["cus_new:1"]
    assert not push.removed


def test_what_is_gone_is_removed_and_confirmed() -> None:
    found = ready("a", "b")
    for key in "ab":
        found.offer(key, record(key))
    found.ack(Ack(nonce=pushed(found).nonce))
    assert not found.rid_of(["cus_a"])
    found.offer("a", None)
    assert not found.rid_of(["cus_a"])
    push = pushed(found)
    assert list(push.removed) == ["subject/a"]
    assert found.customers() == ["cus_b"]
    assert not found.rid_of(["cus_a"])  # it has not said so
    found.ack(Ack(nonce=push.nonce))
    assert found.rid_of(["cus_a"])
    assert not found.rid_of(["cus_a", "cus_b"])


def test_of_whom_it_does_not_follow_it_is_sent_nothing() -> None:
    found = ready("a")
    found.offer("b", record("b"))
    found.offer("a", record("a"))
    assert found.drop("a") == "cus_a"
    assert found.drop("a") == ""
    assert found.next() is None
    assert len(found) == 0


def test_two_keys_of_one_customer_are_both_followed() -> None:
    found = ready()
    found.follow("a", "cus_1")
    found.follow("v", "cus_1", "v1")
    assert found.keys_of("cus_1") == {"a", "v"}
    assert (found.visitor("a"), found.visitor("v")) == ("", "v1")
    found.follow("v", "cus_2")  # merged: it stands for the same visitor
    assert found.visitor("v") == "v1"
    assert found.keys_of("cus_1") == {"a"}
    assert found.customer("v") == "cus_2"


def test_the_visitors_that_came_with_somebody_are_remembered_up_to_a_bound() -> None:
    found = ready("a")
    for number in range(20):
        found.came("a", f"v{number}")
    found.came("a", "v15")
    assert len(found.visitors("a")) == module.MOST_CAME
    assert found.visitors("a")[-2:] == ("v19", "v15")
    found.follow("a", "cus_other")
    assert found.visitors("a")
    found.drop("a")
    assert found.visitors("a") == ()


def test_there_is_a_bound_to_whom_one_sidecar_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    found = ready("a")
    assert not found.follow("b", "cus_b")
    assert found.follow("a", "cus_b")
    assert following({"a": "cus_a:1", "b": "cus_b:1"}).customers() == ["cus_a"]


def test_a_refused_push_is_answered_and_said() -> None:
    found = ready("a")
    found.offer("a", record("a"))
    push = pushed(found)
    assert not found.nack(Nack(nonce="another"))
    assert found.nack(Nack(nonce=push.nonce, error="no"))
    assert found.last_error == "no"
    assert not found.ack(Ack(nonce=push.nonce))
    assert found.next() is None
    found.offer("a", record("a", 2))
    second = pushed(found)
    assert found.ack(Ack(nonce=second.nonce))
    assert found.last_error == ""


def test_answers_go_before_pushes_and_while_one_is_unanswered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_SAID", 2)
    found = ready("a")
    found.offer("a", record("a"))
    pushed(found)
    for number in range(3):
        found.say(FromControl(unknown=pb.Unknown(key=str(number))))
    said = [found.next() for _ in range(3)]
    assert [each.unknown.key for each in said if each is not None] == ["0", "1"]


@pytest.mark.parametrize(
    "name", ["document/a", "subject/", "subject/a"], ids=["another kind", "no key", "no version"]
)
def test_what_is_brought_and_makes_no_sense_is_not_followed(name: str) -> None:
    version = "cus_a:1" if name != "subject/a" else "cus_a:x"
    subscription = Subscription(held=[Held(name=name, version=version)])
    assert Following(subscription).customers() == []
