"""`/privacy`: what is known of a person, what they agreed to, and both end when they say so."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from sidecar.control.pages import guard, render
from sidecar.control.pages.guard import Refused, Seals
from sidecar.control.pages.journeys import Journeys
from sidecar.control.pages.languages import catalogue, well_formed
from sidecar.control.pages.prompt import LONGEST_TICKET, wished

DONE: Final = ("withdrawn", "forgotten")
"""What the page may say that was done; each is `done.NAME` of the catalogues."""


class Privacy:
    """The handlers of `/privacy`. They raise Refused, TicketRefused, CustomerGone, StoreFailed."""

    def __init__(self, journeys: Journeys, seals: Seals) -> None:
        self._journeys = journeys
        self._seals = seals

    async def show(self, request: web.Request) -> web.Response:
        """GET. A ticket is used up and leaves the address before anything is shown."""
        if "ticket" in request.query:
            return await self._enter(request)
        customer = self._seals.customer(request)
        languages = wished(request)
        view = await self._journeys.privacy(customer, languages)
        browser = self._seals.browser(request)
        done = guard.single(request, "done")
        response = render.page(
            request,
            "privacy.html",
            catalogue(languages),
            view=view,
            done=done if done in DONE else "",
            lang=request.query.get("lang", "") if languages else "",
            token=self._seals.token(browser, customer),
        )
        self._seals.remember(response, browser)
        return response

    async def _enter(self, request: web.Request) -> web.Response:
        purpose = request.headers.get("sec-purpose", request.headers.get("purpose", ""))
        if request.method != "GET" or "prefetch" in purpose.lower():
            raise Refused(403, "prefetch")  # nobody looks at it, and a ticket opens once
        ticket = guard.single(request, "ticket")
        if not 0 < len(ticket) <= LONGEST_TICKET or not ticket.isascii():
            raise Refused(404, "invalid")
        customer = await self._journeys.enter(ticket)
        response = _see_other(f"privacy{_lang(request.query.get('lang', ''))}")
        self._seals.begin(response, customer)
        return response

    async def withdraw(self, request: web.Request) -> web.Response:
        """POST `ref`, `binding`: as easy as to agree, so nothing is asked (GDPR article 7(3))."""
        customer, fields = await self._form(request)
        languages = wished(request, fields.get("lang", ""))
        await self._journeys.withdraw(
            customer, fields.get("ref", ""), fields.get("binding", ""), languages
        )
        return _back("withdrawn", fields)

    async def forget(self, request: web.Request) -> web.Response:
        """POST `name`."""
        customer, fields = await self._form(request)
        await self._journeys.forget(customer, fields.get("name", ""))
        return _back("forgotten", fields)

    async def erase(self, request: web.Request) -> web.Response:
        """POST: asks again; with `sure=yes` it is done."""
        customer, fields = await self._form(request)
        lang = fields.get("lang", "")
        words = catalogue(wished(request, lang))
        if fields.get("sure") != "yes":
            token = self._seals.token(self._seals.browser(request), customer)
            return render.page(
                request, "erase.html", words, switch=False, token=token, lang=lang
            )  # fmt: skip
        await self._journeys.erase(customer)
        response = render.page(
            request, "message.html", words, switch=False,
            title=words("erased.title"), text=words("erased.text"),
        )  # fmt: skip
        self._seals.end(response)
        return response

    async def leave(self, request: web.Request) -> web.Response:
        """POST: ends the session in this browser."""
        _, fields = await self._form(request)
        words = catalogue(wished(request, fields.get("lang", "")))
        response = render.page(
            request, "message.html", words, switch=False,
            title=words("left.title"), text=words("left.text"),
        )  # fmt: skip
        self._seals.end(response)
        return response

    async def download(self, request: web.Request) -> web.Response:
        """GET: everything, as a file of JSON."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refused(403, "forged")  # no other site makes files appear on somebody's disk
        customer = self._seals.customer(request)
        whole = await self._journeys.export(customer)
        return web.Response(
            body=whole,
            headers={
                **guard.PROTECTIVE,
                "content-type": "application/json",
                "content-disposition": 'attachment; filename="my-data.json"',
            },
        )

    async def _form(self, request: web.Request) -> tuple[str, dict[str, str]]:
        """Whose session it is, and the fields of a form that this page showed."""
        fields = await guard.form(request)
        customer = self._seals.customer(request)
        self._seals.check(request, fields.get("token", ""), customer)
        return customer, fields


def gone(seals: Seals, request: web.Request) -> web.Response:
    """There is no such customer any more: the session ends."""
    words = catalogue(wished(request))
    response = render.page(
        request, "message.html", words, switch=False,
        title=words("erased.title"), text=words("erased.text"), status=410,
    )  # fmt: skip
    seals.end(response)
    return response


def _back(done: str, fields: dict[str, str]) -> web.Response:
    return _see_other(f"../privacy{_lang(fields.get('lang', ''))}", done)


def _see_other(location: str, done: str = "") -> web.Response:
    if done:
        location += f"{'&' if '?' in location else '?'}done={done}"
    return web.Response(status=303, headers={**guard.PROTECTIVE, "location": location})


def _lang(lang: str) -> str:
    return f"?lang={lang}" if well_formed(lang) else ""
