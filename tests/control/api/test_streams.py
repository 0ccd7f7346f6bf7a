"""Progress as lines: at once, at every change, and no longer than somebody listens and may."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse

from sidecar.control.api import streams
from sidecar.control.api.messages import read
from sidecar.control.fleet import MAX_WATCHERS
from sidecar.wire import admin_pb2 as pb
from tests.control.api.calling import Caller, document, guarded_api, open_api
from tests.publishing import WITHIN, running, sidecar, soon

PATH = "/v1/progress?releases=default@1"


@asynccontextmanager
async def watching(call: Caller, path: str = PATH) -> AsyncIterator[ClientResponse]:
    async with call.session.get(f"{call.url}{path}", headers=call.headers) as answer:
        yield answer


async def line(answer: ClientResponse) -> Any:
    """The next one that is not empty; None at the end."""
    async with asyncio.timeout(WITHIN):
        while text := await answer.content.readline():
            if text.strip():
                return json.loads(text)
    return None


async def test_at_once_and_after_every_change(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here, watching(here.call) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        first = await line(answer)
        assert first["reaches"] == [
            {"namespace": "default", "version": 1, "sidecars": 0, "live": 0, "refused": 0,
             "errors": [], "assigned": 0}
        ]  # fmt: skip
        assert read(pb.Progress, first).reaches[0].version == 1
        async with running(sidecar(here.bound.grpc)):
            assert (await here.call.post("/v1/apply", {"documents": [document()]})).status == 200
            while (await line(answer))["reaches"][0]["live"] != 1:
                pass


async def test_a_withdrawal(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        withdrawal = {"kind": "token", "issuer": "https://i", "value": "j",
                      "expires": int(time.time()) + 600}  # fmt: skip
        number = (await here.call.post("/v1/revocations", {"withdrawals": [withdrawal]})).body[
            "number"
        ]
        async with watching(here.call, f"/v1/progress?withdrawal={number}") as answer:
            assert (await line(answer))["withdrawal"]["version"] == number


async def test_who_may_not_see_is_refused_before_it_begins(tmp_path: Path) -> None:
    async with guarded_api(tmp_path) as here:
        assert (await here.call.get(PATH)).status == 401
        publisher = here.call.as_("publisher")
        refused = await publisher.get("/v1/progress?releases=shop@1")
        assert (refused.status, refused.headers["content-type"]) == (
            403,
            "application/problem+json",
        )
        assert (await publisher.get("/v1/progress?withdrawal=1")).status == 403
        async with watching(publisher) as answer:
            assert (await line(answer))["reaches"]


async def test_it_ends_with_the_credential(tmp_path: Path) -> None:
    skew = 30.0  # that an issuer's tokens are allowed
    async with (
        guarded_api(tmp_path, ahead=600 + skew - 0.1) as here,
        watching(here.call.as_("viewer", exp=600)) as answer,
    ):
        last = found = await line(answer)
        while found is not None:
            last, found = found, await line(answer)
        assert (last["status"], last["code"]) == (401, "invalid_token")
        assert "the credential has ended" in last["detail"]


async def test_it_ends_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST", 0.05)
    async with open_api(tmp_path) as here, watching(here.call) as answer:
        assert (await line(answer))["reaches"]
        assert await line(answer) is None, "and says nothing of it"


async def test_it_ends_with_the_control_plane(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here, watching(here.call) as answer:
        assert (await line(answer))["reaches"]
        async with asyncio.timeout(WITHIN):
            await here.control.stop()
        assert await line(answer) is None


async def test_whoever_goes_away_leaves_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BEAT", 0.01)
    async with open_api(tmp_path) as here:
        fleet: Any = here.control._fleet
        async with watching(here.call) as answer:
            assert (await line(answer))["reaches"]
            assert await answer.content.readline() == b"\n", "somebody still listens"
            assert len(fleet._watchers) == 1
            answer.close()
        await soon(lambda: not fleet._watchers, lambda: here.call.get("/v1/whoami"))


async def test_watchers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_WATCHERS > 0
    monkeypatch.setattr("sidecar.control.fleet.MAX_WATCHERS", 1)
    async with open_api(tmp_path) as here, watching(here.call) as answer:
        assert (await line(answer))["reaches"]
        full = await here.call.get(PATH)
        assert (full.status, full.body["code"]) == (429, "too_many")
        assert "retry-after" in full.headers


async def test_none_begins_while_the_control_plane_stops(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        for api in here.control._apis:
            api.close()
        answer = await here.call.get(PATH)
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        assert (await here.call.get("/v1/whoami")).status == 200
