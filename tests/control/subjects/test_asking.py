"""What customers are asked and answer, on the real store."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sidecar.control.catalogue import Catalogue
from sidecar.control.pages.journeys import Answers, CustomerGone, TicketRefused
from sidecar.control.subjects import receipts
from sidecar.control.subjects.asking import Asking
from sidecar.control.subjects.published import Published
from sidecar.control.subjects.records import Offered, Record
from sidecar.control.subjects.store import SubjectStore
from sidecar.facts import tickets
from sidecar.facts.sealed import derived
from sidecar.facts.tickets import Asked, Contents
from tests.control.subjects.callers import caller, email, known
from tests.control.subjects.conftest import Clock
from tests.control.subjects.streams import published

EN = ("en",)
BACK = "https://app.example/transfers"
WORDS = "words: {en: {title: T, text: The text}, de: {title: T, text: Der Text}}"
DOCUMENTS = f"""
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {{name: retail, namespace: shop}}
spec: {{}}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {{name: terms, namespace: shop}}
spec: {{version: 2, expires: 1h, {WORDS}}}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {{name: pay, namespace: shop}}
spec: {{{WORDS}, recipients: [A bank], attributes: [phone]}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {{name: phone, namespace: shop}}
spec: {{type: phone, words: {{en: {{label: Phone}}}}, retention: 1d, order: 2}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {{name: city, namespace: shop}}
spec: {{words: {{en: {{label: City}}}}, order: 1}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {{name: nick, namespace: shop}}
spec: {{required: false, askEvery: 1d, words: {{en: {{label: Nickname}}}}}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {{name: team, namespace: shop}}
spec: {{required: false, askEvery: 1d, words: {{en: {{label: Team}}}}, order: 1}}
"""


def secret(namespace: str) -> bytes:
    return derived(b"s" * 32, namespace)


@pytest.fixture
def catalogue() -> Catalogue:
    filled = Catalogue()
    published(filled, "", namespace="platform", version=0)
    published(filled, DOCUMENTS, namespace="shop")
    published(filled, DOCUMENTS.replace("shop", "bank"), namespace="bank")
    return filled


@pytest.fixture
def stages() -> Counter[tuple[str, str]]:
    return Counter()


@pytest.fixture
def asking(
    subjects: SubjectStore,
    catalogue: Catalogue,
    stages: Counter[tuple[str, str]],
    clock: Clock,
) -> Asking:
    return Asking(subjects, Published(catalogue, clock), secret, stages, clock)


@pytest.fixture
async def customer(subjects: SubjectStore) -> Record:
    return await known(subjects, caller("alice-17", email("alice@b.example"), pool="shop/retail"))


def ticket(
    customer: Record,
    clock: Clock,
    kind: str = "consent",
    *,
    namespace: str = "shop",
    sealed_by: str = "",
    **more: Any,
) -> str:
    if kind == "consent":
        more.setdefault("purposes", (Asked("shop/terms", 2),))
    if kind == "profile":
        more.setdefault("attributes", ("shop/phone", "shop/city"))
    contents = Contents("t1", kind, customer.customer, **{"back": BACK, "service": "app", **more})
    return tickets.make(secret(sealed_by or namespace), namespace, contents, clock.now).text


async def consents(subjects: SubjectStore, customer: Record) -> dict[str, str]:
    found = await subjects.record(customer.customer, "test", "test")
    assert found is not None
    return {each.purpose: each.state for each in found.consents}


async def attributes(subjects: SubjectStore, customer: Record) -> dict[str, Any]:
    found = await subjects.record(customer.customer, "test", "test")
    assert found is not None
    return {each.name: each.value for each in found.attributes if each.value is not None}


async def test_what_is_asked_is_shown_and_the_answer_kept_with_its_words(
    asking: Asking,
    subjects: SubjectStore,
    customer: Record,
    clock: Clock,
    stages: Counter[tuple[str, str]],
) -> None:
    text = ticket(customer, clock)
    for _ in range(2):  # it stays good
        asked = await asking.opened(text, ("de",))
    (purpose,) = asked.purposes
    assert (purpose.ref, purpose.version, purpose.text) == ("shop/terms", 2, "Der Text")
    assert (purpose.holds, purpose.language) == (3600.0, "de")
    assert (asked.who, asked.service, asked.return_to) == ("al…@b.example", "app", BACK)
    done = await asking.answer(text, Answers({"shop/terms": True}), ("de",))
    assert done.return_to == BACK
    record = await subjects.record(customer.customer, "test", "test")
    assert record is not None
    (consent,) = record.consents
    assert (consent.state, consent.version, consent.language) == ("granted", 2, "de")
    assert consent.expires == clock.now + 3600
    (receipt,) = await subjects.receipts(customer.customer)
    assert receipts.claims(receipt.jws)["text"] == "Der Text"
    assert stages == {("consent", "opened"): 1, ("consent", "completed"): 1}
    with pytest.raises(TicketRefused) as used:
        await asking.opened(text, EN)
    assert used.value.code == "used"


@pytest.mark.parametrize(("by_program", "via"), [(False, "page"), (True, "api")])
async def test_a_receipt_says_whether_anybody_saw_a_page(
    asking: Asking,
    subjects: SubjectStore,
    customer: Record,
    clock: Clock,
    by_program: bool,
    via: str,
) -> None:
    said = Answers({"shop/terms": True}, by_program=by_program)
    await asking.answer(ticket(customer, clock), said, EN)
    (receipt,) = await subjects.receipts(customer.customer)
    assert receipts.claims(receipt.jws)["via"] == via


async def test_of_many_answers_to_one_ticket_one_is_kept(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    text = ticket(customer, clock)
    answers = [Answers({"shop/terms": number % 2 == 0}) for number in range(6)]
    found = await asyncio.gather(
        *(asking.answer(text, each, EN) for each in answers), return_exceptions=True
    )
    refused = [each for each in found if isinstance(each, BaseException)]
    assert [getattr(each, "code", each) for each in refused] == ["used"] * 5
    assert len(await subjects.receipts(customer.customer)) == 1
    events = [each.type for each in await subjects.events(0, 100)]
    assert events.count("sidecar.challenge.completed") == 1


async def test_who_refuses_is_not_sent_back_and_that_is_kept_too(
    asking: Asking,
    subjects: SubjectStore,
    customer: Record,
    clock: Clock,
    stages: Counter[tuple[str, str]],
) -> None:
    done = await asking.answer(ticket(customer, clock), Answers({"shop/terms": False}), EN)
    assert done.return_to == ""
    assert await consents(subjects, customer) == {"shop/terms": "refused"}
    assert stages == {("consent", "refused"): 1}


async def test_only_what_the_ticket_asks_is_answered(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    answers = Answers(
        {"shop/terms": True, "shop/pay": True, "bank/terms": True},
        {"shop/phone": "+49", "shop/role": "admin"},
        frozenset(["shop/city"]),
    )
    await asking.answer(ticket(customer, clock), answers, EN)
    assert await consents(subjects, customer) == {"shop/terms": "granted"}
    assert await attributes(subjects, customer) == {}


async def test_a_transaction_is_shown_and_agreed_to_as_it_is(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    asked = Asked("shop/pay", 1, "ff" * 32, {"amount": 5})
    text = ticket(customer, clock, purposes=(asked,))
    (purpose,) = (await asking.opened(text, EN)).purposes
    assert (purpose.values, purpose.binding, purpose.max_uses) == ({"amount": 5}, "ff" * 32, 1)
    assert purpose.attributes == ("Phone",)
    await asking.answer(text, Answers({"shop/pay": True}), EN)
    assert await subjects.spend(customer.customer, "shop/pay", "ff" * 32, "u1") == "spent"
    assert await subjects.spend(customer.customer, "shop/pay", "ff" * 32, "u2") == "exhausted"
    assert await subjects.spend(customer.customer, "shop/pay", "", "u3") == "missing"


async def test_nobody_agrees_to_a_version_that_they_were_not_asked(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock, catalogue: Catalogue
) -> None:
    text = ticket(customer, clock)
    await asking.opened(text, EN)
    newer = DOCUMENTS.replace("version: 2", "version: 3")
    published(catalogue, newer, namespace="shop", version=2)
    for attempt in (
        asking.opened(text, EN),
        asking.answer(text, Answers({"shop/terms": True}), EN),
    ):
        with pytest.raises(TicketRefused) as refused:
            await attempt
        assert refused.value.code == "expired"
    assert await consents(subjects, customer) == {}


# Which tickets open.


async def test_a_ticket_that_is_not_for_this_is_refused(
    asking: Asking, customer: Record, clock: Clock
) -> None:
    nobody = replace(customer, customer="cus_nobody")
    good = ticket(customer, clock)
    bad = {
        "made up": "shop.gAAAA",
        "empty": "",
        "changed": good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "of another namespace's sidecars": ticket(customer, clock, namespace="bank"),
        "sealed by another namespace": ticket(customer, clock, sealed_by="bank"),
        "of nobody": ticket(nobody, clock),
        "for the privacy page": ticket(customer, clock, "privacy"),
        "for something else": ticket(customer, clock, "step_up"),
    }
    for name, text in bad.items():
        for attempt in (asking.opened(text, EN), asking.answer(text, Answers(), EN)):
            with pytest.raises(TicketRefused) as refused:
                await attempt
            assert refused.value.code == "invalid", name
    with pytest.raises(TicketRefused):
        await asking.enter(good)


async def test_a_ticket_lives_for_minutes(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    text = ticket(customer, clock)
    clock.now += tickets.SECONDS
    with pytest.raises(TicketRefused) as refused:
        await asking.answer(text, Answers({"shop/terms": True}), EN)
    assert refused.value.code == "expired"
    assert await consents(subjects, customer) == {}


async def test_a_customer_of_a_pool_of_platform_is_everybodys_and_of_another_nobodys(
    asking: Asking, subjects: SubjectStore, clock: Clock
) -> None:
    for pool, opens in (("platform/all", True), ("shop/", True), ("bank/retail", False)):
        record = await known(subjects, caller(f"x{pool}", pool=pool))
        text = ticket(record, clock)
        if opens:
            assert (await asking.opened(text, EN)).purposes
            continue
        with pytest.raises(TicketRefused):
            await asking.opened(text, EN)


# Questions.


async def test_what_is_missing_is_asked_in_order_and_kept_as_long_as_it_may_be(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    text = ticket(customer, clock, "profile")
    asked = await asking.opened(text, EN)
    assert [each.name for each in asked.questions] == ["shop/city", "shop/phone"]
    assert asked.questions[1].type == "phone"
    await asking.answer(text, Answers(values={"shop/phone": "+49", "shop/city": "Ulm"}), EN)
    assert await attributes(subjects, customer) == {"shop/phone": "+49", "shop/city": "Ulm"}
    clock.now += 86_400
    assert await attributes(subjects, customer) == {"shop/city": "Ulm"}


async def test_what_is_known_already_is_not_asked(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    await subjects.set_attributes(customer.customer, {"shop/city": Offered("Ulm", "token")})
    asked = await asking.opened(ticket(customer, clock, "profile"), EN)
    assert [each.name for each in asked.questions] == ["shop/phone"]
    gone = ticket(customer, clock, "profile", attributes=("shop/gone", "bank/phone"))
    assert (await asking.opened(gone, EN)).questions == ()  # of which it has no document


async def test_one_is_asked_by_the_way_declined_and_left_alone(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    text = ticket(customer, clock, "profile", attributes=("shop/phone",))
    asked = await asking.opened(text, EN)
    assert asked.optional is not None
    assert (asked.optional.name, asked.optional.required) == ("shop/nick", False)
    answers = Answers(values={"shop/phone": "+49"}, declined=frozenset(["shop/nick", "shop/phone"]))
    await asking.answer(text, answers, EN)
    record = await subjects.record(customer.customer, "test", "test")
    assert record is not None
    assert set(record.declined) == {"shop/nick"}
    for days, expected in ((0.5, None), (1.0, "shop/team"), (9.0, "shop/team")):
        clock.now = 1_000_000.0 + days * 86_400
        contents = Contents(f"d{days}", "profile", customer.customer, attributes=("shop/city",))
        later = tickets.make(secret("shop"), "shop", contents, clock.now).text
        found = (await asking.opened(later, EN)).optional
        assert (found.name if found is not None else None) == expected


async def test_what_was_asked_by_the_way_may_be_answered(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    text = ticket(customer, clock)
    await asking.opened(text, EN)
    answers = Answers({"shop/terms": True}, {"shop/nick": "Al"})
    await asking.answer(text, answers, EN)
    assert await attributes(subjects, customer) == {"shop/nick": "Al"}


# The privacy page.


async def test_the_privacy_page_is_entered_once_with_its_own_ticket(
    asking: Asking, customer: Record, clock: Clock, stages: Counter[tuple[str, str]]
) -> None:
    text = ticket(customer, clock, "privacy")
    found = await asyncio.gather(*(asking.enter(text) for _ in range(4)), return_exceptions=True)
    assert [each for each in found if isinstance(each, str)] == [customer.customer]
    assert stages == {("privacy", "completed"): 1}
    with pytest.raises(TicketRefused) as refused:
        await asking.enter(text)
    assert refused.value.code == "used"


async def test_it_shows_what_is_known_and_what_was_agreed_to(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock, catalogue: Catalogue
) -> None:
    await subjects.set_attributes(customer.customer, {"shop/city": Offered("Ulm", "token of x")})
    await asking.answer(ticket(customer, clock), Answers({"shop/terms": True}), EN)
    seen = await asking.privacy(customer.customer, EN)
    assert [(e.label, e.value, e.source) for e in seen.attributes] == [
        ("City", "Ulm", "Told by x")
    ]  # fmt: skip
    states = {each.purpose.ref: each.state for each in seen.purposes}
    assert states == {"shop/terms": "granted", "shop/pay": "none"}
    shown = {each.type: each.shown for each in seen.identifiers}
    assert shown == {"subject": "al…17", "email": "al…@b.example"}
    assert len(seen.receipts) == 1
    # Of a document that is gone what was granted is shown still, and can be withdrawn.
    published(catalogue, "", namespace="shop", version=2)
    seen = await asking.privacy(customer.customer, EN)
    assert [(each.purpose.ref, each.state) for each in seen.purposes] == [("shop/terms", "granted")]
    await asking.withdraw(customer.customer, "shop/terms", "", EN)
    assert await consents(subjects, customer) == {"shop/terms": "withdrawn"}


async def test_one_withdraws_what_was_granted_and_nothing_else(
    asking: Asking, subjects: SubjectStore, customer: Record, clock: Clock
) -> None:
    await asking.answer(ticket(customer, clock), Answers({"shop/terms": True}), EN)
    for ref, binding in (("shop/pay", ""), ("shop/terms", "ff")):
        await asking.withdraw(customer.customer, ref, binding, EN)
    assert await consents(subjects, customer) == {"shop/terms": "granted"}
    for _ in range(2):
        await asking.withdraw(customer.customer, "shop/terms", "", EN)
    assert await consents(subjects, customer) == {"shop/terms": "withdrawn"}
    assert len(await subjects.receipts(customer.customer)) == 2


async def test_one_forgets_exports_and_erases(
    asking: Asking, subjects: SubjectStore, customer: Record
) -> None:
    id_ = customer.customer
    await subjects.set_attributes(id_, {"shop/city": Offered("Ulm", "x")})
    assert b"Ulm" in await asking.export(id_)
    await asking.forget(id_, "shop/city")
    assert await attributes(subjects, customer) == {}
    await asking.erase(id_)
    for attempt in (
        asking.privacy(id_, EN),
        asking.withdraw(id_, "shop/terms", "", EN),
        asking.forget(id_, "shop/city"),
        asking.export(id_),
        asking.erase(id_),
    ):
        with pytest.raises(CustomerGone):
            await attempt
