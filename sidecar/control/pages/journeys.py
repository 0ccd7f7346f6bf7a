"""What the pages ask of whoever keeps customers' records, and the values that go between.

Everything in here is for people: words are in their language already, identifiers are masked.
Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sidecar.errors import SidecarError

QuestionType = Literal["text", "email", "phone", "date", "number", "integer", "boolean", "choice"]
TicketCode = Literal["invalid", "expired", "used"]
LegalBasis = Literal[
    "consent", "contract", "legal-obligation", "vital-interests", "public-task",
    "legitimate-interests",
]  # fmt: skip
ConsentState = Literal["granted", "refused", "withdrawn", "none"]


class TicketRefused(SidecarError):
    """A ticket that does not open: not one of ours, too old, or answered before."""

    def __init__(self, code: TicketCode) -> None:
        super().__init__(code)
        self.code = code


class CustomerGone(SidecarError):
    """There is no such customer any more, by erasure say: what the session was for is over."""


@dataclass(frozen=True, slots=True)
class Question:
    """A ProfileAttribute (`namespace/name`) that a person is asked for. `choices` are value and
    label; `language` (BCP 47) is that of the words."""

    name: str
    label: str
    help: str = ""
    type: QuestionType = "text"
    choices: tuple[tuple[str, str], ...] = ()
    required: bool = True
    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    language: str = ""


@dataclass(frozen=True, slots=True)
class Purpose:
    """A ConsentPurpose (`namespace/name`), whole or for one transaction: then `values` are shown,
    and `binding` is its digest. `attributes` are the labels of what it covers."""

    ref: str
    version: int
    title: str
    text: str
    recipients: tuple[str, ...] = ()
    legal_basis: LegalBasis = "consent"
    values: Mapping[str, Any] = field(default_factory=dict)
    binding: str = ""
    holds: float | None = None
    max_uses: int | None = None
    attributes: tuple[str, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Interaction:
    """What one ticket asks. No two purposes share a `ref`.

    `questions` are required, in order; `optional` may be declined. `who` says whose account it is,
    masked; `service` what asks. `return_to` comes out of the ticket: where a browser goes back to,
    empty for other clients.
    """

    kind: Literal["consent", "profile"]
    purposes: tuple[Purpose, ...] = ()
    questions: tuple[Question, ...] = ()
    optional: Question | None = None
    return_to: str = ""
    who: str = ""
    service: str = ""

    def asked(self) -> tuple[Question, ...]:
        """All questions, in order."""
        return self.questions if self.optional is None else (*self.questions, self.optional)


@dataclass(frozen=True, slots=True)
class Answers:
    """By ref: whether they agree. By name: what they told, as the JSON value that its type says.
    `declined` are those that they do not want to be asked again.

    Who refuses a purpose tells nothing: `values` is empty then.
    """

    consents: Mapping[str, bool] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    declined: frozenset[str] = frozenset()
    by_program: bool = False
    """Nobody saw a page: receipts say so."""


@dataclass(frozen=True, slots=True)
class Completed:
    """Where a browser goes back to: http(s) and from the ticket; empty: nowhere."""

    return_to: str = ""


@dataclass(frozen=True, slots=True)
class KnownAttribute:
    """What is known, and from where: `source` is in words for people."""

    name: str
    label: str
    value: Any
    source: str
    since: float
    expires: float | None = None
    deletable: bool = True


@dataclass(frozen=True, slots=True)
class PurposeState:
    """Where a purpose stands, and how often it was used (0: never)."""

    purpose: Purpose
    state: ConsentState
    since: float | None = None
    expires: float | None = None
    used: int = 0


@dataclass(frozen=True, slots=True)
class Identifier:
    """How somebody is recognised: `type` is `email`, `device`, ...; `shown` is masked."""

    type: str
    shown: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """One change to a consent."""

    id: str
    when: float
    title: str
    state: ConsentState


@dataclass(frozen=True, slots=True)
class PrivacyView:
    """All that the privacy page shows of one customer."""

    who: str = ""
    attributes: tuple[KnownAttribute, ...] = ()
    purposes: tuple[PurposeState, ...] = ()
    identifiers: tuple[Identifier, ...] = ()
    receipts: tuple[Receipt, ...] = ()


class Journeys(Protocol):
    """Customers' records, as the pages need them.

    `languages` (BCP 47) is what the person reads, best first; it may be empty. Who picks words by
    it with `languages.words` picks the same ones to show and to put on a receipt. Everything raises
    StoreFailed where the records are out of reach: nothing has been changed then. What takes a
    `customer` raises CustomerGone.
    """

    async def opened(self, ticket: str, languages: tuple[str, ...]) -> Interaction:
        """What a ticket asks; it stays good. Raises TicketRefused, also for `privacy` tickets."""
        ...

    async def answer(self, ticket: str, answers: Answers, languages: tuple[str, ...]) -> Completed:
        """Stores the answers and uses the ticket up, both or neither. Raises TicketRefused."""
        ...

    async def enter(self, ticket: str) -> str:
        """The customer (id) of a `privacy` ticket, which is used up. Raises TicketRefused."""
        ...

    async def privacy(self, customer: str, languages: tuple[str, ...]) -> PrivacyView: ...

    async def withdraw(
        self, customer: str, ref: str, binding: str, languages: tuple[str, ...]
    ) -> None:
        """Withdraws what is granted; of what is not, nothing changes."""
        ...

    async def forget(self, customer: str, name: str) -> None:
        """Deletes one attribute; of what is unknown or has to stay, nothing changes."""
        ...

    async def export(self, customer: str) -> bytes:
        """Everything, as JSON."""
        ...

    async def erase(self, customer: str) -> None:
        """Deletes everything."""
        ...
