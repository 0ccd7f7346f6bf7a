"""Issuers' keys that another process fetches: the form they come in, and who holds them here.

The process with the `KeyStore` sends every new state of an issuer's keys to all others. Whoever
lacks keys asks it. When it does not answer, keys that were there serve until they are too old, and
without any the issuer's tokens cannot be checked, which decides as 503.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from sidecar.decide.keys import KeySet, parse_jwks
from sidecar.decide.tokens import Issuer, KeyState

ANSWER: Final = 12.0  # seconds for an answer; discovery and keys may take 5 s each
RETRY_SILENT: Final = 2.0  # seconds until it is asked again
STALE_BOUND: Final = 24 * 3600.0  # seconds that keys serve while nothing new comes


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """The state of one issuer's keys. Times are Unix time in seconds.

    `source` is the TokenIssuer's `jwks.uri`, empty for discovery. `jwks` are the bytes fetched,
    which were found to hold a usable key; empty: there are none, and `error` says why.
    """

    issuer: str
    source: str
    jwks: bytes
    fetched: float
    since: float
    retry_at: float
    error: str


@dataclass(slots=True)
class _Held:
    """Keys as they came, for the issuer as the snapshot describes it now or will soon."""

    came: SharedKeys
    keys: KeySet | None


class RemoteKeys:
    """What the Authorizer takes for a KeyStore. `ask` sends an issuer's name and never blocks."""

    def __init__(
        self,
        ask: Callable[[str], None],
        *,
        seconds: float = ANSWER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.states: dict[str, KeyState] = {}
        self._ask = ask
        self._seconds = seconds
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._sources: dict[str, str] = {}
        self._asked: dict[str, asyncio.Future[None]] = {}

    def use(self, issuers: Iterable[Issuer]) -> None:
        """Hold keys for exactly these issuers; never those of a source that they no longer name."""
        wanted = {each.issuer: each.jwks_uri or "" for each in issuers if each.keys is None}
        self._sources = wanted
        for name in [name for name in self.states if name not in wanted]:
            del self.states[name]
        for name in [name for name in self._held if name not in wanted]:
            del self._held[name]
        for name in wanted:
            self._show(name)

    def take(self, came: SharedKeys) -> None:
        """Keys came. They may be for a snapshot that is adopted only after them."""
        before = self._held.get(came.issuer)
        if before is not None and before.keys is not None and before.came.jwks == came.jwks:
            keys: KeySet | None = before.keys  # the same object: what it verified stays verified
        else:
            keys = parse_jwks(orjson.loads(came.jwks)) if came.jwks else None
        self._held[came.issuer] = _Held(came, keys)
        if came.issuer in self._sources:
            self._show(came.issuer)

    def answered(self, name: str) -> None:
        """Whatever there is to know of this issuer has come."""
        waiting = self._asked.pop(name, None)
        if waiting is None or waiting.done():
            return  # too late
        if name in self._sources and name not in self.states:
            self._failed(name, "not held yet, or no longer")
        waiting.set_result(None)

    async def fetch(self, name: str) -> None:
        """Ask for an issuer's keys, or join who has asked; a failure is a state."""
        if name not in self._sources:
            return  # the snapshot that named it is gone; the next round decides with the new one
        waiting = self._asked.get(name)
        if waiting is None:
            loop = asyncio.get_running_loop()
            self._asked[name] = waiting = loop.create_future()
            timer = loop.call_later(self._seconds, self._silent, name, waiting)
            waiting.add_done_callback(lambda _: timer.cancel())
            self._ask(name)
        # Waited for, not awaited: a caller that hangs up must not take the answer from the others.
        await asyncio.wait({waiting})

    def _show(self, name: str) -> None:
        held = self._held.get(name)
        if held is None or held.came.source != self._sources[name]:
            self.states.pop(name, None)
            return
        came = held.came
        self.states[name] = KeyState(held.keys, came.retry_at, came.error, came.since)

    def _silent(self, name: str, waiting: asyncio.Future[None]) -> None:
        self._asked.pop(name, None)
        if name in self._sources:
            self._failed(name, f"nobody who fetches keys answered within {self._seconds:g} s")
        waiting.set_result(None)

    def _failed(self, name: str, error: str) -> None:
        now = self._clock()
        before, held = self.states.get(name), self._held.get(name)
        keys = before.keys if before is not None else None
        if held is None or now - held.came.fetched >= STALE_BOUND:
            keys = None
        self.states[name] = KeyState(keys, now + RETRY_SILENT, error, now)
