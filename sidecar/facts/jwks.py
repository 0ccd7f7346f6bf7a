"""Issuers' keys: fetched when a decision needs them, refreshed before they age, kept when stale.

One fetch at a time for each issuer, with a cool-down, so that a flood of unknown key ids costs one
fetch; no redirects, bounded in time and size. When an issuer cannot be reached its last keys serve
until `STALE_BOUND`; after that its tokens cannot be checked, which decides as 503.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from sidecar.decide.keys import KeySet, parse_jwks
from sidecar.decide.tokens import Issuer, KeyState
from sidecar.errors import FetchFailed
from sidecar.facts.http import HttpClient
from sidecar.facts.shared_keys import SharedKeys

COOL_DOWN: Final = 10.0  # seconds between two fetches for one issuer
RETRY_FAILED: Final = 2.0  # seconds after a failed fetch when there are no keys at all
REFRESH: Final = 300.0  # seconds after which keys are fetched again in the background
STALE_BOUND: Final = 24 * 3600.0  # seconds that keys serve while their issuer cannot be reached
TICK: Final = 1.0

_log: Final = logging.getLogger("sidecar.keys")
_DISCOVERY: Final = "/.well-known/openid-configuration"
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(slots=True)
class _Held:
    """What is known of one issuer beyond its KeyState."""

    issuer: Issuer
    content: bytes = b""
    fetched: float = 0.0
    tried: float = 0.0
    flight: asyncio.Task[None] | None = None


class KeyStore:
    """Keys of every issuer that the snapshot names; `states` is evidence for decisions."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.states: dict[str, KeyState] = {}
        self.fetches = 0
        self.failures = 0
        self.changed: Callable[[SharedKeys], None] | None = None  # told of each fetch's end
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._http = HttpClient()
        self._refresher: asyncio.Task[None] | None = None

    def use(self, issuers: Iterable[Issuer]) -> None:
        """Hold keys for exactly these issuers; one whose source changed starts anew."""
        wanted = {issuer.issuer: issuer for issuer in issuers if issuer.keys is None}
        for name, held in list(self._held.items()):
            issuer = wanted.get(name)
            if issuer is None or issuer.jwks_uri != held.issuer.jwks_uri:
                self._forget(name)
        for name, issuer in wanted.items():
            self._held.setdefault(name, _Held(issuer)).issuer = issuer

    def _forget(self, name: str) -> None:
        held = self._held.pop(name)
        self.states.pop(name, None)
        if held.flight is not None:
            held.flight.cancel()

    async def fetch(self, name: str) -> None:
        """Fetch an issuer's keys into `states`, or join a fetch under way; a failure is a state."""
        held = self._held.get(name)
        if held is None:
            return  # the snapshot that named it is gone; the next round decides with the new one
        if held.flight is None:
            held.flight = asyncio.create_task(self._fly(held), name=f"keys of {name}")
        # Waited for, not awaited: a caller that hangs up must not take the fetch from the others.
        await asyncio.wait({held.flight})

    async def fetch_if_due(self, name: str) -> None:
        """The same for a process that is told of `changed`, and may not have heard the latest."""
        state = self.states.get(name)
        if state is None or state.may_fetch(self._clock()):
            await self.fetch(name)

    def shared(self) -> list[SharedKeys]:
        """What is known now, for other processes."""
        return [self._shared(name) for name in self._held if name in self.states]

    def _shared(self, name: str) -> SharedKeys:
        held, state = self._held[name], self.states[name]
        return SharedKeys(
            issuer=name,
            source=held.issuer.jwks_uri or "",
            jwks=held.content if state.keys is not None else b"",
            fetched=held.fetched,
            since=state.since,
            retry_at=state.retry_at,
            error=state.error,
        )

    async def start(self) -> None:
        """Refresh in the background from now on, beginning with whatever is missing."""
        self._refresher = asyncio.create_task(self._refresh(), name="key refresh")

    async def close(self) -> None:
        tasks = [self._refresher, *(held.flight for held in self._held.values())]
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        await self._http.close()

    def status(self) -> dict[str, dict[str, Any]]:
        """For inspection: each issuer's keys, their age in seconds and the last error."""
        now = self._clock()
        return {
            name: {
                "keys": len(state.keys.keys) if state and state.keys else 0,
                "age_seconds": round(now - held.fetched, 1) if held.fetched else None,
                "error": state.error if state else "",
            }
            for name, held in self._held.items()
            for state in (self.states.get(name),)
        }

    async def _refresh(self) -> None:
        while True:
            now = self._clock()
            for name, held in list(self._held.items()):
                state = self.states.get(name)
                due = REFRESH if state and not state.error else COOL_DOWN
                if held.flight is None and not 0 <= now - held.tried < due:
                    held.flight = asyncio.create_task(self._fly(held), name=f"keys of {name}")
            await asyncio.sleep(TICK)

    async def _fly(self, held: _Held) -> None:
        name = held.issuer.issuer
        held.tried = self._clock()
        self.fetches += 1
        try:
            content, keys = await self._get_keys(held.issuer)
        except FetchFailed as error:
            self.failures += 1
            self.states[name] = self._after_failure(held, str(error))
        except Exception as error:  # noqa: BLE001  (a defect of ours must not become a fetch per request)
            _log.exception("fetching the keys of %s failed", name)
            self.failures += 1
            self.states[name] = self._after_failure(held, f"internal error: {error}")
        else:
            now = self._clock()
            before = self.states.get(name)
            if before is not None and before.keys is not None and content == held.content:
                keys = before.keys  # the same object, so that tokens verified with it stay verified
            held.content, held.fetched = content, now
            self.states[name] = KeyState(keys, now + COOL_DOWN, since=now)
        finally:
            held.flight = None
        if self.changed is not None:
            self.changed(self._shared(name))

    def _after_failure(self, held: _Held, error: str) -> KeyState:
        now = self._clock()
        before = self.states.get(held.issuer.issuer)
        if before is not None and before.keys is not None and now - held.fetched < STALE_BOUND:
            return KeyState(before.keys, now + COOL_DOWN, error, now)
        return KeyState(None, now + RETRY_FAILED, error, now)

    async def _get_keys(self, issuer: Issuer) -> tuple[bytes, KeySet]:
        uri = issuer.jwks_uri or await self._discover(issuer.issuer)
        content = await self._http.get(uri)
        try:
            return content, parse_jwks(orjson.loads(content))
        except ValueError as error:
            raise FetchFailed(f"{uri}: {error}") from None

    async def _discover(self, issuer: str) -> str:
        """OpenID Connect Discovery 1.0 section 4; the keys must be of the issuer's own origin."""
        address = issuer.rstrip("/") + _DISCOVERY
        try:
            metadata = orjson.loads(await self._http.get(address))
        except ValueError:
            raise FetchFailed(f"{address}: not JSON") from None
        if not isinstance(metadata, Mapping) or metadata.get("issuer") != issuer:
            raise FetchFailed(f"{address}: describes another issuer")
        uri = metadata.get("jwks_uri")
        if not isinstance(uri, str) or not _same_origin(uri, issuer):
            raise FetchFailed(
                f"{address}: jwks_uri {uri!r} is not of the issuer's origin; "
                "if it is right, write it in the TokenIssuer as jwks: {uri: ...}"
            )
        return uri


def _same_origin(uri: str, issuer: str) -> bool:
    try:
        one, other = urlsplit(uri), urlsplit(issuer)
        same = (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)
    except ValueError:
        return False
    return same and (one.scheme == "https" or one.hostname in _LOOPBACK)
