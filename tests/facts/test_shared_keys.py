"""Keys that another process fetches."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from sidecar.decide.tokens import Issuer
from sidecar.facts.shared_keys import RETRY_SILENT, STALE_BOUND, RemoteKeys, SharedKeys
from tests.casebook import jwks

NAME = "https://idp.example"
URI = "https://idp.example/jwks"
CAME = SharedKeys(NAME, URI, orjson.dumps(jwks()), 1000.0, 1000.0, 1010.0, "")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    def __init__(self, seconds: float = 60.0) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.keys = RemoteKeys(self.asked.append, seconds=seconds, clock=self.clock)


def issuer(uri: str | None = URI, **more: Any) -> Issuer:
    return Issuer(
        "default/i", NAME, frozenset("a"), frozenset(), frozenset(), 0.0, "sub", "scope",
        more.get("keys"), uri,
    )  # fmt: skip


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_many_requests_ask_once(rig: Rig) -> None:
    rig.keys.use([issuer()])
    waiting = [asyncio.create_task(rig.keys.fetch(NAME)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert rig.asked == [NAME]
    rig.keys.take(CAME)
    rig.keys.answered(NAME)
    await asyncio.gather(*waiting[1:])
    state = rig.keys.states[NAME]
    assert state.keys is not None
    assert (len(state.keys.keys), state.retry_at, state.since) == (2, 1010.0, 1000.0)


async def test_silence_is_a_failure_and_lasts_a_moment() -> None:
    rig = Rig(seconds=0.0)
    rig.keys.use([issuer()])
    await rig.keys.fetch(NAME)
    state = rig.keys.states[NAME]
    assert state.keys is None
    assert "answered" in state.error
    assert not state.may_fetch(1000.0 + RETRY_SILENT / 2)
    assert state.may_fetch(1000.0 + RETRY_SILENT)
    rig.keys.answered(NAME)  # too late, and no harm
    await rig.keys.fetch(NAME)
    assert rig.asked == [NAME, NAME]


async def test_in_silence_keys_serve_within_a_bound() -> None:
    rig = Rig(seconds=0.0)
    rig.keys.use([issuer()])
    rig.keys.take(CAME)
    rig.clock.now += STALE_BOUND - 1
    await rig.keys.fetch(NAME)
    assert rig.keys.states[NAME].keys is not None
    assert rig.keys.states[NAME].error
    rig.clock.now += 1
    await rig.keys.fetch(NAME)
    assert rig.keys.states[NAME].keys is None


async def test_unchanged_keys_stay_the_same_object(rig: Rig) -> None:
    rig.keys.use([issuer()])
    rig.keys.take(CAME)
    first = rig.keys.states[NAME].keys
    rig.keys.take(replace(CAME, since=1010.0, retry_at=1020.0, error="answered 500"))
    state = rig.keys.states[NAME]
    assert state.keys is first
    assert (state.retry_at, state.error) == (1020.0, "answered 500")
    rig.keys.take(replace(CAME, jwks=orjson.dumps({"keys": jwks()["keys"][:1]})))
    assert rig.keys.states[NAME].keys is not first


async def test_a_failed_fetch_is_a_state(rig: Rig) -> None:
    rig.keys.use([issuer()])
    rig.keys.take(replace(CAME, jwks=b"", error="no answer"))
    assert rig.keys.states[NAME].keys is None
    assert rig.keys.states[NAME].error == "no answer"


async def test_keys_of_a_source_that_is_not_named_are_not_used(rig: Rig) -> None:
    states = rig.keys.states
    rig.keys.use([issuer()])
    rig.keys.take(CAME)
    rig.keys.use([issuer("https://idp.example/new")])
    assert states == {}
    rig.keys.take(CAME)
    assert states == {}
    rig.keys.use([issuer()])
    assert NAME in states
    rig.keys.use([issuer(None, keys=object())])
    assert states == {}


async def test_keys_may_come_before_the_snapshot_that_names_them(rig: Rig) -> None:
    rig.keys.take(CAME)
    assert rig.keys.states == {}
    rig.keys.use([issuer()])
    assert rig.keys.states[NAME].keys is not None


async def test_an_answer_without_keys_is_not_asked_for_again_at_once(rig: Rig) -> None:
    rig.keys.use([issuer()])
    waiting = asyncio.create_task(rig.keys.fetch(NAME))
    await asyncio.sleep(0)
    rig.keys.answered(NAME)
    await waiting
    state = rig.keys.states[NAME]
    assert state.keys is None
    assert not state.may_fetch(1000.0)


async def test_nobody_asks_for_an_issuer_that_no_snapshot_names(rig: Rig) -> None:
    await rig.keys.fetch(NAME)
    assert rig.asked == []
