"""Export is everything; after erasure nothing is left, neither in tables nor in the file's bytes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from sidecar.control.schema import metadata
from sidecar.control.store import Store
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.receipts import ERASURE, verify
from sidecar.control.subjects.records import Introduction, Offered
from sidecar.control.subjects.store import SubjectStore
from sidecar.control.subjects.transactions import NoCustomer
from tests.control.subjects.callers import SOCIAL, caller, device, email, guest, known, sub
from tests.control.subjects.conftest import Clock

SECRETS = (
    "zq-alice-zq", "zq-mail@zq.example", "zq-social-zq", "zq-device-zq", "zq-visitor-zq",
    "zq-name-zq", "zq-segment-zq", "zq-amount-zq",
)  # fmt: skip


def whole() -> Introduction:
    return caller(
        sub("zq-alice-zq"), email("zq-mail@zq.example"), visitor="zq-visitor-zq", merge=True,
        remembered=(device("zq-device-zq"),),
        attributes={"d/name": Offered("zq-name-zq", "token")},
    )  # fmt: skip


async def lived(subjects: SubjectStore) -> tuple[str, str]:
    """A customer of whom there is a row in every table, and one who was merged into them."""
    visitor = (await known(subjects, guest("zq-visitor-zq"))).customer
    other = (await known(subjects, caller(sub("zq-social-zq", SOCIAL)))).customer
    alice = (await known(subjects, whole())).customer
    assert alice == visitor
    await known(subjects, caller(sub("zq-alice-zq"), sub("zq-social-zq", SOCIAL)))
    await known(subjects, caller("bob", email("zq-mail@zq.example")))  # a conflict, noted at bob's
    pay = Decision("shop/pay", 1, "granted", "en", "Pay", "I allow it.", "ab12",
                   {"amount": "zq-amount-zq"})  # fmt: skip
    await subjects.decide_consent(alice, pay)
    await subjects.spend(alice, "shop/pay", "ab12", "u")
    await subjects.set_segments(alice, ["zq-segment-zq"])
    await subjects.report(alice, "sidecar.challenge.issued", {"about": "zq-amount-zq"})
    assert await subjects.record(other, "admin", "a test") is not None
    await subjects.flush_reads()
    return alice, other


async def dump(store: Store) -> str:
    """Every row of every table, as text."""
    found: list[tuple[Any, ...]] = []
    async with store.engine.connect() as connection:
        for table in metadata.sorted_tables:
            found += [(table.name, *row) for row in await connection.execute(select(table))]
    return repr(found)


def files(url: str) -> bytes:
    """All that an SQLite store has on the disk."""
    path = Path(url.removeprefix("sqlite:///"))
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(path.name + "*")))


async def test_an_export_is_everything_as_json(subjects: SubjectStore) -> None:
    alice, other = await lived(subjects)
    found = json.loads(json.dumps(await subjects.export(other)))
    assert (found["customer"], sorted(found["ids"])) == (alice, sorted([alice, other]))
    assert {each["value"] for each in found["identifiers"]} == {
        "zq-alice-zq", "zq-mail@zq.example", "zq-social-zq", "zq-visitor-zq",
    }  # fmt: skip
    assert found["attributes"][0]["value"] == "zq-name-zq"
    assert found["attributes"][0]["source"] == "token"
    assert found["remembered"][0]["value"] == "zq-device-zq"
    assert found["segments"] == ["zq-segment-zq"]
    assert [(each["purpose"], each["used"]) for each in found["consents"]] == [("shop/pay", 1)]
    assert len(found["uses"]) == 1
    assert found["receipts"][0]["claims"]["values"] == {"amount": "zq-amount-zq"}
    assert "merged" in {each["kind"] for each in found["links"]}
    readers = {(each["reader"], each["why"]) for each in found["reads"]}
    assert readers == {("edge-1", "resolve"), ("admin", "a test"), ("customer", "export")}
    assert "sidecar.challenge.issued" in {each["type"] for each in found["events"]}
    assert found["risk"]["points"] == 0
    with pytest.raises(NoCustomer):
        await subjects.export("cus_nobody")


async def test_after_erasure_no_row_and_no_byte_is_left(
    subjects: SubjectStore, store: Store, url: str
) -> None:
    alice, other = await lived(subjects)
    before = await dump(store)
    assert [each for each in SECRETS if each not in before] == []
    bob = await subjects.find("shop", sub("bob"))
    erasure = await subjects.erase(other, "customer")
    assert set(erasure.customers) == {alice, other}
    await subjects.flush_reads()
    after = await dump(store)
    assert [each for each in SECRETS if each in after] == []
    assert await subjects.survivor(alice) is None
    assert await subjects.record(other, "admin", "a test") is None
    assert await subjects.find("shop", email("zq-mail@zq.example")) is None
    assert bob == await subjects.find("shop", sub("bob"))
    # What is left of them are their random ids, until everybody has heard of it.
    rows = {"subject_tombstones", "subject_outbox"}
    async with store.engine.connect() as connection:
        for table in metadata.sorted_tables:
            if "customer" in table.c and table.name not in rows:
                own = table.c.customer.in_([alice, other])
                count = select(func.count()).select_from(table).where(own)
                assert (await connection.execute(count)).scalar_one() == 0, table.name
    if url.startswith("sqlite"):
        raw = files(url)
        assert len(raw) > 100_000
        assert [each for each in SECRETS if each.encode() in raw] == []


async def test_the_bytes_are_there_before(subjects: SubjectStore, url: str) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("looks into the SQLite file")
    await lived(subjects)
    raw = files(url)
    assert [each for each in SECRETS if each.encode() not in raw] == []


async def test_an_erasure_is_certified_and_can_be_asked_for(
    subjects: SubjectStore, clock: Clock
) -> None:
    alice, other = await lived(subjects)
    erasure = await subjects.erase(alice, "customer")
    claims = verify(erasure.certificate, await subjects.jwks(), ERASURE)
    assert (claims["iat"], claims["by"], claims["rows"]) == (1_000_000, "customer", erasure.rows)
    assert erasure.rows["subjects"] == 2
    assert erasure.rows["subject_identifiers"] == 4
    assert erasure.rows["subject_receipts"] == 1
    assert alice not in erasure.certificate
    assert len(claims["customers"]) == 2
    for each in (alice, other):
        assert await subjects.erased(each) == erasure.certificate
    assert await subjects.erased("cus_nobody") is None
    with pytest.raises(NoCustomer):
        await subjects.erase(alice, "customer")
    clock.now += 30 * 86_400
    await subjects.delivered((await subjects.events(0))[-1].seq)
    await subjects.expire(clock.now)
    assert await subjects.erased(alice) == erasure.certificate


async def test_who_comes_back_is_somebody_new_and_empty(subjects: SubjectStore) -> None:
    alice, _ = await lived(subjects)
    await subjects.erase(alice, "customer")
    again = await known(subjects, caller(sub("zq-alice-zq"), email("zq-mail@zq.example")))
    assert again.customer != alice
    assert (again.attributes, again.consents, again.segments) == ((), (), frozenset())
    assert set(again.identifiers) == {sub("zq-alice-zq"), email("zq-mail@zq.example")}


async def test_undelivered_events_keep_their_kind_and_lose_what_they_said(
    subjects: SubjectStore,
) -> None:
    alice, _ = await lived(subjects)
    events = await subjects.events(0)
    await subjects.delivered(events[1].seq)
    await subjects.erase(alice, "customer")
    left = [each for each in await subjects.events(0) if each.customer == alice]
    assert all(each.data == {} for each in left[:-1])
    assert left[-1].type == "sidecar.subject.erased"
    assert left[0].seq > events[1].seq
    assert "sidecar.challenge.issued" in {each.type for each in left}


async def test_reads_and_uses_at_the_same_time_leave_nothing_behind(
    subjects: SubjectStore, store: Store
) -> None:
    alice, _ = await lived(subjects)
    for _ in range(3):
        await known(subjects, whole())
    await asyncio.gather(
        subjects.erase(alice, "customer"),
        subjects.flush_reads(),
        subjects.spend(alice, "shop/pay", "ab12", "late"),
        subjects.flush_reads(),
        return_exceptions=True,
    )
    await subjects.flush_reads()
    assert [each for each in SECRETS if each in await dump(store)] == []
    async with store.engine.connect() as connection:
        for name in ("subject_reads", "subject_uses"):
            query = text(f"SELECT count(*) FROM {name} WHERE customer = '{alice}'")
            assert (await connection.execute(query)).scalar_one() == 0
