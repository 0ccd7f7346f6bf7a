"""`/i`: a person is asked for consents and for what a route needs to know, by page and by JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

from sidecar.control.pages import guard, render
from sidecar.control.pages.guard import Refused, Seals
from sidecar.control.pages.journeys import Answers, Interaction, Journeys, Purpose, Question
from sidecar.control.pages.languages import Catalogue, accepted, catalogue, well_formed
from sidecar.control.pages.submission import Mistake, Submission, of_form, of_json
from sidecar.decide.strict import json_object

LONGEST_TICKET: Final = 8704  # characters: what is sealed, and a namespace before it
_CONSTRAINTS: Final = ("pattern", "min_length", "max_length", "minimum", "maximum")


def wished(request: web.Request, lang: str = "") -> tuple[str, ...]:
    """The person's languages, best first: what the address or the form says, then the browser."""
    first = lang or request.query.get("lang", "")
    rest = accepted(request.headers.get("accept-language", ""))
    return (first, *rest) if well_formed(first) else rest


def wants_json(request: web.Request) -> bool:
    """Whether a program asks: it names JSON, and no page."""
    accept = request.headers.get("accept", "").lower()
    return ("application/json" in accept or "problem+json" in accept) and "text/html" not in accept


class Prompt:
    """The handlers of `/i`. They raise Refused, TicketRefused and StoreFailed."""

    def __init__(self, journeys: Journeys, seals: Seals) -> None:
        self._journeys = journeys
        self._seals = seals

    async def ask(self, request: web.Request) -> web.Response:
        """GET: what the ticket asks, which stays unanswered."""
        ticket = _ticket(guard.single(request, "ticket"))
        languages = wished(request)
        interaction = await self._journeys.opened(ticket, languages)
        if wants_json(request):
            return _json(asked(interaction))
        return self._form(request, ticket, interaction, languages)

    async def take(self, request: web.Request) -> web.Response:
        """POST: the answers, of our own form or as JSON."""
        if guard.media_type(request) == guard.JSON:
            return await self._take_json(request)
        fields = await guard.form(request)
        ticket = _ticket(fields.get("ticket", ""))
        languages = wished(request, fields.get("lang", ""))
        guard_token = fields.get("token", "")
        self._seals.check(request, guard_token, ticket)  # before anything is looked up
        interaction = await self._journeys.opened(ticket, languages)
        submission = of_form(interaction, fields)
        same = self._seals.check(request, guard_token, ticket, _shown(interaction))
        if not same or not submission.complete:
            return self._form(request, ticket, interaction, languages, fields, submission, not same)
        completed = await self._journeys.answer(ticket, submission.answers, languages)
        return self._done(request, catalogue(languages), completed.return_to, submission.answers)

    def _form(
        self,
        request: web.Request,
        ticket: str,
        interaction: Interaction,
        languages: tuple[str, ...],
        fields: Mapping[str, str] | None = None,
        submission: Submission | None = None,
        changed: bool = False,
    ) -> web.Response:
        browser = self._seals.browser(request)
        mistakes: dict[str, Mistake] = {}
        if submission is not None:
            mistakes |= {f"consent.{ref}": each for ref, each in submission.undecided.items()}
            mistakes |= {f"answer.{name}": each for name, each in submission.mistaken.items()}
        response = render.page(
            request,
            "prompt.html",
            catalogue(languages),
            status=200 if submission is None else 422,
            switch=submission is None,
            interaction=interaction,
            single=len(interaction.purposes) == 1 and not interaction.asked(),
            ticket=ticket,
            token=self._seals.token(browser, ticket, _shown(interaction)),
            lang=languages[0] if languages else "",
            fields={} if fields is None or changed else fields,
            mistakes={} if changed else mistakes,
            changed=changed,
        )
        self._seals.remember(response, browser)
        return response

    def _done(
        self, request: web.Request, words: Catalogue, return_to: str, answers: Answers
    ) -> web.Response:
        """Leads back to where they were; where there is no such place, it says that it is done."""
        outcome = "completed" if all(answers.consents.values()) else "declined"
        return render.page(
            request,
            "done.html",
            words,
            switch=False,
            title=words(f"{outcome}.title"),
            text=words(f"{outcome}.text"),
            return_to=return_to if guard.leads_back(return_to) else "",
        )

    async def _take_json(self, request: web.Request) -> web.Response:
        guard.require_same_origin(request, by_browser=False)
        try:
            sent = json_object(await guard.body(request))
        except ValueError:
            raise Refused(400, "malformed") from None
        ticket, consents, values, declined = _members(sent)
        languages = wished(request)
        interaction = await self._journeys.opened(_ticket(ticket), languages)
        submission = of_json(interaction, consents, values, declined)
        if not submission.complete:
            return _mistaken(catalogue(languages), submission)
        answers = replace(submission.answers, by_program=True)
        completed = await self._journeys.answer(ticket, answers, languages)
        return _json({"status": "completed", "return_to": completed.return_to})


def _ticket(text: str) -> str:
    if not 0 < len(text) <= LONGEST_TICKET or not text.isascii():
        raise Refused(404, "invalid")
    return text


def _members(
    sent: dict[str, Any],
) -> tuple[str, dict[str, bool], dict[str, Any], frozenset[str]]:
    """Ticket, consents, values and declined ones of a JSON body. Raises Refused."""
    ticket = sent.pop("ticket", None)
    consents, values = sent.pop("consents", {}), sent.pop("values", {})
    declined = sent.pop("declined", [])
    if not (
        not sent
        and isinstance(ticket, str)
        and isinstance(consents, dict)
        and all(isinstance(each, bool) for each in consents.values())
        and isinstance(values, dict)
        and isinstance(declined, list)
        and all(isinstance(each, str) for each in declined)
        and len(consents) + len(values) + len(declined) <= guard.FIELDS
    ):
        raise Refused(400, "malformed")
    return ticket, consents, values, frozenset(declined)


def _shown(interaction: Interaction) -> str:
    """What a person reads before they decide, as text that differs when it does."""
    shown = [asdict(each) for each in interaction.purposes]
    return orjson.dumps(shown, option=orjson.OPT_SORT_KEYS, default=str).decode()


def asked(interaction: Interaction) -> dict[str, Any]:
    """What a program is told that has a ticket. Absent is what does not apply."""
    optional = interaction.optional
    return {
        "kind": interaction.kind,
        "who": interaction.who,
        "service": interaction.service,
        "return_to": interaction.return_to,
        "purposes": [_purpose(each) for each in interaction.purposes],
        "questions": [_question(each) for each in interaction.questions],
        "optional": None if optional is None else _question(optional),
    }


def _purpose(purpose: Purpose) -> dict[str, Any]:
    return {name: value for name, value in asdict(purpose).items() if value is not None}


def _question(question: Question) -> dict[str, Any]:
    whole = {
        name: value
        for name, value in asdict(question).items()
        if value is not None or name not in _CONSTRAINTS
    }
    whole["choices"] = [{"value": value, "label": label} for value, label in question.choices]
    return whole


def _mistaken(words: Catalogue, submission: Submission) -> web.Response:
    def said(mistakes: Mapping[str, Mistake]) -> dict[str, dict[str, str]]:
        return {
            name: {
                "code": each.key.removeprefix("error."),
                "message": str(words.plain(each.key, limit=_limit(each))),
            }
            for name, each in mistakes.items()
        }

    return render.problem(
        422,
        "invalid_answers",
        words.plain("refused.answers"),
        title=HTTPStatus(422).phrase,
        members={
            "errors": {
                "consents": said(submission.undecided),
                "values": said(submission.mistaken),
            }
        },
    )


def _limit(mistake: Mistake) -> str:
    return "" if mistake.limit is None else f"{mistake.limit:.15g}"


def _json(whole: Mapping[str, Any]) -> web.Response:
    headers = {**guard.PROTECTIVE, "content-type": "application/json"}
    return web.Response(body=orjson.dumps(whole, default=str), headers=headers)
