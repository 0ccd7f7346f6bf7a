"""What the authorizer does for customers, against customers that the test plays."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.documents import Document
from sidecar.decide.journey import Introduction, bound
from sidecar.decide.outcomes import (
    Code,
    Identity,
    Permit,
    Plan,
    Refuse,
    SpendConsent,
    Unavailable,
)
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.step_up import StepUp
from sidecar.decide.subjects import Subject
from sidecar.edge.journeys import AGAIN, MOST_SAID, Journeys
from sidecar.facts import tickets
from sidecar.facts.customers import Spending
from sidecar.telemetry.metrics import Metrics

NOW = 1_800_000_000.0
SECRET = b"t" * 32
ALICE = Identity("https://idp.example", "alice")
PAGES = "https://id.example/i"
WORDS = "words: {en: {title: T, text: T}}"
DOCUMENTS = f"""
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {{name: app}}
spec: {{interaction: {{url: "{PAGES}"}}}}
---
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {{name: retail}}
spec: {{}}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {{name: terms, namespace: platform}}
spec: {{version: 3, {WORDS}}}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {{name: pay}}
spec: {{{WORDS}}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {{name: phone}}
spec: {{attribute: phone_number, words: {{en: {{label: Phone}}}}}}
"""


class Customers:
    """Whoever is asked; what was said."""

    def __init__(self) -> None:
        self.ticket_secret = SECRET
        self.visitor_secret = b"v" * 32
        self.record: Subject | Unavailable | None = Subject(customer="cus_1")
        self.outcomes = [Spending.SPENT]
        self.spent: list[SpendConsent] = []
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def get(self, identity: Identity, now: float) -> Subject | Unavailable | None:
        return self.record if identity.subject == "alice" else None

    def lost(self) -> float | None:
        return None

    async def fetch(self, identity: Identity, introduction: Introduction | None) -> None:
        raise AssertionError("nobody is fetched here")

    async def refresh(self, identity: Identity) -> None:
        raise AssertionError("nobody is fetched here")

    async def spend(self, effect: SpendConsent) -> Spending:
        self.spent.append(effect)
        return self.outcomes.pop(0)

    def report(self, customer: str, kind: str, data: dict[str, Any]) -> None:
        self.said.append((customer, kind, data))


class Stage:
    def __init__(self) -> None:
        self.now = NOW
        self.customers = Customers()
        self.metrics = Metrics()
        self.journeys = Journeys(self.customers, self.metrics, lambda: self.now)

    def challenged(self, refuse: Refuse, *, browser: bool = False) -> Refuse:
        return self.journeys.challenged(request(browser), refuse, snapshot(), "d1")

    def counted(self, kind: str) -> float:
        (family,) = [e for e in self.metrics.collect() if e.name == "sidecar_challenges"]
        return sum(s.value for s in family.samples if s.labels.get("kind") == kind)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def documents() -> list[Document]:
    found, problems = parse([Source("t.yaml", DOCUMENTS)])
    assert not problems
    return found


def snapshot() -> Snapshot:
    return compile_snapshot(documents(), namespace="default", labels={})


def request(browser: bool = False) -> Request:
    headers = [(b"accept", b"text/html")] if browser else []
    return Request(
        "GET", "/transfers", ["transfers"], b"a=1", "app.example", "app.example", "https",
        headers, "192.0.2.1",
    )  # fmt: skip


def refused(plan: Plan | None = None, **more: Any) -> Refuse:
    fields = {"identity": ALICE, "rule": "default/p/r", "interaction": PAGES, **more}
    return Refuse(Code.CONSENT_REQUIRED, "consent_missing", plan=plan, **fields)


def opened(refuse: Refuse) -> tickets.Opened:
    def secret(namespace: str) -> bytes:
        assert namespace == "default"
        return SECRET

    return tickets.open_(refuse.ticket, secret, NOW)


def test_a_consent_that_is_missing_comes_with_a_ticket_for_it(stage: Stage) -> None:
    about = bound("pay", [("amount", 5)])
    plan = Plan("consent", consent=("terms", "pay", "other"), profile=("phone_number",),
                transactions=(about,))  # fmt: skip
    found = opened(stage.challenged(refused(plan)))
    contents = found.contents
    assert (contents.kind, contents.customer, contents.decision) == ("consent", "cus_1", "d1")
    assert [(each.purpose, each.version, each.binding) for each in contents.purposes] == [
        ("platform/terms", 3, ""), ("default/pay", 1, about.digest), ("default/other", 1, ""),
    ]  # fmt: skip
    assert contents.purposes[1].values == {"amount": 5}
    assert contents.attributes == ()  # one thing at a time
    assert (contents.back, contents.service) == ("", "app")
    assert found.expires == NOW + tickets.SECONDS


def test_what_is_missing_of_the_profile_comes_by_the_names_that_others_know(stage: Stage) -> None:
    plan = Plan("profile", profile=("phone_number", "shoe"))
    contents = opened(stage.challenged(refused(plan), browser=True)).contents
    assert contents.attributes == ("default/phone_number", "default/shoe")
    assert contents.back == "https://app.example/transfers?a=1"


@pytest.mark.parametrize(
    ("plan", "leads"),
    [
        (Plan("consent", consent=("nobody-wrote-it",)), False),
        (Plan("consent", consent=("nobody-wrote-it", "terms")), True),
        (Plan("profile", profile=("nobody-wrote-it",)), False),
        (Plan("profile", profile=("nobody-wrote-it", "phone_number")), True),
    ],
)
def test_nobody_is_sent_where_nothing_could_be_asked(stage: Stage, plan: Plan, leads: bool) -> None:
    found = stage.challenged(refused(plan))
    assert (bool(found.ticket), bool(found.interaction)) == (leads, leads)
    assert found.plan == plan  # what is missing is said all the same


def test_the_way_to_the_privacy_page_is_a_ticket_too(stage: Stage) -> None:
    assert opened(stage.challenged(refused(Plan("privacy")))).contents.kind == "privacy"


@pytest.mark.parametrize(
    "plan",
    [
        Plan("authenticate"),
        Plan("scope", missing_scopes=("a",)),
        Plan("step_up", step_up=StepUp(acr=("urn:mfa",))),
    ],
    ids=lambda plan: plan.kind,
)
def test_what_others_complete_comes_without_one(stage: Stage, plan: Plan) -> None:
    refuse = refused(plan)
    assert stage.challenged(refuse) is refuse
    assert stage.counted(plan.kind) == 1
    assert stage.customers.said[0][1] == "challenge.issued"
    assert "ticket" not in stage.customers.said[0][2]


@pytest.mark.parametrize("why", ["no pages", "no secret", "nobody", "unavailable", "too much"])
def test_without_a_ticket_the_challenge_stands(stage: Stage, why: str) -> None:
    plan = Plan("consent", consent=("terms",))
    refuse = refused(plan)
    if why == "no pages":
        refuse = refused(plan, interaction="")
    elif why == "no secret":
        stage.customers.ticket_secret = b""
    elif why == "nobody":
        refuse = refused(plan, identity=None)
    elif why == "unavailable":
        stage.customers.record = Unavailable("x")
    else:
        about = [bound(f"p{n}", [(f"v{m}", "x" * 1000) for m in range(4)]) for n in range(3)]
        names = tuple([each.purpose for each in about])
        refuse = refused(Plan("consent", consent=names, transactions=tuple(about)))
    assert stage.challenged(refuse).ticket == ""
    assert stage.counted("consent") == 1


def test_a_challenge_is_reported_with_names_and_no_values(stage: Stage) -> None:
    about = bound("pay", [("amount", 123456)])
    plan = Plan("consent", consent=("pay",), transactions=(about,))
    found = opened(stage.challenged(refused(plan)))
    ((customer, kind, data),) = stage.customers.said
    assert (customer, kind) == ("cus_1", "challenge.issued")
    assert data == {
        "kind": "consent", "decision_id": "d1", "ticket": found.contents.id,
        "expires": NOW + tickets.SECONDS, "needs": {"consent": ["pay"]}, "service": "app",
        "rule": "default/p/r",
    }  # fmt: skip
    assert "123456" not in str(data)


def test_a_plain_refusal_is_reported_of_whom_is_known(stage: Stage) -> None:
    refuse = Refuse(Code.DENIED, "no_rule", identity=ALICE, rule="r")
    assert stage.challenged(refuse) is refuse
    assert stage.customers.said == [
        ("cus_1", "refused", {"code": "denied", "reason": "no_rule", "rule": "r",
                              "decision_id": "d1"})
    ]  # fmt: skip
    stage.challenged(Refuse(Code.DENIED, "no_rule"))
    stage.challenged(Refuse(Code.DENIED, "no_rule", identity=Identity("x", "bob")))
    assert len(stage.customers.said) == 1


def test_a_suspicion_is_said_once_a_minute_of_each_kind(stage: Stage) -> None:
    def names() -> list[str]:
        return [data["name"] for _, kind, data in stage.customers.said if kind == "signal"]

    revoked = Refuse(Code.INVALID_TOKEN, "revoked", suspect=ALICE)
    proof = Refuse(Code.INVALID_TOKEN, "proof_missing", suspect=ALICE)
    for _ in range(3):
        stage.challenged(revoked)
        stage.challenged(proof)
    assert names() == ["revoked-credential", "failed-proof"]
    stage.now += AGAIN - 1
    stage.challenged(revoked)
    assert len(names()) == 2
    stage.now += 1
    stage.challenged(revoked)
    assert names()[2:] == ["revoked-credential"]
    stage.challenged(Refuse(Code.INVALID_TOKEN, "revoked", suspect=Identity("x", "bob")))
    assert len(names()) == 3


def test_of_how_many_suspicions_are_remembered_there_is_a_bound(stage: Stage) -> None:
    for number in range(MOST_SAID + 3):
        stage.customers.record = Subject(customer=f"cus_{number}")
        stage.challenged(Refuse(Code.INVALID_TOKEN, "revoked", suspect=ALICE))
    assert len(stage.journeys._said) == MOST_SAID


# Uses of consents.


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Spending.EXHAUSTED, Code.CONSENT_REQUIRED),
        (Spending.MISSING, Code.CONSENT_REQUIRED),
        (Spending.FAILED, Code.UNAVAILABLE),
    ],
)
async def test_a_use_that_was_not_counted_is_a_refusal(
    stage: Stage, outcome: Spending, code: Code
) -> None:
    effects = tuple([SpendConsent("cus_1", f"default/p{n}", "") for n in range(3)])
    stage.customers.outcomes = [Spending.SPENT, outcome]
    refuse = await stage.journeys.spend(Permit("r", effects=effects))
    assert refuse is not None
    assert refuse.code is code
    assert stage.customers.spent == list(effects[:2])  # nothing more is used up


async def test_all_uses_that_were_counted_are_no_refusal(stage: Stage) -> None:
    effects = (SpendConsent("cus_1", "default/pay", "ff"),)
    assert await stage.journeys.spend(Permit("r", effects=effects)) is None
    assert await stage.journeys.spend(Permit("r")) is None
    assert stage.customers.spent == list(effects)


def test_a_permit_is_current_as_long_as_its_record_is(stage: Stage) -> None:
    record = stage.customers.record
    permit = Permit("r", identity=ALICE, subject=record)
    assert stage.journeys.current(permit)
    stage.customers.record = Subject(customer="cus_1")
    assert not stage.journeys.current(permit)
    stage.customers.record = None
    assert not stage.journeys.current(permit)
    assert stage.journeys.current(Permit("r"))


def test_a_visitors_cookie_is_set_where_a_rule_asks_for_it(stage: Stage) -> None:
    line = stage.journeys.cookie(request(), Permit("r", visitor=True), snapshot())
    assert line.startswith(b"set-cookie: __Host-sidecar-visitor=")
    assert stage.journeys.cookie(request(), Permit("r"), snapshot()) == b""
    assert stage.journeys.cookie(request(), Permit("r", visitor=True), None) == b""
