"""Customers' records in memory, as the pages need them: tickets by name, everything remembered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

import orjson

from sidecar.control.pages.journeys import (
    Answers,
    Completed,
    CustomerGone,
    Identifier,
    Interaction,
    KnownAttribute,
    PrivacyView,
    Purpose,
    PurposeState,
    Question,
    Receipt,
    TicketRefused,
)
from sidecar.control.pages.languages import words
from sidecar.errors import StoreFailed

T = TypeVar("T")
T0 = 1_780_000_000.0
RETURN_TO = "https://app.example/transfers?from=1"

PAY = Purpose(
    ref="default/pay",
    version=3,
    title="Make this payment",
    text="We pay the amount below once, to the recipient below.",
    recipients=("Example Bank", "The recipient's bank"),
    values={"amount": 5000, "currency": "EUR", "to": "DE02 1203 0000 0000 2020 51"},
    binding="9f2c",
    holds=600.0,
    max_uses=1,
    attributes=("Account number", "Name"),
)
OFFERS = Purpose(
    ref="default/offers",
    version=1,
    title="Send me offers",
    text="We write to you at most once a month.",
    legal_basis="consent",
    attributes=("E-mail",),
)
PHONE = Question(
    "default/phone_number", "Phone number", "For questions about this payment.", "phone"
)
BORN = Question("default/birthdate", "Date of birth", type="date")
TIER = Question(
    "default/tier", "Which plan do you have in mind?", type="choice",
    choices=(("basic", "Basic"), ("plus", "Plus")), required=False,
)  # fmt: skip
_TITLES = {"en": "Make this payment", "de": "Diese Zahlung ausführen"}
VIEW = PrivacyView(
    who="k•••@example.org",
    attributes=(
        KnownAttribute("default/email", "E-mail", "kim@example.org", "Told by login.example", T0 - 4e6),
        KnownAttribute("default/phone_number", "Phone number", "+4930901820", "You told it", T0 - 9e5, T0 + 3e7),
        KnownAttribute("default/iban", "Account number", "DE02 1203", "Contract", T0 - 8e7, deletable=False),
    ),
    purposes=(
        PurposeState(PAY, "granted", T0 - 100, T0 + 500, 0),
        PurposeState(OFFERS, "granted", T0 - 4e6, None, 12),
        PurposeState(replace(OFFERS, ref="default/stats", title="Count visits"), "refused", T0 - 5e6),
        PurposeState(replace(OFFERS, ref="default/survey", title="Surveys"), "none"),
    ),
    identifiers=(Identifier("email", "k•••@example.org", T0 - 4e6), Identifier("device", "…e41c")),
    receipts=(Receipt("r-01", T0 - 100, "Make this payment", "granted"),),
)  # fmt: skip


@dataclass
class Records:
    """`tickets` by text; what was answered is gone from there and in `used`."""

    tickets: dict[str, Interaction] = field(default_factory=dict)
    privacy_tickets: dict[str, str] = field(default_factory=dict)
    views: dict[str, PrivacyView] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)
    answers: list[tuple[str, Answers, tuple[str, ...]]] = field(default_factory=list)
    done: list[tuple[str, ...]] = field(default_factory=list)
    fails: BaseException | None = None
    in_german: bool = False

    async def opened(self, ticket: str, languages: tuple[str, ...]) -> Interaction:
        found = self._open(ticket, self.tickets)
        if not self.in_german:
            return found
        language, title = words(_TITLES, languages)
        purposes = tuple([replace(each, title=title, language=language) for each in found.purposes])
        return replace(found, purposes=purposes)

    async def answer(self, ticket: str, answers: Answers, languages: tuple[str, ...]) -> Completed:
        found = self._open(ticket, self.tickets)
        self.used.add(ticket)
        self.answers.append((ticket, answers, languages))
        return Completed(found.return_to)

    async def enter(self, ticket: str) -> str:
        customer = self._open(ticket, self.privacy_tickets)
        self.used.add(ticket)
        return customer

    async def privacy(self, customer: str, languages: tuple[str, ...]) -> PrivacyView:
        return self._view(customer)

    async def withdraw(
        self, customer: str, ref: str, binding: str, languages: tuple[str, ...]
    ) -> None:
        view = self._view(customer)
        self.done.append(("withdraw", customer, ref, binding))
        self.views[customer] = replace(
            view,
            purposes=tuple([
                replace(each, state="withdrawn", since=T0)
                if (each.purpose.ref, each.purpose.binding) == (ref, binding) and each.state == "granted"
                else each
                for each in view.purposes
            ]),
        )  # fmt: skip

    async def forget(self, customer: str, name: str) -> None:
        view = self._view(customer)
        self.done.append(("forget", customer, name))
        kept = tuple([each for each in view.attributes if each.name != name or not each.deletable])
        self.views[customer] = replace(view, attributes=kept)

    async def export(self, customer: str) -> bytes:
        return orjson.dumps({"customer": customer, "who": self._view(customer).who})

    async def erase(self, customer: str) -> None:
        self._view(customer)
        self.done.append(("erase", customer))
        del self.views[customer]

    def _view(self, customer: str) -> PrivacyView:
        self._fail()
        if customer not in self.views:
            raise CustomerGone(customer)
        return self.views[customer]

    def _open(self, ticket: str, tickets: dict[str, T]) -> T:
        self._fail()
        if ticket in self.used:
            raise TicketRefused("used")
        if ticket in self.expired:
            raise TicketRefused("expired")
        if ticket not in tickets:
            raise TicketRefused("invalid")
        return tickets[ticket]

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails


def records() -> Records:
    """One ticket of each sort."""
    return Records(
        tickets={
            "pay": Interaction("consent", (PAY,), return_to=RETURN_TO, who="k•••@example.org", service="Example Bank"),
            "two": Interaction("consent", (PAY, OFFERS), return_to=RETURN_TO),
            "all": Interaction("consent", (PAY,), (PHONE, BORN), TIER, RETURN_TO, "k•••@example.org", "Example Bank"),
            "profile": Interaction("profile", (), (PHONE, BORN), TIER, RETURN_TO, "k•••@example.org", "Example Bank"),
            "optional": Interaction("profile", (), (), TIER, RETURN_TO),
            "program": Interaction("consent", (PAY,)),
        },
        privacy_tickets={"mine": "c-1"},
        views={"c-1": VIEW},
    )  # fmt: skip


STORE_DOWN = StoreFailed("postgresql is away")
