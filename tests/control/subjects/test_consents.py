"""Consents on each database: the latest is in force, each use counts once, each has a receipt."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sidecar.control.store import Store
from sidecar.control.subjects import consents
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.receipts import verify, verify_all
from sidecar.control.subjects.records import NotStored
from sidecar.control.subjects.store import SubjectStore
from sidecar.control.subjects.transactions import NoCustomer
from tests.control.subjects.callers import SOCIAL, caller, email, known, sub
from tests.control.subjects.conftest import Clock

PAY = Decision("shop/pay", 3, "granted", "de", "Zahlen", "Ich erlaube die Zahlung.")


@pytest.fixture
async def alice(subjects: SubjectStore) -> str:
    return (await known(subjects, caller("alice"))).customer


async def test_the_latest_of_a_purpose_is_in_force(
    subjects: SubjectStore, alice: str, clock: Clock
) -> None:
    for state in ("granted", "withdrawn", "refused"):
        await subjects.decide_consent(alice, replace(PAY, state=state))
        clock.now += 1
    await subjects.decide_consent(alice, replace(PAY, purpose="shop/news", max_uses=2))
    record = await known(subjects, caller("alice"))
    assert [(each.purpose, each.state) for each in record.consents] == [
        ("shop/pay", "refused"), ("shop/news", "granted"),
    ]  # fmt: skip
    assert (record.consents[1].max_uses, record.consents[1].used) == (2, 0)
    assert record.version == 5
    exported = await subjects.export(alice)
    assert [each["state"] for each in exported["consents"]] == [
        "granted", "withdrawn", "refused", "granted",
    ]  # fmt: skip


async def test_a_bound_consent_is_for_its_values_and_shown_while_it_can_be_used(
    subjects: SubjectStore, alice: str, clock: Clock
) -> None:
    bound = replace(PAY, binding="ab12", values={"amount": 70}, max_uses=1)
    await subjects.decide_consent(alice, bound)
    await subjects.decide_consent(alice, replace(PAY, binding="cd34", expires=clock.now + 60))
    record = await known(subjects, caller("alice"))
    assert [each.binding for each in record.consents] == ["ab12", "cd34"]
    assert await subjects.spend(alice, "shop/pay", "", "u0") == "missing"
    assert await subjects.spend(alice, "shop/pay", "ab12", "u1") == "spent"
    clock.now += 60
    assert await subjects.spend(alice, "shop/pay", "cd34", "u2") == "missing"
    assert (await known(subjects, caller("alice"))).consents == ()


async def test_what_was_bound_and_used_up_is_history_after_a_while(
    subjects: SubjectStore, alice: str, clock: Clock
) -> None:
    await subjects.decide_consent(alice, replace(PAY, binding="ab12", max_uses=1))
    await subjects.decide_consent(alice, replace(PAY, binding="cd34", max_uses=1))
    assert await subjects.spend(alice, "shop/pay", "ab12", "u") == "spent"
    clock.now += consents.SHOWN + 1
    assert await subjects.spend(alice, "shop/pay", "ab12", "v") == "exhausted"
    await subjects.decide_consent(alice, replace(PAY, binding="ef56"))
    assert await subjects.spend(alice, "shop/pay", "ab12", "w") == "missing"
    assert await subjects.spend(alice, "shop/pay", "cd34", "x") == "spent"


async def test_only_what_is_granted_can_be_spent(
    subjects: SubjectStore, alice: str, clock: Clock
) -> None:
    assert await subjects.spend(alice, "shop/pay", "", "u") == "missing"
    assert await subjects.spend("cus_nobody", "shop/pay", "", "u") == "missing"
    await subjects.decide_consent(alice, replace(PAY, expires=clock.now + 10))
    assert await subjects.spend(alice, "shop/pay", "", "u1") == "spent"
    clock.now += 10
    assert await subjects.spend(alice, "shop/pay", "", "u2") == "missing"
    for state in ("withdrawn", "refused"):
        await subjects.decide_consent(alice, replace(PAY, state=state))
        assert await subjects.spend(alice, "shop/pay", "", f"u3-{state}") == "missing"


async def test_fifty_at_once_spend_seven(
    subjects: SubjectStore, alice: str, url: str, clock: Clock
) -> None:
    await subjects.decide_consent(alice, replace(PAY, max_uses=7))
    opened = [] if url.startswith("sqlite") else [await Store.open(url, clock=clock)]
    replicas = [subjects, *(SubjectStore(each.engine, clock) for each in opened)]
    answers = await asyncio.gather(
        *(replicas[n % len(replicas)].spend(alice, "shop/pay", "", f"u{n}") for n in range(50))
    )
    assert Counter(answers) == {"spent": 7, "exhausted": 43}
    assert (await known(subjects, caller("alice"))).consents[0].used == 7
    for each in opened:
        await each.close()


async def test_one_use_counts_once_however_often_it_is_said(
    subjects: SubjectStore, alice: str
) -> None:
    await subjects.decide_consent(alice, replace(PAY, max_uses=2))
    answers = await asyncio.gather(
        *(subjects.spend(alice, "shop/pay", "", "the same") for _ in range(20))
    )
    assert set(answers) == {"spent"}
    assert (await known(subjects, caller("alice"))).consents[0].used == 1
    assert await subjects.spend(alice, "shop/pay", "", "other") == "spent"
    assert await subjects.spend(alice, "shop/pay", "", "third") == "exhausted"
    assert await subjects.spend(alice, "shop/pay", "", "the same") == "spent"


async def test_another_customers_use_of_the_same_id_is_another_use(
    subjects: SubjectStore, alice: str
) -> None:
    bob = (await known(subjects, caller("bob"))).customer
    for customer in (alice, bob):
        await subjects.decide_consent(customer, replace(PAY, max_uses=1))
        assert await subjects.spend(customer, "shop/pay", "", "u") == "spent"
    assert await subjects.spend(bob, "shop/pay", "", "v") == "exhausted"


async def test_after_a_merge_the_later_decision_counts_and_uses_still_count_once(
    subjects: SubjectStore, clock: Clock
) -> None:
    old = (await known(subjects, caller("alice", email("a@x")))).customer
    await subjects.decide_consent(old, replace(PAY, max_uses=1))
    assert await subjects.spend(old, "shop/pay", "", "u") == "spent"
    new = (await known(subjects, caller(sub("s", SOCIAL)))).customer
    await subjects.decide_consent(new, replace(PAY, state="withdrawn"))
    merged = await known(subjects, caller(sub("s", SOCIAL), email("a@x")))
    assert [each.state for each in merged.consents] == ["withdrawn"]
    assert await subjects.spend(old, "shop/pay", "", "v") == "missing"
    await subjects.decide_consent(old, replace(PAY, max_uses=2))
    assert await subjects.spend(new, "shop/pay", "", "u") == "spent"  # as it was before
    record = await known(subjects, caller("alice"))
    assert [(each.state, each.used) for each in record.consents] == [("granted", 0)]


async def test_every_change_has_a_receipt_that_says_what_was_shown(
    subjects: SubjectStore, alice: str, clock: Clock
) -> None:
    bound = replace(PAY, binding="ab12", values={"amount": 70}, max_uses=1, via="page")
    first = await subjects.decide_consent(alice, bound)
    second = await subjects.decide_consent(alice, replace(PAY, state="withdrawn"))
    jwks = await subjects.jwks()
    claims = verify(first.jws, jwks)
    wanted: dict[str, Any] = {
        "sub": alice, "iat": 1_000_000, "number": 1, "previous": "", "purpose": "shop/pay",
        "version": 3, "state": "granted", "binding": "ab12", "values": {"amount": 70},
        "language": "de", "title": "Zahlen", "text": "Ich erlaube die Zahlung.", "via": "page",
        "by": "customer", "max_uses": 1, "until": None, "jti": first.id,
        "consent": first.consent,
    }  # fmt: skip
    assert claims == wanted
    found = await subjects.receipts(alice)
    assert found == [first, second]
    assert [each["state"] for each in verify_all([r.jws for r in found], jwks)] == [
        "granted", "withdrawn",
    ]  # fmt: skip


async def test_decisions_at_once_are_one_chain(subjects: SubjectStore, alice: str) -> None:
    await asyncio.gather(*(subjects.decide_consent(alice, PAY) for _ in range(12)))
    receipts = await subjects.receipts(alice)
    assert len(verify_all([each.jws for each in receipts], await subjects.jwks())) == 12
    assert len((await known(subjects, caller("alice"))).consents) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"purpose": ""}, {"state": "maybe"}, {"version": -1}, {"max_uses": 0}, {"text": "a\0"},
        {"binding": "x" * 129}, {"values": {"amount": 1}}, {"language": "x" * 65},
        {"binding": "b", "values": {"x": float("inf")}},
    ],
)  # fmt: skip
async def test_a_decision_that_makes_no_sense_is_refused(
    subjects: SubjectStore, alice: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(NotStored):
        await subjects.decide_consent(alice, replace(PAY, **wrong))
    assert await subjects.receipts(alice) == []


async def test_nobody_decides_for_nobody(subjects: SubjectStore) -> None:
    with pytest.raises(NoCustomer):
        await subjects.decide_consent("cus_nobody", PAY)


async def test_decisions_do_not_grow_without_end(
    subjects: SubjectStore, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consents, "MOST_DECISIONS", 2)
    await subjects.decide_consent(alice, PAY)
    await subjects.decide_consent(alice, PAY)
    for state in ("granted", "refused"):
        with pytest.raises(NotStored, match="at most 2"):
            await subjects.decide_consent(alice, replace(PAY, state=state))
    record = await known(subjects, caller("alice"))
    assert [each.state for each in record.consents] == ["granted"], "nothing was changed by that"
    await subjects.decide_consent(alice, replace(PAY, state="withdrawn"))
    record = await known(subjects, caller("alice"))
    assert [each.state for each in record.consents] == ["withdrawn"]
    with pytest.raises(NotStored, match="at most 2"):  # of what is not granted there is no end
        await subjects.decide_consent(alice, replace(PAY, state="withdrawn"))
