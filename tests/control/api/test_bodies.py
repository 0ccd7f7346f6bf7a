"""One JSON object out of a stranger's bytes, or a refusal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sidecar.control.api import bodies
from sidecar.control.api.bodies import MAX_DEPTH, object_of
from sidecar.control.api.problems import Refused
from tests.control.api.calling import Caller, connected, document, open_api


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    "text",
    [
        b"{}", b' \t\r\n{"a": [1, -2.5e3, "x", null, true]}\n', '{"é":"\\ud83d\\ude00"}'.encode(),
        b'{"a": 18446744073709551615, "b": -9223372036854775808}', nested(MAX_DEPTH),
    ],
)  # fmt: skip
def test_objects(text: bytes) -> None:
    assert object_of(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "expecting value"),
        (b"[]", "an object is expected"),
        (b"1", "an object is expected"),
        (b"{", "expecting property name"),
        (b"{} {}", "extra data (line 1, column 4)"),
        (b"\xef\xbb\xbf{}", "expecting value"),
        (b'{"a":"\xff"}', "it is not UTF-8"),
        (b'{"a":1,"a":1}', "'a' is there twice"),
        (b'{"x":{"a":1,"b":2,"a":1}}', "'a' is there twice"),
        (b'{"a":1,"\\u0061":2}', "'a' is there twice"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'{"a":1e999}', "a number is too large"),
        (b'{"a":18446744073709551616}', "a number is too large"),
        (b'{"a":-9223372036854775809}', "a number is too large"),
        (b'{"a":' + b"9" * 100_000 + b"}", "a number is too large"),
        (b'{"a":"\\ud800"}', "it is not UTF-8"),
        (b'{"a":"\x01"}', "invalid control character"),
        (b"{'a':1}", "expecting property name"),
        (b'{"a":01}', "expecting ',' delimiter"),
        (nested(MAX_DEPTH + 1), "nested too deeply"),
        (nested(100_000), "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=range(23),
)
def test_what_is_none_says_why(text: bytes, why: str) -> None:
    with pytest.raises(Refused) as error:
        object_of(text)
    assert error.value.told.status == 400
    assert why in error.value.told.detail
    assert len(error.value.told.detail) < 200


def test_many_small_values_are_too_much() -> None:
    with pytest.raises(Refused) as error:
        object_of(b'{"a":[' + b"0," * bodies.MOST_VALUES + b"0]}")
    assert error.value.told.status == 413


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Caller]:
    async with open_api(tmp_path) as here:
        yield here.call


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "multipart/form-data; boundary=x"}, 415),
        ({"content_type": "application/json; charset=utf-16"}, 415),
        ({"content_type": "application/jsonx"}, 415),
        ({"content_type": "application/json; charset=UTF-8"}, 422),
        ({"content_type": "Application/JSON"}, 422),
        ({"content_encoding": "gzip"}, 415),
        ({"content_encoding": "identity"}, 415),
    ],
)
async def test_only_json_as_it_is(call: Caller, headers: dict[str, str], status: int) -> None:
    answer = await call.post("/v1/namespaces/a/rollback", {}, **headers)
    assert answer.status == status, answer.text


async def test_without_a_content_type_nothing_is_taken(call: Caller) -> None:
    head = b"POST /v1/signing-keys/rotate HTTP/1.1\r\nhost: localhost\r\n"
    for rest in (b"\r\n", b"content-length: 2\r\n\r\n{}"):
        async with connected(call, head + rest) as reader:
            assert b" 415 " in await reader.readline()
    assert len((await call.get("/v1/signing-keys")).body["keys"]) == 1


async def test_sizes_are_bounded(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_MESSAGE", 3000)
    monkeypatch.setattr(bodies, "LARGE", 1000)
    for size, status in ((500, 200), (2500, 200), (4000, 413)):
        padded = json.dumps({"documents": [document()], "dryRun": True}).encode().ljust(size)
        assert (await call("POST", "/v1/apply", padded)).status == status
        in_chunks = await chunked(call, padded)
        assert in_chunks == status, "also where the length is not said"


async def chunked(call: Caller, data: bytes) -> int:
    async def parts() -> AsyncIterator[bytes]:
        for place in range(0, len(data), 1000):
            yield data[place : place + 1000]

    headers = {"content-type": "application/json"}
    async with call.session.post(f"{call.url}/v1/apply", data=parts(), headers=headers) as answer:
        return answer.status


HEAD = b"POST /v1/apply HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


async def test_large_ones_are_read_by_few_at_a_time(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LARGE", 100)
    async with AsyncExitStack() as held:
        for _ in range(bodies.LARGE_AT_ONCE):
            begun = HEAD + b"expect: 100-continue\r\ncontent-length: 1000\r\n\r\n"
            reader = await held.enter_async_context(connected(call, begun))
            # aiohttp says so when it hands the request to us.
            assert b" 100 " in await reader.readline()
        await call.get("/v1/whoami")
        one_more = await call("POST", "/v1/apply", b"{}".ljust(1000))
        assert (one_more.status, one_more.headers["retry-after"]) == (503, "1")
        assert (await call.post("/v1/apply", {})).status == 200, "small ones go on"
    assert (await call("POST", "/v1/apply", b"{}".ljust(1000))).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "WITHIN", 0.01)
    async with connected(call, HEAD + b"content-length: 10\r\n\r\n{") as reader:
        assert b" 408 " in await reader.readline()
