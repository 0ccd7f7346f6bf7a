"""What customers are shown and asked, out of documents and records; and what they answer.

The one implementation of what pages need (`pages.journeys`). A ticket says whose answer it is; its
namespace, of which documents and customers it may speak.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

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
from sidecar.control.pages.languages import told_by, words
from sidecar.control.subjects import questions, receipts
from sidecar.control.subjects.completing import Answered
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.published import Published, of
from sidecar.control.subjects.records import SUBJECT, VISITOR, Consent, Offered, Record
from sidecar.control.subjects.store import SubjectStore
from sidecar.control.subjects.transactions import NoCustomer
from sidecar.decide.documents import (
    PLATFORM,
    ConsentPurpose,
    ProfileAttribute,
    seconds,
)
from sidecar.decide.profiling import Told, by_the_way, required
from sidecar.errors import SealBroken
from sidecar.facts import tickets

Languages = tuple[str, ...]
PAGE: Final = "page"
COUNTED: Final = 10_000  # tickets that were opened, remembered so that each counts once
PROGRAM: Final = "api"
_TOLD: Final = "customer"


class Asking:
    """One per control plane. `secret(namespace)` is what its sidecars seal tickets with."""

    def __init__(
        self,
        store: SubjectStore,
        published: Published,
        secret: Callable[[str], bytes],
        stages: Counter[tuple[str, str]],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._published = published
        self._secret = secret
        self._stages = stages
        self._opened: OrderedDict[str, None] = OrderedDict()  # ids of tickets
        self._clock = clock

    # One ticket.

    async def opened(self, ticket: str, languages: Languages) -> Interaction:
        """What a ticket asks; it stays good. Raises TicketRefused."""
        opened = await self._open(ticket, ("consent", "profile"))
        record = await self._record(opened, "interaction")
        self._count_opened(opened.contents)
        asked, by = self._questions(opened, record)
        if by is not None and by not in record.asked:
            await self._store.asked(record.customer, [by])
        contents = opened.contents
        kind: Literal["consent", "profile"] = "consent" if contents.kind == "consent" else "profile"
        attributes = self._published.attributes(opened.namespace)
        return Interaction(
            kind=kind,
            purposes=tuple(
                [
                    purpose
                    for each in contents.purposes
                    if (purpose := self._purpose(opened.namespace, each, languages)) is not None
                ]
            ),
            questions=tuple([_question(ref, attributes[ref], True, languages) for ref in asked]),
            optional=None if by is None else _question(by, attributes[by], False, languages),
            return_to=contents.back,
            who=_who(record),
            service=contents.service,
        )

    async def answer(self, ticket: str, answers: Answers, languages: Languages) -> Completed:
        """Keeps the answers and uses the ticket up, both or neither. Raises TicketRefused."""
        opened = await self._open(ticket, ("consent", "profile"))
        record = await self._record(opened, "answer")
        contents = opened.contents
        decisions = []
        for each in contents.purposes:
            purpose = self._purpose(opened.namespace, each, languages)
            if purpose is not None and each.purpose in answers.consents:
                agreed = answers.consents[each.purpose]
                state: Literal["granted", "refused"] = "granted" if agreed else "refused"
                via = PROGRAM if answers.by_program else PAGE
                decisions.append(self._decision(purpose, state, via))
        asked, by = self._questions(opened, record)
        values = {
            ref: Offered(answers.values[ref], _TOLD, self._published.keep(ref))
            for ref in (*asked, *([by] if by is not None else []))
            if ref in answers.values
        }
        declined = [ref for ref in ([by] if by is not None else []) if ref in answers.declined]
        done = await self._store.complete(
            record.customer,
            Answered(contents.id, opened.expires, contents.kind, decisions, values, declined),
        )
        if not done:
            raise TicketRefused("used")
        refused = any(each.state != "granted" for each in decisions)
        self._stages[contents.kind, "refused" if refused else "completed"] += 1
        # Who says no is not sent back to where the same would be asked again at once.
        return Completed("" if refused else contents.back)

    async def enter(self, ticket: str) -> str:
        """The customer of a `privacy` ticket, which is used up. Raises TicketRefused."""
        opened = await self._open(ticket, ("privacy",))
        record = await self._record(opened, "privacy page")
        answered = Answered(opened.contents.id, opened.expires, "privacy")
        if not await self._store.complete(record.customer, answered):
            raise TicketRefused("used")
        self._stages["privacy", "completed"] += 1
        return record.customer

    def _count_opened(self, contents: tickets.Contents) -> None:
        """Each ticket once, however often its page is shown."""
        if contents.id not in self._opened:
            self._stages[contents.kind, "opened"] += 1
            self._opened[contents.id] = None
            while len(self._opened) > COUNTED:
                self._opened.popitem(last=False)

    # The privacy page.

    async def privacy(self, customer: str, languages: Languages) -> PrivacyView:
        """All that is known of a customer. Raises CustomerGone."""
        record = await self._known(customer, "privacy page")
        namespaces = self._namespaces(record)
        attributes = {
            ref: spec
            for each in namespaces
            for ref, spec in self._published.attributes(each).items()
        }
        return PrivacyView(
            who=_who(record),
            attributes=tuple(
                [
                    KnownAttribute(
                        each.name,
                        _label(attributes.get(each.name), each.name, languages),
                        each.value,
                        told_by(each.source, languages),
                        each.at,
                        each.expires,
                    )
                    for each in record.attributes
                    if each.value is not None
                ]
            ),
            purposes=tuple(self._states(record, namespaces, languages)),
            identifiers=tuple(
                [Identifier(each.type, _masked(each.value)) for each in record.identifiers]
            ),
            receipts=tuple(
                [_receipt(each.jws, each.id, each.at) for each in await self._receipts(record)]
            ),
        )

    async def withdraw(self, customer: str, ref: str, binding: str, languages: Languages) -> None:
        """Raises CustomerGone."""
        record = await self._known(customer, "withdrawal")
        held = next(
            (
                each
                for each in record.consents
                if (each.purpose, each.binding) == (ref, binding) and each.state == "granted"
            ),
            None,
        )
        if held is None:
            return
        decision = self._published.withdrawal(held, languages, via=PAGE)
        try:
            await self._store.decide_consent(record.customer, decision)
        except NoCustomer:
            raise CustomerGone("there is no such customer") from None

    async def forget(self, customer: str, name: str) -> None:
        """Raises CustomerGone."""
        try:
            await self._store.forget_attribute(customer, name)
        except NoCustomer:
            raise CustomerGone("there is no such customer") from None

    async def export(self, customer: str) -> bytes:
        """Everything, as JSON. Raises CustomerGone."""
        try:
            found = await self._store.export(customer)
            found["jwks"] = await self._store.jwks()
        except NoCustomer:
            raise CustomerGone("there is no such customer") from None
        return json.dumps(found, indent=2, sort_keys=True, default=str).encode()

    async def erase(self, customer: str) -> None:
        """Deletes everything. Raises CustomerGone."""
        try:
            await self._store.erase(customer, "customer")
        except NoCustomer:
            raise CustomerGone("there is no such customer") from None

    # Within.

    async def _open(self, ticket: str, kinds: tuple[str, ...]) -> tickets.Opened:
        try:
            opened = tickets.open_(ticket, self._secret, self._clock())
        except SealBroken as error:
            raise TicketRefused("expired" if error.expired else "invalid") from None
        if opened.contents.kind not in kinds:
            raise TicketRefused("invalid")
        if await self._store.redeemed(opened.contents.id):
            raise TicketRefused("used")
        return opened

    async def _record(self, opened: tickets.Opened, why: str) -> Record:
        """Of a customer whom the ticket's namespace may speak of. Raises TicketRefused."""
        record = await self._store.record(opened.contents.customer, _TOLD, why)
        if record is None or of(record.pool) not in (opened.namespace, PLATFORM):
            raise TicketRefused("invalid")
        return record

    async def _known(self, customer: str, why: str) -> Record:
        record = await self._store.record(customer, _TOLD, why)
        if record is None:
            raise CustomerGone("there is no such customer")
        return record

    def _namespaces(self, record: Record) -> list[str]:
        """Whose documents say something of a customer."""
        named = [each.purpose for each in record.consents]
        named += [each.name for each in record.attributes]
        return sorted({PLATFORM, of(record.pool), *[of(each) for each in named]})

    def _purpose(
        self, namespace: str, asked: tickets.Asked, languages: Languages
    ) -> Purpose | None:
        """As its document says it; None: there is none any more. Raises TicketRefused where its
        meaning has become another one: nobody agrees to what they were not asked."""
        spec = self._published.purposes(namespace).get(asked.purpose)
        if spec is None:
            return None
        if spec.version != asked.version:
            raise TicketRefused("expired")
        return self._shown(asked.purpose, spec, namespace, languages, asked.binding, asked.values)

    def _shown(
        self,
        ref: str,
        spec: ConsentPurpose,
        namespace: str,
        languages: Languages,
        binding: str = "",
        values: Mapping[str, Any] | None = None,
    ) -> Purpose:
        language, said = words(spec.words, languages)
        attributes = self._published.attributes(namespace)
        labels = {ref.partition("/")[2]: spec for ref, spec in attributes.items()}
        lives = [seconds(each) for each in (spec.expires, spec.review_every) if each is not None]
        return Purpose(
            ref=ref,
            version=spec.version,
            title=said.title,
            text=said.text,
            recipients=tuple(spec.recipients),
            legal_basis=spec.legal_basis,
            values=values or {},
            binding=binding,
            holds=min(lives, default=None),
            max_uses=spec.max_uses or (1 if binding else None),
            attributes=tuple([_label(labels.get(e), e, languages) for e in spec.attributes]),
            language=language,
        )

    def _decision(
        self, purpose: Purpose, state: Literal["granted", "refused"], via: str
    ) -> Decision:
        expires = None if purpose.holds is None else self._clock() + purpose.holds
        return Decision(
            purpose.ref, purpose.version, state, purpose.language, purpose.title, purpose.text,
            purpose.binding, purpose.values if purpose.binding else {}, expires, purpose.max_uses,
            via=via,
        )  # fmt: skip

    def _questions(self, opened: tickets.Opened, record: Record) -> tuple[list[str], str | None]:
        """Those that the ticket asks and are missing still; and one by the way."""
        attributes = self._published.attributes(opened.namespace)
        told = Told(
            frozenset([each.name for each in record.attributes if each.value is not None]),
            record.declined,
            record.asked,
        )
        asked = required(opened.contents.attributes, attributes, told)
        return asked, by_the_way(attributes, told, self._clock(), asked)

    def _states(
        self, record: Record, namespaces: list[str], languages: Languages
    ) -> list[PurposeState]:
        decided: dict[str, list[Consent]] = {}
        for each in record.consents:
            decided.setdefault(each.purpose, []).append(each)
        found = []
        for namespace in namespaces:
            for ref, spec in self._published.purposes(namespace).items():
                if of(ref) != namespace:
                    continue
                for consent in decided.pop(ref, [None]):
                    if consent is None:
                        shown = self._shown(ref, spec, namespace, languages)
                        found.append(PurposeState(shown, "none"))
                        continue
                    shown = self._shown(ref, spec, namespace, languages, consent.binding)
                    found.append(
                        PurposeState(
                            shown, consent.state, consent.at, consent.expires, consent.used
                        )
                    )
        # Of documents that are gone, too: what was granted can be withdrawn.
        for ref, consents in decided.items():
            for consent in consents:
                gone = Purpose(ref, consent.version, ref, "", binding=consent.binding)
                found.append(
                    PurposeState(gone, consent.state, consent.at, consent.expires, consent.used)
                )
        return found

    async def _receipts(self, record: Record) -> list[receipts.Receipt]:
        return (await self._store.receipts(record.customer))[::-1][:100]


def _question(ref: str, spec: ProfileAttribute, needed: bool, languages: Languages) -> Question:
    language, said = words(spec.words, languages)
    choices = tuple([(each, said.choices.get(each, each)) for each in spec.choices])
    return replace(
        questions.of(ref, spec), label=said.label, help=said.help or "", choices=choices,
        required=needed, language=language,
    )  # fmt: skip


def _label(spec: ProfileAttribute | None, name: str, languages: Languages) -> str:
    return name if spec is None else words(spec.words, languages)[1].label


def _receipt(jws: str, id_: str, at: float) -> Receipt:
    said = receipts.claims(jws)
    return Receipt(id_, at, str(said["title"]), said["state"])


def _who(record: Record) -> str:
    """Whose account it is, so that they see it and nobody else learns much."""
    by_type = {each.type: each.value for each in record.identifiers if each.type != VISITOR}
    shown = by_type.get("email") or by_type.get("phone") or by_type.get(SUBJECT)
    return _masked(shown) if shown else ""


def _masked(value: str) -> str:
    name, at, domain = value.partition("@")
    if at:
        return f"{name[:2]}…@{domain}"
    return value if len(value) <= 4 else f"{value[:2]}…{value[-2:]}"
