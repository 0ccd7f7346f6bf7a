"""Links are explained and can be taken back, on each database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.records import NotStored, Offered
from sidecar.control.subjects.store import SubjectStore
from tests.control.subjects.callers import SOCIAL, account, caller, device, email, guest, known, sub
from tests.control.subjects.conftest import Clock

THIRD = "https://third.example"
PAY = Decision("shop/pay", 1, "granted", "en", "Pay", "I allow it.")


async def test_every_link_is_explained_without_values(subjects: SubjectStore) -> None:
    await known(subjects, guest("v"))
    await known(subjects, caller("alice", email("a@x"), visitor="v", merge=True))
    other = await known(subjects, caller(sub("s", SOCIAL)))
    merged = await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    links = await subjects.links(merged.customer)
    assert [(each.kind, each.identifier, bool(each.other)) for each in links] == [
        ("created", guest("v").primary, False),
        ("attached", sub("alice"), False),
        ("attached", email("a@x"), False),
        ("created", sub("s", SOCIAL), False),
        ("merged", email("a@x"), True),
    ]
    assert merged.customer == other.customer
    for each in links:
        assert each.why
        assert each.by == "sidecar"
        assert not any(word in each.why for word in ("a@x", "alice"))
    assert await subjects.links("cus_nobody") == []


async def test_undoing_a_merge_gives_back_what_came_with_the_other(
    subjects: SubjectStore, clock: Clock
) -> None:
    one = (
        await known(subjects, caller("alice", email("a@x"), remembered=(device("d1"),)))
    ).customer
    await subjects.set_attributes(one, {"d/name": Offered("A", "page")})
    await subjects.set_segments(one, ["old"])
    await subjects.decide_consent(one, replace(PAY, max_uses=5))
    await subjects.spend(one, "shop/pay", "", "u")
    clock.now += 1
    two = (await known(subjects, caller(sub("s", SOCIAL), account("7")))).customer
    await subjects.set_attributes(two, {"d/name": Offered("B", "page")})
    await subjects.set_segments(two, ["new"])
    await subjects.decide_consent(two, replace(PAY, state="refused"))
    before = {each: await subjects.record(each, "t", "t") for each in (one, two)}
    clock.now += 1
    merged = await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    assert [each.value for each in merged.attributes] == ["B"]
    link = next(each for each in await subjects.links(two) if each.kind == "merged")
    undone = await subjects.undo(link.id, "operator")
    assert (undone.kind, undone.by, undone.other) == ("undone", "operator", one)
    for id_ in (one, two):
        record = await subjects.record(id_, "t", "t")
        was = before[id_]
        assert record is not None
        assert was is not None
        assert record.version > was.version
        assert replace(record, version=0, risk=was.risk) == replace(was, version=0)
    assert (await subjects.changes_since(0))[0] == {one, two}
    assert [each.undone for each in await subjects.links(two) if each.kind == "merged"] == [True]
    with pytest.raises(NotStored):
        await subjects.undo(link.id, "operator")


async def test_what_was_separated_stays_apart(subjects: SubjectStore) -> None:
    one = (await known(subjects, caller("alice", email("a@x")))).customer
    two = (await known(subjects, caller(sub("s", SOCIAL)))).customer
    await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    link = (await subjects.links(two))[-1]
    await subjects.undo(link.id, "operator")
    for _ in range(2):
        assert (await known(subjects, caller(sub("s", SOCIAL), email("a@x")))).customer == two
        assert (await known(subjects, caller("alice", email("a@x")))).customer == one
        assert (await known(subjects, caller("alice", sub("s", SOCIAL)))).customer == one
    # Nor does a third bring them together.
    third = await known(subjects, caller(sub("t", THIRD), email("a@x"), sub("s", SOCIAL)))
    assert third.customer == one
    assert await subjects.find("shop", sub("s", SOCIAL)) == two
    kinds = [each.kind for each in await subjects.links(two)]
    assert kinds.count("kept-apart") == 1


async def test_a_merge_within_a_merge_can_be_undone_and_the_rest_stays(
    subjects: SubjectStore,
) -> None:
    a = (await known(subjects, caller("alice", email("a@x")))).customer
    b = (await known(subjects, caller(sub("b", SOCIAL), account("7")))).customer
    c = (await known(subjects, caller(sub("c", THIRD)))).customer
    await known(subjects, caller(sub("b", SOCIAL), email("a@x")))  # a into b
    await known(subjects, caller(sub("c", THIRD), account("7")))  # b, with a, into c
    assert {await subjects.survivor(each) for each in (a, b, c)} == {c}
    links = {each.other: each for each in await subjects.links(c) if each.kind == "merged"}
    await subjects.undo(links[b].id, "operator")
    assert [await subjects.survivor(each) for each in (a, b, c)] == [b, b, c]
    assert await subjects.find("shop", email("a@x")) == b
    await subjects.undo(links[a].id, "operator")
    assert [await subjects.survivor(each) for each in (a, b, c)] == [a, b, c]
    assert await subjects.find("shop", email("a@x")) == a
    assert await subjects.find("shop", account("7")) == b


async def test_the_inner_of_two_merges_can_be_undone_first(subjects: SubjectStore) -> None:
    a = (await known(subjects, caller("alice", email("a@x")))).customer
    b = (await known(subjects, caller(sub("b", SOCIAL), account("7")))).customer
    c = (await known(subjects, caller(sub("c", THIRD)))).customer
    await known(subjects, caller(sub("b", SOCIAL), email("a@x")))
    await known(subjects, caller(sub("c", THIRD), account("7")))
    links = {each.other: each for each in await subjects.links(c) if each.kind == "merged"}
    await subjects.undo(links[a].id, "operator")
    assert [await subjects.survivor(each) for each in (a, b, c)] == [a, c, c]
    assert (await known(subjects, caller(sub("c", THIRD), email("a@x")))).customer == c
    assert await subjects.find("shop", email("a@x")) == a


async def test_what_the_customer_decided_as_one_outlasts_the_undoing(
    subjects: SubjectStore,
) -> None:
    one = (await known(subjects, caller("alice", email("a@x")))).customer
    await subjects.decide_consent(one, PAY)
    two = (await known(subjects, caller(sub("s", SOCIAL)))).customer
    await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    await subjects.decide_consent(two, replace(PAY, state="withdrawn"))
    await subjects.undo((await subjects.links(two))[-1].id, "operator")
    for primary in (sub("alice"), sub("s", SOCIAL)):
        record = await known(subjects, caller(primary))
        assert [each for each in record.consents if each.state == "granted"] == []
    assert await subjects.spend(one, "shop/pay", "", "u") == "missing"


async def test_an_identifier_is_detached_and_does_not_come_back(subjects: SubjectStore) -> None:
    alice = (await known(subjects, caller("alice", email("a@x"), visitor="v", merge=True))).customer
    by_type = {
        each.identifier.type: each for each in await subjects.links(alice) if each.identifier
    }
    await subjects.undo(by_type["email"].id, "operator")
    record = await known(subjects, caller("alice", email("a@x")))
    assert email("a@x") not in record.identifiers
    assert await subjects.find("shop", email("a@x")) is None
    other = await known(subjects, caller("bob", email("a@x")))
    assert other.customer != alice
    assert (await known(subjects, caller("alice", email("a@x")))).customer == alice
    with pytest.raises(NotStored):
        await subjects.undo(by_type["subject"].id, "operator")  # made with it
    with pytest.raises(NotStored):
        await subjects.undo("lnk_nothing", "operator")


async def test_whose_only_login_is_detached_is_a_visitor_again(subjects: SubjectStore) -> None:
    visitor = await known(subjects, guest("v"))
    await known(subjects, caller("alice", visitor="v", merge=True))
    link = next(each for each in await subjects.links(visitor.customer) if each.kind == "attached")
    await subjects.undo(link.id, "operator")
    assert (await known(subjects, guest("v"))).anonymous
    alice = await known(subjects, caller("alice", visitor="v", merge=True))
    assert alice.customer != visitor.customer
