"""Customers as messages of the stream, both ways, without a stream."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

import pytest

from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import Identity, SpendConsent
from sidecar.decide.subjects import Grant, Subject
from sidecar.errors import ReleaseRefused
from sidecar.facts import subject_stream
from sidecar.facts.customers import Event, Link, NoLink, Spending
from sidecar.facts.subject_stream import SubjectStream, subject
from sidecar.wire import convert
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import FromControl, FromSidecar, Idle, Push, Resource


class Hearer:
    """What was heard, in order."""

    link: Link = NoLink()

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.records: dict[str, Subject | None] = {}

    def take(self, key: str, subject: Subject | None) -> None:
        self.records[key] = subject
        self.heard.append(("take", key))

    def unknown(self, key: str, reason: str) -> None:
        self.heard.append(("unknown", key, reason))

    def spent(self, use: str, outcome: Spending) -> None:
        self.heard.append(("spent", use, outcome))

    def taken(self, ids: Iterable[str]) -> None:
        self.heard.append(("taken", *ids))

    def keys(self, visitor: bytes, ticket: bytes) -> None:
        self.heard.append(("keys", visitor, ticket))

    def connected(self) -> None:
        self.heard.append(("connected",))

    def disconnected(self, since: float) -> None:
        self.heard.append(("disconnected", since))

    def away(self) -> None:
        self.heard.append(("away",))

    def again(self) -> None:
        self.heard.append(("again",))


class Stage:
    """A stream that is open, and what was said on it."""

    def __init__(self) -> None:
        self.hearer = Hearer()
        self.stream = SubjectStream(self.hearer, "shop")
        self.said: list[FromSidecar] = []
        self.stream.opened(self.said.append)

    def push(self, *resources: Resource, removed: Iterable[str] = ()) -> bool:
        push = Push(type=convert.SUBJECT, nonce="1", resources=resources, removed=removed)
        return self.stream.receive(FromControl(push=push))

    def held(self) -> dict[str, str]:
        return {each.name: each.version for each in self.stream.subscription().held}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def resource(key: str, version: str = "cus_1:1", **fields: object) -> Resource:
    record = pb.SubjectRecord(customer="cus_1", version=1, **fields)  # type: ignore[arg-type]
    return Resource(name=f"subject/{key}", version=version, subject=record)


def event(number: int) -> Event:
    return Event(f"e{number}", "cus_1", "refused", 1.5, b"{}")


def test_an_introduction_says_all_of_it_and_nothing_else(stage: Stage) -> None:
    stage.stream.introduce(
        "k",
        Introduction(
            "shop/retail", Identity("https://idp", "alice"), (("email", "a@b.c"),),
            (("device", "d1"),), "v1", True, (("shop/city", '"Ulm"'),),
        ),
    )  # fmt: skip
    (message,) = stage.said
    assert message.introduction == pb.Introduction(
        key="k",
        issuer="https://idp",
        subject="alice",
        identifiers=[
            pb.Identifier(type="email", value="a@b.c"),
            pb.Identifier(type="device", value="d1"),
        ],
        visitor="v1",
        attributes=[pb.AttributeValue(ref="shop/city", value=b'"Ulm"')],
    )


def test_a_use_is_named_whole_and_its_outcome_comes_back(stage: Stage) -> None:
    stage.stream.spend("u", SpendConsent("cus_1", "shop/pay", "ff"))
    expected = pb.Spend(use="u", customer="cus_1", purpose="shop/pay", binding="ff")
    assert stage.said[0].spend == expected
    for outcome, found in (
        (pb.Spent.OUTCOME_SPENT, Spending.SPENT),
        (pb.Spent.OUTCOME_EXHAUSTED, Spending.EXHAUSTED),
        (pb.Spent.OUTCOME_MISSING, Spending.MISSING),
        (pb.Spent.OUTCOME_FAILED, Spending.FAILED),
        (pb.Spent.OUTCOME_UNSPECIFIED, Spending.FAILED),
        (99, Spending.FAILED),  # of a later version: it is not known to be counted
    ):
        assert stage.stream.receive(FromControl(spent=pb.Spent(use="u", outcome=outcome)))  # type: ignore[arg-type]
        assert stage.hearer.heard[-1] == ("spent", "u", found)


def test_a_record_becomes_what_decisions_read(stage: Stage) -> None:
    assert stage.push(
        resource(
            "k",
            grants=[
                pb.Grant(
                    purpose="shop/pay",
                    version=3,
                    binding="ff",
                    since_ms=1500,
                    until_ms=9000,
                    left=0,
                ),
                pb.Grant(purpose="platform/terms", version=1, since_ms=1000),
            ],
            attributes=[pb.AttributeValue(ref="shop/city", value=b'"Ulm"')],
            present=["shop/phone"],
            segments=["gold"],
            risk=40.0,
            risk_at_ms=2000,
            half_life_seconds=60.0,
            visitors=["v1"],
        )
    )
    found = stage.hearer.records["k"]
    assert found is not None
    assert found.grants == (
        Grant("shop/pay", 3, "ff", 1.5, 9.0, 0),
        Grant("platform/terms", 1, "", 1.0, inf, None),
    )
    assert found.profile == {"city": "Ulm"}
    assert found.present == {"phone"}
    assert found.segments == {"gold"}
    assert found.visitors == {"v1"}
    assert found.customer == "cus_1"
    assert (found.risk, found.since, found.half_life) == (40.0, 2.0, 60.0)
    assert found.risk_at(62.0) == 20.0
    assert stage.hearer.heard[-1] == ("connected",)


@pytest.mark.parametrize("order", [1, -1])
def test_what_platform_says_of_a_name_counts_and_other_namespaces_say_nothing(order: int) -> None:
    said = [
        pb.AttributeValue(ref="platform/tier", value=b'"gold"'),
        pb.AttributeValue(ref="shop/tier", value=b'"none"'),
        pb.AttributeValue(ref="bank/balance", value=b"1"),
        pb.AttributeValue(ref="shop/city", value=b'"Ulm"'),
    ][::order]
    record = pb.SubjectRecord(attributes=said, present=["bank/pin", "platform/phone"])
    found = subject(record, "shop")
    assert found.profile == {"tier": "gold", "city": "Ulm"}
    assert found.present == {"phone"}


def test_a_risk_without_a_half_life_stays_and_none_is_beyond_its_bounds() -> None:
    assert subject(pb.SubjectRecord(risk=500.0), "shop").risk_at(1e9) == 100.0
    assert subject(pb.SubjectRecord(risk=-5.0), "shop").risk == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        Resource(name="document/k2", subject=pb.SubjectRecord()),
        Resource(name="subject/", subject=pb.SubjectRecord()),
        Resource(name="subject/k2", document=b"{}"),
        resource("k2", attributes=[pb.AttributeValue(ref="shop/city", value=b"{")]),
    ],
)
def test_of_a_push_that_makes_no_sense_none_counts_and_nothing_before_it(
    stage: Stage, bad: Resource
) -> None:
    for key in ("k", "k3", "k4"):
        stage.push(resource(key))
    stage.hearer.heard.clear()
    with pytest.raises(ReleaseRefused):
        stage.push(resource("k", "cus_1:2"), bad, removed=["subject/k3"])
    kinds = [each[0] for each in stage.hearer.heard]
    assert set(kinds) == {"unknown"}
    assert ("unknown", "k", "subject_refused") in stage.hearer.heard
    assert stage.held() == {"subject/k4": "cus_1:1"}


def test_a_hello_names_what_is_held_still(stage: Stage) -> None:
    assert stage.stream.subscription().type == convert.SUBJECT
    stage.push(resource("a", "cus_1:1"), resource("b", "cus_2:1"), resource("c"), resource("d"))
    stage.push(resource("a", "cus_1:2"), removed=["subject/b"])
    stage.stream.release(["c"])
    stage.stream.receive(FromControl(unknown=pb.Unknown(key="d", reason="x" * 100)))
    assert stage.held() == {"subject/a": "cus_1:2"}
    assert ("take", "b") in stage.hearer.heard
    assert stage.hearer.records["b"] is None
    assert stage.hearer.heard[-1] == ("unknown", "d", "x" * 64)
    assert [list(each.released.keys) for each in stage.said] == [["c"]]


def test_events_are_numbered_and_taken_up_to_a_number(stage: Stage) -> None:
    stage.stream.report([event(1), event(2)])
    stage.stream.report([event(3)])
    sent = [each for message in stage.said for each in message.journey_events.events]
    assert [(each.number, each.id, each.time_ms) for each in sent] == [
        (1, "e1", 1500), (2, "e2", 1500), (3, "e3", 1500),
    ]  # fmt: skip
    for number in (2, 2, 3):
        taken = pb.JourneyEventsTaken(number=number)
        stage.stream.receive(FromControl(journey_events_taken=taken))
    assert [each for each in stage.hearer.heard if each[0] == "taken"] == [
        ("taken", "e1", "e2"), ("taken",), ("taken", "e3"),
    ]  # fmt: skip


def test_after_a_reconnect_the_numbers_of_the_stream_before_mean_nothing(stage: Stage) -> None:
    stage.stream.report([event(1)])
    stage.stream.closed(7.0)
    assert ("disconnected", 7.0) in stage.hearer.heard
    stage.stream.report([event(2)])  # said to nobody
    assert len(stage.said) == 1
    stage.stream.opened(stage.said.append)
    assert stage.hearer.heard.count(("again",)) == 2
    stage.stream.receive(FromControl(journey_events_taken=pb.JourneyEventsTaken(number=2)))
    assert ("taken", "e1") not in stage.hearer.heard


def test_many_events_are_several_messages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject_stream, "MOST_EVENTS", 2)
    stage.stream.report([event(n) for n in range(5)])
    assert [len(each.journey_events.events) for each in stage.said] == [2, 2, 1]


def test_what_is_about_something_else_is_left_to_others(stage: Stage) -> None:
    stage.hearer.heard.clear()
    assert not stage.stream.receive(FromControl(idle=Idle(type=convert.RELEASE)))
    assert not stage.stream.receive(FromControl(push=Push(type=convert.RELEASE)))
    assert stage.hearer.heard == []
    assert stage.stream.receive(FromControl(idle=Idle(type=convert.SUBJECT)))
    keys = pb.SubjectKeys(visitor=b"v", ticket=b"t")
    assert stage.stream.receive(FromControl(subject_keys=keys))
    assert stage.hearer.heard == [("connected",), ("keys", b"v", b"t")]
