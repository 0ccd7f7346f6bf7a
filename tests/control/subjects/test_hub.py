"""Between sidecars and the store: who is met, who is told what, and who may say what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.control.catalogue import Catalogue
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.hub import AT_ONCE, Hub
from sidecar.control.subjects.records import Identifier, Introduction, Offered, Record
from sidecar.control.subjects.store import SubjectStore
from sidecar.decide.outcomes import Identity
from sidecar.errors import StoreFailed
from sidecar.facts.customers import key_of
from sidecar.wire import subject_pb2 as pb
from tests.control.subjects.conftest import Clock
from tests.control.subjects.streams import IDP, Sidecar, published, settled

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {name: retail, namespace: NS}
spec:
  identifiers: [{type: email, claim: email}, {type: device, claim: device, links: false}]
  anonymous: merge
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: terms, namespace: NS}
spec: {words: {en: {title: Terms, text: The terms}}}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: ads, namespace: NS}
spec: {words: {en: {title: Ads, text: Ads}}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: city, namespace: NS}
spec: {words: {en: {label: City}}, claims: [city]}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: phone, namespace: NS}
spec: {words: {en: {label: Phone}}, claims: [phone]}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p, namespace: NS}
spec:
  rules:
  - {name: a, match: {paths: [/a]}, require: {consent: [terms]}}
  - {name: b, match: {paths: [/b]}, require: {profile: [phone]}}
"""
READS_CITY = "  - {name: c, match: {paths: [/c]}, when: subject.profile.city == 'Ulm'}\n"
READS_RISK = "  - {name: d, match: {paths: [/d]}, when: subject.risk < 50.0}\n"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def catalogue() -> Catalogue:
    filled = Catalogue()
    published(filled, "", namespace="platform", version=0)
    for namespace in ("shop", "bank"):
        published(filled, DOCUMENTS.replace("NS", namespace), namespace=namespace)
    return filled


@pytest.fixture
async def hub(subjects: SubjectStore, catalogue: Catalogue, clock: Clock) -> AsyncIterator[Hub]:
    made = Hub(subjects, catalogue, b"s" * 32, clock)
    subjects.changed = made.changed
    yield made
    await made.close()


async def met(hub: Hub, sidecar: Sidecar, key: str, **more: Any) -> str:
    """Introduces somebody: the customer's id."""
    await settled(hub, sidecar)
    sidecar.introduce(key, **more)
    await settled(hub, sidecar)
    return sidecar.held[key].customer


def agreed(purpose: str = "shop/terms", state: Any = "granted", **more: Any) -> Decision:
    return Decision(purpose, 1, state, "en", "Terms", "The terms", **more)


def purposes(sidecar: Sidecar, key: str) -> list[str]:
    return [each.purpose for each in sidecar.held[key].grants]


async def test_who_is_met_is_sent_and_so_is_every_change_to_all_who_met_them(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one, two = Sidecar(hub, catalogue), Sidecar(hub, catalogue, "two")
    customer = await met(hub, one, "k")
    assert await met(hub, two, "other", subject="k") == customer
    await subjects.decide_consent(customer, agreed())
    await settled(hub, one, two)
    assert purposes(one, "k") == purposes(two, "other") == ["shop/terms"]
    one.say(released=pb.Released(keys=["k"]))
    await subjects.decide_consent(customer, agreed(state="withdrawn"))
    await settled(hub, one, two)
    assert purposes(two, "other") == []
    assert purposes(one, "k") == ["shop/terms"]  # it had let go
    hub.leave(two.session)
    assert hub.followed() == 0


async def test_what_a_sidecar_says_before_its_documents_are_known_is_answered(
    hub: Hub, catalogue: Catalogue
) -> None:
    one = Sidecar(hub, catalogue)
    one.introduce("k")
    await settled(hub, one)
    assert one.held["k"].customer
    assert not one.answers("unknown")
    (keys,) = one.answers("subject_keys")
    assert len(keys.visitor) == len(keys.ticket) == 32


async def test_namespaces_have_secrets_and_customers_of_their_own(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    shop, bank = Sidecar(hub, catalogue), Sidecar(hub, catalogue, "two", "bank")
    theirs = await met(hub, shop, "k")
    ours = await met(hub, bank, "k")
    assert theirs != ours
    (one,), (other,) = shop.answers("subject_keys"), bank.answers("subject_keys")
    assert one.visitor != other.visitor
    assert one.ticket != other.ticket
    assert one.ticket == hub.ticket_secret("shop")


async def test_of_a_customer_of_another_namespace_nothing_can_be_spent_or_said(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    shop, bank = Sidecar(hub, catalogue), Sidecar(hub, catalogue, "two", "bank")
    customer = await met(hub, shop, "k")
    await settled(hub, bank)
    await subjects.decide_consent(customer, agreed(max_uses=1))
    before = len(await subjects.events(0, 100))
    bank.say(spend=pb.Spend(use="u", customer=customer, purpose="shop/terms"))
    bank.say(journey_events=pb.JourneyEvents(events=[event(1, customer)]))
    await settled(hub, shop, bank)
    assert bank.answers("spent")[0].outcome == pb.Spent.OUTCOME_MISSING
    assert bank.answers("journey_events_taken")[0].number == 1  # and left out
    assert len(await subjects.events(0, 100)) == before
    shop.say(spend=pb.Spend(use="u1", customer=customer, purpose="bank/terms"))
    shop.say(spend=pb.Spend(use="u", customer=customer, purpose="shop/terms"))
    await settled(hub, shop)
    shop.say(spend=pb.Spend(use="u", customer=customer, purpose="shop/terms"))
    await settled(hub, shop)
    shop.say(spend=pb.Spend(use="u2", customer=customer, purpose="shop/terms"))
    await settled(hub, shop)
    found = {each.use: each.outcome for each in shop.answers("spent")}
    assert found == {
        "u1": pb.Spent.OUTCOME_MISSING,
        "u": pb.Spent.OUTCOME_SPENT,  # once, however often it is said
        "u2": pb.Spent.OUTCOME_EXHAUSTED,
    }


async def test_a_use_named_as_another_sidecar_did_is_a_use_of_its_own(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one, two = Sidecar(hub, catalogue), Sidecar(hub, catalogue, "two")
    customer = await met(hub, one, "k")
    await met(hub, two, "k")
    await subjects.decide_consent(customer, agreed(max_uses=1))
    for each in (one, two):
        each.say(spend=pb.Spend(use="u", customer=customer, purpose="shop/terms"))
    await settled(hub, one, two)
    outcomes = {each.answers("spent")[0].outcome for each in (one, two)}
    assert outcomes == {pb.Spent.OUTCOME_SPENT, pb.Spent.OUTCOME_EXHAUSTED}


async def test_what_changes_while_somebody_is_resolved_is_not_missed(
    subjects: SubjectStore, catalogue: Catalogue, clock: Clock
) -> None:
    """Between the reading of a record and the first push of it a consent is withdrawn."""

    class Slow(SubjectStore):
        async def resolve(self, introduction: Introduction, reader: str) -> Record:
            record = await super().resolve(introduction, reader)
            if meanwhile and record.consents:
                await self.decide_consent(record.customer, meanwhile.pop())
            return record

    meanwhile: list[Decision] = []
    slow = Slow(subjects._engine, clock)
    hub = Hub(slow, catalogue, b"s" * 32, clock)
    slow.changed = hub.changed
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    await slow.decide_consent(customer, agreed())
    one.say(released=pb.Released(keys=["k"]))
    meanwhile.append(agreed(state="withdrawn"))
    assert await met(hub, one, "k") == customer
    assert purposes(one, "k") == []
    await hub.close()


async def test_a_new_device_raises_the_risk_that_the_same_push_shows(
    hub: Hub, catalogue: Catalogue
) -> None:
    text = DOCUMENTS.replace("NS", "shop") + READS_RISK
    published(catalogue, text, namespace="shop", version=2)
    one = Sidecar(hub, catalogue)
    await met(hub, one, "k", identifiers=[pb.Identifier(type="device", value="d1")])
    assert one.held["k"].risk == 0
    one.say(released=pb.Released(keys=["k"]))
    await met(hub, one, "k", identifiers=[pb.Identifier(type="device", value="d2")])
    assert one.held["k"].risk == 20.0


async def test_what_was_erased_is_taken_back_and_that_is_confirmed(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one, two, third = (Sidecar(hub, catalogue, name) for name in ("one", "two", "third"))
    customer = await met(hub, one, "k")
    await met(hub, two, "k")
    await settled(hub, third)
    erasing = asyncio.create_task(
        hub.erased_everywhere(lambda: subjects.erase(customer, "operator"), 10.0)
    )
    while not erasing.done():
        await settled(hub, one, two, third)
        await asyncio.sleep(0)
    _, holders, let_go = erasing.result()
    assert (holders, let_go) == (2, 2)
    assert one.held == two.held == {}
    again = await met(hub, one, "k")
    assert again != customer


async def test_a_sidecar_that_does_not_answer_has_not_let_go(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    found = await hub.erased_everywhere(lambda: subjects.erase(customer, "operator"), 0.0)
    assert found[1:] == (1, 0)


async def test_other_documents_send_all_anew_as_far_as_they_read_it(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    values = {"shop/city": Offered("Ulm", "x"), "shop/phone": Offered("1", "x")}
    await subjects.set_attributes(customer, values)
    await settled(hub, one)
    assert [each.ref for each in one.held["k"].attributes] == []
    assert list(one.held["k"].present) == ["shop/phone"]
    text = DOCUMENTS.replace("NS", "shop")
    published(catalogue, text + READS_CITY, namespace="shop", version=2)
    await settled(hub, one)
    assert [(e.ref, e.value) for e in one.held["k"].attributes] == [("shop/city", b'"Ulm"')]
    published(catalogue, text, namespace="shop", version=3)
    await settled(hub, one)
    assert [each.ref for each in one.held["k"].attributes] == []


async def test_another_pool_drops_all_that_is_of_the_one_before(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    text = DOCUMENTS.replace("NS", "shop").replace("retail", "other")
    published(catalogue, text, namespace="shop", version=2)
    await settled(hub, one)
    assert one.held == {}
    await subjects.decide_consent(customer, agreed())
    await settled(hub, one)
    assert one.held == {}
    assert await met(hub, one, "k") != customer
    first, second = one.answers("subject_keys")
    assert first.visitor != second.visitor


async def test_a_sidecar_that_comes_back_is_sent_what_has_changed(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one = Sidecar(hub, catalogue)
    keys = {name: key_of(Identity(IDP, name)) for name in ("kept", "changed", "gone")}
    kept = await met(hub, one, keys["kept"], subject="kept")
    changed = await met(hub, one, keys["changed"], subject="changed")
    gone = await met(hub, one, keys["gone"], subject="gone")
    hub.leave(one.session)
    await subjects.decide_consent(changed, agreed())
    await subjects.erase(gone, "operator")
    again = Sidecar(hub, catalogue, held=one.versions)
    again.held = dict(one.held)
    await settled(hub, again)
    assert set(again.versions) == {keys["changed"]}
    assert set(again.held) == {keys["kept"], keys["changed"]}
    assert purposes(again, keys["changed"]) == ["shop/terms"]
    await subjects.decide_consent(kept, agreed())
    await settled(hub, again)
    assert purposes(again, keys["kept"]) == ["shop/terms"]


@pytest.mark.parametrize("reconnects", [False, True])
async def test_whoever_is_separated_again_is_not_taken_for_the_other(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore, reconnects: bool
) -> None:
    one = Sidecar(hub, catalogue)
    first = Identifier("subject", IDP, "a")
    second = Identifier("subject", "https://other.example", "b")
    mail = (Identifier("email", "", "x@mail.example"),)
    customer = (await subjects.resolve(Introduction("shop/retail", first, mail), "t")).customer
    await subjects.resolve(Introduction("shop/retail", second, mail), "t")
    keys = [key_of(Identity(each.issuer, each.value)) for each in (first, second)]
    assert await met(hub, one, keys[0], subject="a") == customer
    assert await met(hub, one, keys[1], subject="b", issuer=second.issuer) == customer
    if reconnects:
        hub.leave(one.session)
    links = await subjects.links(customer)
    for link in links:
        if link.identifier == second:
            await subjects.undo(link.id, "operator")
    seen = one
    if reconnects:
        seen = Sidecar(hub, catalogue, held=one.versions)
        seen.held = dict(one.held)
    await settled(hub, seen)
    assert set(seen.held) == {keys[0]}, "the other has to be asked about anew"
    assert await met(hub, seen, keys[1], subject="b", issuer=second.issuer) != customer


async def test_what_it_brings_of_another_pool_is_taken_from_it(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    bank = Sidecar(hub, catalogue, "two", "bank")
    customer = await met(hub, bank, "k")
    thief = Sidecar(hub, catalogue, held={"k": f"{customer}:0", "l": "cus_none:1", "m": "x"})
    await settled(hub, thief)
    assert thief.held == {}
    removed = [name for each in thief.answers("push") for name in each.removed]
    assert sorted(removed) == ["subject/k", "subject/l"]


async def test_what_it_says_that_it_brings_is_not_its_own_before_that_is_looked_at(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    policy = DOCUMENTS.replace("NS", "shop").replace(
        "anonymous: merge", "anonymous: merge\n  risk: {signals: {failed-proof: 30}}"
    )
    published(catalogue, policy, namespace="shop", version=2)
    bank = Sidecar(hub, catalogue, "two", "bank")
    customer = await met(hub, bank, "k")
    await subjects.decide_consent(customer, agreed("shop/terms", max_uses=1))
    thief = Sidecar(hub, catalogue, held={"k": f"{customer}:0"})
    thief.say(spend=pb.Spend(use="u", customer=customer, purpose="shop/terms"))
    said = [event(1, customer, "signal", name="failed-proof"), event(2, customer)]
    thief.say(journey_events=pb.JourneyEvents(events=said))
    await settled(hub, thief)
    [record] = (await subjects.records([customer], "")).values()
    assert [each.used for each in record.consents] == [0]
    assert record.risk.points == 0
    kinds = [each.type for each in await subjects.events(0, 100)]
    assert "sidecar.request.refused" not in kinds


async def test_a_visitor_that_logs_in_becomes_the_customer_and_shows_nothing_of_them(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one = Sidecar(hub, catalogue)
    await met(hub, one, "v", subject="v1", issuer="urn:sidecar:visitor")
    customer = await met(hub, one, "k", visitor="v1")
    assert list(one.held["k"].visitors) == ["v1"]
    assert one.held["v"].customer == customer
    await subjects.decide_consent(customer, agreed())
    await settled(hub, one)
    assert purposes(one, "k") == ["shop/terms"]
    assert purposes(one, "v") == []  # a cookie proves little
    hub.leave(one.session)
    again = Sidecar(hub, catalogue, held={**one.versions, "v": f"{customer}:0:v1"})
    await settled(hub, again)
    assert purposes(again, "v") == []


@pytest.mark.parametrize("holder", ["nobody's", "a visitor's", "another's"])
async def test_a_visitor_that_is_kept_apart_need_not_be_said_again(
    hub: Hub, catalogue: Catalogue, holder: str
) -> None:
    if holder != "another's":
        text = DOCUMENTS.replace("NS", "shop").replace("anonymous: merge", "anonymous: keep-apart")
        published(catalogue, text, namespace="shop", version=2)
    one = Sidecar(hub, catalogue)
    before = ""
    if holder == "a visitor's":
        before = await met(hub, one, "v", subject="v1", issuer="urn:sidecar:visitor")
    elif holder == "another's":
        before = await met(hub, one, "bob", visitor="v1")
    customer = await met(hub, one, "alice", visitor="v1")
    assert customer != before
    assert list(one.held["alice"].visitors) == ["v1"]
    await met(hub, one, "alice", visitor="v2")
    assert sorted(one.held["alice"].visitors) == ["v1", "v2"]


async def test_more_than_can_be_looked_into_at_once_is_turned_away(
    hub: Hub, catalogue: Catalogue
) -> None:
    one = Sidecar(hub, catalogue)
    await settled(hub, one)
    for number in range(AT_ONCE + 3):
        one.introduce(f"k{number}")
    await settled(hub, one)
    assert [each.reason for each in one.answers("unknown")] == ["subject_crowded"] * 3
    assert len(one.held) == AT_ONCE


@pytest.mark.parametrize(
    "said",
    [
        {"key": ""},
        {"key": "k" * 65},
        {"subject": "\0"},
        {"subject": "x" * 5000},
        {"issuer": ""},
        {"attributes": [pb.AttributeValue(ref="shop/city", value=b"{")]},
    ],
)
async def test_what_no_sidecar_should_say_is_refused(
    hub: Hub, catalogue: Catalogue, said: Mapping[str, Any]
) -> None:
    one = Sidecar(hub, catalogue)
    await settled(hub, one)
    fields = {"key": "k", "issuer": "https://idp.example", "subject": "a", **said}
    one.say(introduction=pb.Introduction(**fields))
    await settled(hub, one)
    (answer,) = one.answers("unknown")
    assert answer.reason == "subject_refused"
    assert one.held == {}
    assert hub.followed() == 0


async def test_a_store_that_fails_leaves_nobody_believing_what_is_old(
    subjects: SubjectStore, catalogue: Catalogue, clock: Clock
) -> None:
    class Failing(SubjectStore):
        broken = False

        async def records(self, customers: Iterable[str], reader: str) -> dict[str, Record]:
            if self.broken:
                raise StoreFailed("gone")
            return await super().records(customers, reader)

    store = Failing(subjects._engine, clock)
    hub = Hub(store, catalogue, b"s" * 32, clock)
    store.changed = hub.changed
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    store.broken = True
    await store.decide_consent(customer, agreed())
    await settled(hub, one)
    assert one.session.ended  # it comes again, and is not current until it was sent all
    back = Sidecar(hub, catalogue, held=one.versions)
    await settled(hub, back)
    assert back.session.ended
    assert not back.answers("idle")
    await hub.close()


# What sidecars say of requests.


def event(number: int, customer: str, kind: str = "refused", /, **data: Any) -> pb.JourneyEvent:
    written = orjson.dumps(data)
    return pb.JourneyEvent(
        number=number, id=f"e{number}", customer=customer, type=kind, time_ms=1500, data=written
    )


async def test_events_are_kept_once_and_taken_by_number(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    before = (await subjects.events(0, 100))[-1].seq
    bad = event(3, customer)
    bad.data = b"[]"
    said = pb.JourneyEvents(
        events=[
            event(1, customer, code="denied"),
            event(2, customer, "challenge.issued", kind="consent", ticket="t1", expires=2e6),
            bad,
            event(4, customer, "made.up"),
        ]
    )
    for _ in range(2):
        one.say(journey_events=said)
        await settled(hub, one)
    assert [each.number for each in one.answers("journey_events_taken")] == [4, 4]
    found = await subjects.events(before, 100)
    assert [each.type for each in found] == [
        "sidecar.request.refused", "sidecar.challenge.issued",
    ]  # fmt: skip
    assert found[0].data["sidecar"] == "one"
    assert found[0].data["at"] == 1.5


async def test_an_event_that_is_said_again_to_a_new_control_plane_has_the_id_it_had(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore, clock: Clock
) -> None:
    one, two = Sidecar(hub, catalogue), Sidecar(hub, catalogue, "two")
    customer = await met(hub, one, "k")
    assert await met(hub, two, "k") == customer
    before = (await subjects.events(0, 100))[-1].seq
    restarted = Hub(subjects, catalogue, b"s" * 32, clock)
    try:
        again = Sidecar(restarted, catalogue, held=one.versions)
        await settled(restarted, again)
        for sidecar in (one, again, two):
            sidecar.say(journey_events=pb.JourneyEvents(events=[event(1, customer)]))
        await settled(hub, one, two)
        await settled(restarted, again)
    finally:
        await restarted.close()
    ids = [each.id for each in await subjects.events(before, 100)]
    assert len(ids) == 3
    assert len(set(ids)) == 2  # another sidecar's event of that name is another one


async def test_events_of_whom_it_let_go_meanwhile_are_kept(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore
) -> None:
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    before = (await subjects.events(0, 100))[-1].seq
    one.say(journey_events=pb.JourneyEvents(events=[event(1, customer)]))
    one.say(released=pb.Released(keys=["k"]))
    await settled(hub, one)
    assert len(await subjects.events(before, 100)) == 1


async def test_a_signal_raises_the_risk_as_the_policy_says_and_no_other_does(
    hub: Hub, catalogue: Catalogue, subjects: SubjectStore, clock: Clock
) -> None:
    one = Sidecar(hub, catalogue)
    customer = await met(hub, one, "k")
    events = [
        event(1, customer, "signal", name="failed-proof"),
        event(2, customer, "signal", name="made-up"),
    ]
    one.say(journey_events=pb.JourneyEvents(events=events))
    await settled(hub, one)
    record = await subjects.record(customer, "test", "test")
    assert record is not None
    assert record.risk.points_at(clock.now) == 30.0
