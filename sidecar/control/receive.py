"""`POST /ssf/events`: security events, pushed (RFC 8935). Taken once they are durable: 202."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from sidecar.control.events import EventRefused, Received, Signal, Transmitter, read
from sidecar.control.revocations import NotWithdrawn, TooManyWithdrawn
from sidecar.control.store import By, Event, Replayed
from sidecar.control.withdraw import Withdrawer
from sidecar.decide.outcomes import NeedKeys
from sidecar.decide.tokens import MAX_TOKEN
from sidecar.errors import StoreFailed
from sidecar.facts.jwks import KeyStore

CONTENT_TYPE: Final = "application/secevent+jwt"
WITHIN: Final = 10.0  # seconds for the body of an event
Signalled = Callable[[Signal], Awaitable[None]]
ROUNDS: Final = 2  # of fetching keys, for one event
_log = logging.getLogger(__name__)


class Receiver:
    """One per control plane. `keys` are told which issuers there are."""

    def __init__(
        self,
        transmitters: Mapping[str, Transmitter],
        withdrawer: Withdrawer,
        keys: KeyStore,
        outcomes: Counter[str],
        clock: Callable[[], float],
        signalled: Signalled | None = None,
    ) -> None:
        """`signalled` hears what events say of users, once they are taken."""
        self._signalled = signalled
        self._transmitters = transmitters
        self._withdrawer = withdrawer
        self._keys = keys
        self._outcomes = outcomes
        self._clock = clock

    async def handle(self, request: web.Request) -> web.Response:
        """RFC 8935 sections 2.2 to 2.4: 202 without a body, or 400 with what is wrong."""
        try:
            received = await self._read(request)
            event = Event(received.id, int(received.expires) + 1)
            by = By(received.issuer, "security-event", about={"event": received.id})
            await self._withdrawer.withdraw(received.withdrawals, event, by)
        except EventRefused as error:
            return self._refused(error.code, str(error))
        except Replayed:
            return self._refused("invalid_request", "this event was received before")
        except TooManyWithdrawn as error:
            _log.error("an event was not taken: %s", error)
            return self._later("full")
        except NotWithdrawn as error:
            return self._refused("invalid_request", str(error))
        except StoreFailed as error:
            _log.error("an event was not taken: %s", error)
            return self._later("failed")
        await self._tell(received)
        outcome = "verification" if received.verification else "withdrawn"
        if not received.withdrawals and not received.verification:
            outcome = "ignored"
        self._outcomes[outcome] += 1
        _log.info(
            "event %s of %s: %s, %d withdrawn",
            received.jti, received.issuer, outcome, len(received.withdrawals),
        )  # fmt: skip
        return web.Response(status=202)

    async def _tell(self, received: Received) -> None:
        """What was withdrawn stays so; risk that could not be raised is said."""
        if self._signalled is None:
            return
        try:
            for signal in received.signals:
                await self._signalled(signal)
        except StoreFailed as error:
            _log.error("a signal was lost: %s", error)

    async def _read(self, request: web.Request) -> Received:
        """Raises EventRefused, and StoreFailed where keys cannot be had."""
        if request.content_type != CONTENT_TYPE:
            raise EventRefused("invalid_request", f"content-type: {CONTENT_TYPE} is expected")
        try:
            async with asyncio.timeout(WITHIN):
                body = await request.content.read(MAX_TOKEN + 1)
                while len(body) <= MAX_TOKEN and (more := await request.content.read(MAX_TOKEN)):
                    body += more
        except (TimeoutError, OSError, ValueError, web.PayloadAccessError, BadHttpMessage):
            raise EventRefused("invalid_request", "the body cannot be read") from None
        if len(body) > MAX_TOKEN:
            raise EventRefused("invalid_request", f"more than {MAX_TOKEN} bytes")
        for _ in range(ROUNDS):
            found = read(body.strip(), self._transmitters, self._keys.states, self._clock())
            if isinstance(found, Received):
                self._authenticate(request, self._transmitters[found.issuer])
                return found
            if not isinstance(found, NeedKeys):
                break
            await self._keys.fetch(found.issuer)
        raise StoreFailed("the keys of the transmitter cannot be had")

    @staticmethod
    def _authenticate(request: web.Request, transmitter: Transmitter) -> None:
        given = request.headers.get("authorization", "")
        wanted = transmitter.authorization
        if wanted and not hmac.compare_digest(given.encode(), wanted.encode()):
            raise EventRefused("authentication_failed", "the authorization header is not as agreed")

    def _refused(self, code: str, detail: str) -> web.Response:
        self._outcomes[code] += 1
        _log.warning("an event was refused: %s: %s", code, detail)
        status = 401 if code == "authentication_failed" else 400
        return web.json_response({"err": code, "description": detail}, status=status)

    def _later(self, outcome: str) -> web.Response:
        """Nothing was taken, and the transmitter tries again."""
        self._outcomes[outcome] += 1
        return web.Response(status=503, headers={"retry-after": "10"})
