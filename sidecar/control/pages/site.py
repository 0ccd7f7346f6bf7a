"""The pages under their addresses; and every answer of theirs, refusals and defects as well, in the
form its client understands and under the same headers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

from sidecar.control.pages import guard, render
from sidecar.control.pages.guard import Refused, Seals
from sidecar.control.pages.journeys import CustomerGone, Journeys, TicketRefused
from sidecar.control.pages.languages import catalogue
from sidecar.control.pages.privacy import Privacy, gone
from sidecar.control.pages.prompt import Prompt, wants_json, wished
from sidecar.errors import StoreFailed

_log = logging.getLogger(__name__)
_TICKET_STATUS: Final[Mapping[str, int]] = {"invalid": 404, "expired": 410, "used": 410}
REFUSALS: Final = (
    "invalid", "expired", "used", "forged", "session", "prefetch", "malformed", "media",
    "too_large", "slow", "method", "not_found", "unavailable", "defect",
)  # fmt: skip
"""Each is `refused.CODE.title` and `.text` of the catalogues."""

Handler = Callable[[web.Request], Awaitable[web.Response]]


def routes(
    journeys: Journeys,
    secret: bytes,
    clock: Callable[[], float],
    *,
    insecure_cookies: bool = False,
) -> list[web.RouteDef]:
    """`/i` and `/privacy`, with all below them, for an application that has other paths, too.

    `secret` (32 bytes) seals cookies and forms and is the same on all replicas. `insecure_cookies`
    is for plain HTTP on loopback.
    """
    seals = Seals(secret, clock, insecure_cookies)
    prompt, privacy = Prompt(journeys, seals), Privacy(journeys, seals)
    by_path: dict[str, dict[str, Handler]] = {
        "/i": {"GET": prompt.ask, "POST": prompt.take},
        "/i/style.css": {"GET": _style},
        "/i/icon.svg": {"GET": _icon},
        "/privacy": {"GET": privacy.show},
        "/privacy/withdraw": {"POST": privacy.withdraw},
        "/privacy/forget": {"POST": privacy.forget},
        "/privacy/erase": {"POST": privacy.erase},
        "/privacy/leave": {"POST": privacy.leave},
        "/privacy/download": {"GET": privacy.download},
    }
    found = [web.route("*", path, _door(seals, methods)) for path, methods in by_path.items()]
    nothing = _door(seals, {})
    return [*found, *(web.route("*", f"/{below}/{{rest:.*}}", nothing) for below in _BELOW)]


_BELOW: Final = ("i", "privacy")


def application(
    journeys: Journeys,
    secret: bytes,
    clock: Callable[[], float],
    *,
    insecure_cookies: bool = False,
) -> web.Application:
    """The pages and nothing else; see `routes`."""
    app = web.Application()
    app.add_routes(routes(journeys, secret, clock, insecure_cookies=insecure_cookies))
    app.router.add_route("*", "/{rest:.*}", _door(Seals(secret, clock, insecure_cookies), {}))
    return app


def _door(seals: Seals, methods: Mapping[str, Handler]) -> Handler:
    """By method: the handler, and what its refusals look like. Without any there is no page."""

    async def answer(request: web.Request) -> web.Response:
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        try:
            if not methods:
                raise Refused(404, "not_found")
            if handler is None:
                allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
                raise Refused(405, "method", {"allow": ", ".join(allowed)})
            return await handler(request)
        except CustomerGone:
            return gone(seals, request)
        except TicketRefused as error:
            return _refusal(request, Refused(_TICKET_STATUS[error.code], error.code))
        except StoreFailed as error:
            _log.warning("customers' records are out of reach: %s", error)
            return _refusal(request, Refused(503, "unavailable", {"retry-after": "5"}))
        except Refused as error:
            return _refusal(request, error)
        except Exception as error:  # noqa: BLE001 - its text may hold what somebody typed
            _log.error("a page failed: %s at %s", type(error).__name__, _where(error))
            return _refusal(request, Refused(500, "defect"))

    return answer


def _refusal(request: web.Request, error: Refused) -> web.Response:
    words = catalogue(wished(request))
    title, text = f"refused.{error.code}.title", f"refused.{error.code}.text"
    by_program = request.headers.get("content-type", "").lower().startswith(guard.JSON)
    if by_program or wants_json(request):
        return render.problem(
            error.status,
            error.code,
            words.plain(text),
            title=HTTPStatus(error.status).phrase,
            headers=error.headers,
        )
    return render.page(
        request, "message.html", words, status=error.status, headers=error.headers, switch=False,
        title=words(title), text=words(text),
    )  # fmt: skip


def _where(error: BaseException) -> str:
    """File and line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "nowhere"
    return f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"


async def _style(request: web.Request) -> web.Response:
    return _asset(request, render.STYLE, "text/css; charset=utf-8")


async def _icon(request: web.Request) -> web.Response:
    return _asset(request, render.ICON, "image/svg+xml")


def _asset(request: web.Request, body: bytes, kind: str) -> web.Response:
    """Cached for as long as its address says which version it is."""
    current = request.query.get("v") == render.STYLE_VERSION
    headers = {**guard.PROTECTIVE, "content-type": kind}
    if current:
        headers["cache-control"] = "public, max-age=86400, immutable"
        del headers["vary"]
    return web.Response(body=body, headers=headers)
