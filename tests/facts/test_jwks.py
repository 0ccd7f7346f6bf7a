"""Keys: single flight, cool-down, stale on error, discovery; against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from sidecar.decide.tokens import Issuer
from sidecar.facts.http import MAX_BODY
from sidecar.facts.jwks import COOL_DOWN, RETRY_FAILED, STALE_BOUND, KeyStore
from sidecar.facts.shared_keys import SharedKeys
from tests.casebook import jwks


class Provider:
    """An issuer whose answers a test chooses."""

    def __init__(self) -> None:
        self.address = ""
        self.asked = 0
        self.keys: Any = jwks()
        self.status = 200
        self.metadata: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.came = asyncio.Event()

    async def serve_keys(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.came.set()
        await self.gate.wait()
        if self.status in (301, 302):
            raise web.HTTPFound(f"{self.address}/elsewhere")
        body = self.keys if isinstance(self.keys, bytes) else json.dumps(self.keys).encode()
        return web.Response(body=body, status=self.status)

    async def serve_metadata(self, request: web.Request) -> web.Response:
        return web.json_response(self.metadata)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    found = Provider()
    app = web.Application()
    app.router.add_get("/jwks", found.serve_keys)
    app.router.add_get("/elsewhere", found.serve_keys)
    app.router.add_get("/.well-known/openid-configuration", found.serve_metadata)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    found.metadata = {"issuer": found.address, "jwks_uri": f"{found.address}/jwks"}
    yield found
    await runner.cleanup()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store() -> AsyncIterator[tuple[KeyStore, Clock]]:
    clock = Clock()
    found = KeyStore(clock)
    yield found, clock
    await found.close()


def issuer(provider: Provider, *, discovered: bool = False) -> Issuer:
    uri = None if discovered else f"{provider.address}/jwks"
    return Issuer(
        "default/i", provider.address, frozenset("a"), frozenset(), frozenset(), 0.0, "sub",
        "scope", None, uri,
    )  # fmt: skip


Held = tuple[KeyStore, Clock]


async def test_many_requests_make_one_fetch(provider: Provider, store: Held) -> None:
    keys, _ = store
    keys.use([issuer(provider)])
    provider.gate.clear()
    waiting = [asyncio.create_task(keys.fetch(provider.address)) for _ in range(50)]
    await provider.came.wait()
    waiting[0].cancel()  # who hangs up does not take the fetch from the others
    provider.gate.set()
    await asyncio.gather(*waiting[1:])
    assert provider.asked == 1
    state = keys.states[provider.address]
    assert state.keys is not None
    assert len(state.keys.keys) == 2
    assert state.retry_at == 1000.0 + COOL_DOWN


async def test_unchanged_keys_stay_the_same_object(provider: Provider, store: Held) -> None:
    keys, _ = store
    keys.use([issuer(provider)])
    await keys.fetch(provider.address)
    first = keys.states[provider.address].keys
    await keys.fetch(provider.address)
    assert keys.states[provider.address].keys is first
    provider.keys = {"keys": jwks()["keys"][:1]}
    await keys.fetch(provider.address)
    assert keys.states[provider.address].keys is not first


async def test_stale_keys_serve_within_a_bound(provider: Provider, store: Held) -> None:
    keys, clock = store
    keys.use([issuer(provider)])
    await keys.fetch(provider.address)
    provider.status = 500
    clock.now += STALE_BOUND - 1
    await keys.fetch(provider.address)
    state = keys.states[provider.address]
    assert state.keys is not None
    assert "answered 500" in state.error
    clock.now += 1
    await keys.fetch(provider.address)
    assert keys.states[provider.address].keys is None
    provider.status = 200
    await keys.fetch(provider.address)
    assert keys.states[provider.address].keys is not None


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, jwks(), "answered 404"),
        (302, jwks(), "answered 302"),
        (200, b"<html>", "unexpected character"),
        (200, {"keys": []}, "without a usable key"),
        (200, {"keys": [{"kty": "oct", "k": "AAAA"}]}, "without a usable key"),
        (200, b" " * (MAX_BODY + 1), "more than"),
    ],
)
async def test_failures_are_states(
    provider: Provider, store: Held, status: int, body: Any, says: str
) -> None:
    keys, _ = store
    keys.use([issuer(provider)])
    provider.status, provider.keys = status, body
    await keys.fetch(provider.address)
    state = keys.states[provider.address]
    assert state.keys is None
    assert says in state.error
    assert state.retry_at == 1000.0 + RETRY_FAILED
    assert keys.failures == 1
    assert keys.status()[provider.address]["error"] == state.error


async def test_discovery(provider: Provider, store: Held) -> None:
    keys, _ = store
    keys.use([issuer(provider, discovered=True)])
    await keys.fetch(provider.address)
    assert keys.states[provider.address].keys is not None


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"issuer": "https://other.example"}, "describes another issuer"),
        ({"jwks_uri": "http://127.0.0.1:1/jwks"}, "not of the issuer's origin"),
        ({"jwks_uri": "https://evil.example/jwks"}, "not of the issuer's origin"),
        ({"jwks_uri": 7}, "not of the issuer's origin"),
    ],
)
async def test_discovery_that_leads_elsewhere(
    provider: Provider, store: Held, metadata: dict[str, Any], says: str
) -> None:
    keys, _ = store
    keys.use([issuer(provider, discovered=True)])
    provider.metadata |= metadata
    await keys.fetch(provider.address)
    assert says in keys.states[provider.address].error
    assert provider.asked == 0


async def test_an_issuer_that_moved_starts_anew(provider: Provider, store: Held) -> None:
    keys, _ = store
    keys.use([issuer(provider)])
    await keys.fetch(provider.address)
    keys.use([issuer(provider, discovered=True)])
    assert provider.address not in keys.states
    keys.use([])
    await keys.fetch(provider.address)
    assert keys.states == {}


async def test_the_background_fetches_what_is_missing(provider: Provider) -> None:
    keys = KeyStore()
    keys.use([issuer(provider)])
    await keys.start()
    async with asyncio.timeout(5):
        await provider.came.wait()
        await keys.fetch(provider.address)  # joins the one under way
    await keys.close()
    assert provider.asked == 1
    assert keys.states[provider.address].keys is not None


async def test_other_processes_are_told_and_cannot_fetch_within_the_cool_down(
    provider: Provider, store: Held
) -> None:
    keys, clock = store
    told: list[SharedKeys] = []
    keys.changed = told.append
    keys.use([issuer(provider)])
    assert keys.shared() == []
    for _ in range(3):
        await keys.fetch_if_due(provider.address)
    assert provider.asked == 1
    assert told == keys.shared()
    [came] = told
    assert (came.issuer, came.source) == (provider.address, f"{provider.address}/jwks")
    assert json.loads(came.jwks) == provider.keys
    assert (came.fetched, came.since, came.retry_at) == (1000.0, 1000.0, 1000.0 + COOL_DOWN)
    provider.status = 500
    clock.now += COOL_DOWN
    await keys.fetch_if_due(provider.address)
    assert provider.asked == 2
    assert told[-1].jwks == came.jwks, "stale keys serve there as here"
    assert "answered 500" in told[-1].error
    clock.now += STALE_BOUND
    await keys.fetch_if_due(provider.address)
    assert told[-1].jwks == b""
