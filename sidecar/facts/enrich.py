"""Looking up what rules ask of Enrichers: one question at a time for each key, bounded.

What comes back is kept as evidence for as long as the document says, or less where the answer says
so. Anything but a 200 with JSON as declared is a failure; a 404 is an answer without members where
all of them are optional. Where an answer cannot be had, the last one is served again for up to
`staleIfError` after its time, except where the server says that there is none any more (404, 410);
after that, and where there is none, what depends on it decides as 503. A server that fails again
and again is left alone for a while (a breaker), then tried with one question.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sidecar.decide.cache import ExpiringCache
from sidecar.decide.enrichment import MARK, CompiledEnricher, Enriched, answer, declared, mark_of
from sidecar.decide.lookups import LEAST, Holding, holding, is_json, question, weight
from sidecar.decide.outcomes import NeedEnrichment, Unavailable
from sidecar.errors import FetchFailed
from sidecar.facts.breaker import Breaker
from sidecar.facts.client_tls import ClientTls
from sidecar.facts.flights import Flights
from sidecar.facts.http import HttpClient
from sidecar.facts.secrets import Secrets

ANSWERS: Final = 20_000  # remembered
HEAVIEST: Final = 32 * 1024 * 1024  # bytes of them; as much again for those to be served stale
LARGEST: Final = 8 * 1024 * 1024  # bytes of memory for one: what would make each decision slow
OFF_LOOP: Final = 32 * 1024  # bytes that are read in a thread: 2 ms
AT_ONCE: Final = 64  # questions to one enricher; the next wait, within their time-out
WAITING: Final = 1024  # of one, those under way included
ALL_AT_ONCE: Final = 256  # questions to all of them
ALL_WAITING: Final = 4096
UNAVAILABLE_FOR: Final = 1.0  # seconds until somebody who did not answer is asked again
STALE_FOR: Final = 5.0  # likewise where an old answer does; less where answers hold for less

Result = Literal["answered", "absent", "stale", "failed", "spared", "crowded"]
UNAVAILABLE: Final = Unavailable("enricher_unavailable")
CROWDED: Final = Unavailable("enricher_crowded")
_OURS: Final = frozenset((401, 403, 405, 407, 408, 429))  # not about what was asked
_GONE: Final = frozenset((404, 410))

_log: Final = logging.getLogger("sidecar.enrich")


class _NotAsked(FetchFailed):
    """Nobody was asked, and nothing is known of the server."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An answer: its members, for how long they hold, the memory they take."""

    values: Mapping[str, Any]
    holding: Holding
    weight: int
    result: Result


@dataclass(slots=True)
class _Server:
    """What goes with one enricher."""

    enricher: CompiledEnricher
    tls: ClientTls
    breaker: Breaker = field(default_factory=Breaker)
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    flying: int = 0
    last_error: str = ""


class Enrichments:
    """Answers of every Enricher that the snapshot names; `answers` is evidence for decisions."""

    def __init__(
        self,
        secrets: Secrets,
        *,
        clock: Callable[[], float] = time.time,
        http: HttpClient | None = None,
    ) -> None:
        self.answers: ExpiringCache[bytes, Enriched | Unavailable] = ExpiringCache(
            ANSWERS, HEAVIEST
        )
        self.outcomes: Counter[tuple[str, Result]] = Counter()
        """Look-ups by enricher and what came of them."""
        self._old: ExpiringCache[bytes, Enriched] = ExpiringCache(ANSWERS, HEAVIEST)
        self._secrets = secrets
        self._clock = clock
        self._http = http or HttpClient(timeout=60, at_once=ALL_AT_ONCE)  # ours are shorter
        self._servers: dict[str, _Server] = {}
        self._turn = asyncio.Semaphore(ALL_AT_ONCE)
        self._flights = Flights()

    def use(self, enrichers: Iterable[CompiledEnricher]) -> None:
        """Ask exactly these; one whose document is another starts anew, without its answers."""
        servers: dict[str, _Server] = {}
        for each in enrichers:
            known = self._servers.get(each.name)
            if known is not None and known.enricher.digest == each.digest:
                servers[each.name] = known
            else:
                servers[each.name] = _Server(each, ClientTls(self._secrets, each.ca))
        if any(servers.get(name) is not known for name, known in self._servers.items()):
            marks = {mark_of(server.enricher) for server in servers.values()}
            for cache in (self.answers, self._old):
                cache.retain(lambda key: key[:MARK] in marks)
            for name, result in [each for each in self.outcomes if each[0] not in servers]:
                del self.outcomes[name, result]
        self._servers = servers

    async def fetch(self, want: NeedEnrichment) -> None:
        """Have an answer put into `answers`, or join a question under way."""
        server = self._current(want)
        if server is None:
            return  # of another snapshot: the next round decides with the new one
        if want.key not in self._flights:
            if server.flying >= WAITING or len(self._flights) >= ALL_WAITING:
                self._failed(want, server, "crowded")
                return
            server.flying += 1
            self._flights.begin(
                want.key, self._fly(want, server), f"look-up of {want.enricher.name}",
                lambda: _landed(server),
            )  # fmt: skip
        await self._flights.join(want.key)

    async def close(self) -> None:
        await self._flights.close()
        await self._http.close()

    def status(self) -> dict[str, dict[str, Any]]:
        """For inspection: each enricher's breaker and last error."""
        return {
            name: {"open": server.breaker.open, "error": server.last_error}
            for name, server in self._servers.items()
        }

    def _current(self, want: NeedEnrichment) -> _Server | None:
        server = self._servers.get(want.enricher.name)
        known = server is not None and server.enricher.digest == want.enricher.digest
        return server if known else None

    async def _fly(self, want: NeedEnrichment, server: _Server) -> None:
        enricher, breaker = server.enricher, server.breaker
        ticket = 0
        try:
            async with asyncio.timeout(enricher.timeout), server.turn, self._turn:
                # Only now: those in line must not go on to a server that fails meanwhile.
                ticket = breaker.admits(self._clock())
                if not ticket:
                    self._failed(want, server, "spared")
                    return
                found = await self._ask(want, server)
        except TimeoutError:
            if not ticket:
                self._failed(want, server, "crowded")
                return
            breaker.failed(ticket, self._clock())
            self._failed(want, server, "failed", f"no answer within {enricher.timeout:g} s")
        except _NotAsked as error:
            breaker.abandoned(ticket)
            self._failed(want, server, "failed", str(error))
        except FetchFailed as error:
            self._blame(server, ticket, error.status)
            if error.status in _GONE:
                self._old.drop(want.key)
            self._failed(want, server, "failed", str(error))
        except asyncio.CancelledError:
            breaker.abandoned(ticket)
            raise
        except Exception as error:  # noqa: BLE001  (a defect of ours decides as 503, not as a crash)
            _log.exception("asking the enricher %s failed", enricher.name)
            self._blame(server, ticket)
            self._failed(want, server, "failed", f"internal error: {type(error).__name__}")
        else:
            breaker.succeeded(ticket)
            server.last_error = ""
            self._keep(want, server, found)

    def _blame(self, server: _Server, ticket: int, status: int = 0) -> None:
        if status == 200 or (400 <= status < 500 and status not in _OURS):
            # It did not like what was asked, or says what is not declared; and callers choose the
            # parameters: none may have the server left alone for everybody.
            server.breaker.succeeded(ticket)
        else:
            server.breaker.failed(ticket, self._clock())

    # What is remembered.

    def _keep(self, want: NeedEnrichment, server: _Server, found: _Found) -> None:
        self.outcomes[server.enricher.name, found.result] += 1
        if self._current(want) is not server:
            return
        expires = self._clock() + found.holding.cache
        self.answers.put(want.key, Enriched(found.values, expires), expires, found.weight)
        if found.holding.stale > 0:
            until = expires + found.holding.stale
            self._old.put(want.key, Enriched(found.values, until), until, found.weight)
        else:
            self._old.drop(want.key)

    def _failed(
        self, want: NeedEnrichment, server: _Server, result: Result, error: str = ""
    ) -> None:
        """Nothing new: what is there goes on for a while, or for a while there is nothing."""
        enricher = server.enricher
        if error and error != server.last_error:
            _log.warning("the enricher %s: %s", enricher.name, error)
        server.last_error = error or server.last_error
        now = self._clock()
        old = self._old.get(want.key, now)
        self.outcomes[enricher.name, result if old is None else "stale"] += 1
        if self._current(want) is not server:
            return
        if old is None:
            unavailable = CROWDED if result == "crowded" else UNAVAILABLE
            self.answers.put(want.key, unavailable, now + UNAVAILABLE_FOR, 256)
        else:
            expires = min(now + min(STALE_FOR, enricher.cache), old.expires)
            expires = max(expires, now + LEAST)  # whoever waits for it decides with it
            self.answers.put(want.key, Enriched(old.values, expires), expires, 256)

    # The question.

    async def _ask(self, want: NeedEnrichment, server: _Server) -> _Found:
        enricher = server.enricher
        headers: Mapping[str, str] = {}
        tls: ssl.SSLContext | None = None
        try:
            asked = question(enricher, want.values)
            if enricher.headers or enricher.ca.file:
                headers, tls = await asyncio.to_thread(self._credentials, server)
        except (ValueError, FetchFailed) as error:
            raise _NotAsked(str(error)) from None
        if asked.content is not None:
            headers = {**headers, "content-type": "application/json"}
        try:
            received = await self._http.look_up(
                enricher.method, asked.origin, asked.target, named=enricher.url,
                headers=headers, content=asked.content, tls=tls, max_body=enricher.max_size,
            )  # fmt: skip
        except FetchFailed as error:
            if error.status != 404 or enricher.fields.keys() - enricher.optional:
                raise
            return _Found(declared(enricher, {}), holding(enricher, {}), weight(b""), "absent")
        if not is_json(received.headers):
            raise FetchFailed(f"{enricher.url}: answered, but not with JSON", 200)
        taken = weight(received.body)
        if taken > LARGEST:
            raise FetchFailed(f"{enricher.url}: answered with too many values", 200)
        try:
            if len(received.body) > OFF_LOOP:
                values = await asyncio.to_thread(answer, enricher, received.body)
            else:
                values = answer(enricher, received.body)
        except ValueError as error:
            raise FetchFailed(f"{enricher.url}: not as declared: {_said(error)}", 200) from None
        return _Found(values, holding(enricher, received.headers), taken, "answered")

    def _credentials(self, server: _Server) -> tuple[Mapping[str, str], ssl.SSLContext | None]:
        """What says who asks, and whom to believe. Reads files. Raises FetchFailed."""
        headers = {}
        for name, secret in server.enricher.headers:
            text = self._secrets.read(secret).decode("latin-1")
            if not text.isascii() or not text.isprintable():
                raise FetchFailed(
                    f"the secret {secret.file or secret.variable} holds what no header may hold"
                )
            headers[name] = text
        return headers, server.tls.context()


def _landed(server: _Server) -> None:
    server.flying -= 1


def _said(error: ValueError) -> str:
    """What is wrong, and nothing of the answer: decoders quote what they were given."""
    return "no sound JSON" if isinstance(error, UnicodeError) else str(error)
