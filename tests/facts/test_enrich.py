"""Looking up what rules ask of Enrichers: questions as meant, answers as declared, bounds, what
goes on when a server fails."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.decide.compile_facts import compile_enricher
from sidecar.decide.documents import Enricher
from sidecar.decide.enrichment import CompiledEnricher, Enriched, key_of
from sidecar.decide.outcomes import NeedEnrichment, Unavailable
from sidecar.decide.parse import Source, parse
from sidecar.facts import enrich
from sidecar.facts.breaker import BREAKS_AFTER, OPEN
from sidecar.facts.enrich import CROWDED, STALE_FOR, UNAVAILABLE, Enrichments
from sidecar.facts.secrets import Secrets
from tests.certificates import Authority

NOW = 1_700_000_000.0


class Server:
    """On loopback; answers as told. `asked` has path and query as they came, headers, bodies."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"score": 7}'
        self.headers = {"content-type": "application/json"}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.port = 0
        self._runner: web.ServerRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.method, request.raw_path, headers, await request.read()))
        await self.go.wait()
        return web.Response(status=self.status, body=self.body, headers=self.headers)


def compiled(url: str, more: str = "", name: str = "risk") -> CompiledEnricher:
    text = f"""
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {{name: {name}}}
spec:
  url: "{url}"
{more or "  type: {score: integer}"}
"""
    (document,), problems = parse([Source("t", text)])
    assert not problems
    assert isinstance(document.spec, Enricher)
    found = compile_enricher(document, document.spec, problems)
    assert not problems, problems
    return found


class Stage:
    """Everything, with a clock of its own. Secrets are files below `folder`."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.now = NOW
        self.server = server
        self.asking = Enrichments(Secrets(folder, lambda _: None), clock=lambda: self.now)
        self.enricher = self.described()

    def described(self, more: str = "", path: str = "/risk", name: str = "risk") -> Any:
        self.enricher = compiled(f"http://127.0.0.1:{self.server.port}{path}", more, name)
        self.asking.use([self.enricher])
        return self.enricher

    def want(self, *values: tuple[str, Any]) -> NeedEnrichment:
        return NeedEnrichment(key_of(self.enricher, values), self.enricher, values)

    def found(self, *values: tuple[str, Any]) -> Any:
        return self.asking.answers.get(self.want(*values).key, self.now)

    async def fetch(self, *values: tuple[str, Any]) -> Any:
        await self.asking.fetch(self.want(*values))
        return self.found(*values)

    def results(self) -> dict[str, int]:
        return {result: count for (_, result), count in self.asking.outcomes.items()}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    server = Server()
    await server.start()
    made = Stage(tmp_path, server)
    yield made
    server.go.set()
    await made.asking.close()
    await server.stop()


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (nobody would set the event)
            await asyncio.sleep(0)


# Answers.


async def test_an_answer_is_evidence_until_its_time(stage: Stage) -> None:
    found = await stage.fetch()
    assert isinstance(found, Enriched)
    assert (found.values, found.expires) == ({"score": 7}, NOW + 30)
    stage.now += 29.9
    assert stage.found() is found
    stage.now = NOW + 30
    assert stage.found() is None
    assert stage.results() == {"answered": 1}


@pytest.mark.parametrize(
    ("headers", "cache"),
    [
        ({"cache-control": "max-age=5"}, 5),
        ({"cache-control": "Public, Max-Age=5"}, 5),
        ({"cache-control": "max-age=300"}, 30),
        ({"cache-control": "max-age=20", "age": "12"}, 8),
        ({"cache-control": "max-age=20", "age": "25"}, 1),
        ({"cache-control": "max-age=never"}, 1),
        ({"cache-control": "max-age=0"}, 1),
        ({"cache-control": "no-store"}, 1),
        ({"cache-control": "private, no-cache"}, 1),
        ({"cache-control": "must-revalidate"}, 30),
    ],
)
async def test_what_the_answer_says_can_only_shorten_it(
    stage: Stage, headers: dict[str, str], cache: float
) -> None:
    stage.server.headers |= headers
    assert (await stage.fetch()).expires == NOW + cache


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b"", {}),
        (200, b"not json", {}),
        (200, b"[7]", {}),
        (200, b'{"score": "7"}', {}),
        (200, b'{"score": 7.5}', {}),
        (200, b'{"score": true}', {}),
        (200, b'{"score": null}', {}),
        (200, b'{"score": 7, "score": 8}', {}),
        (200, b'{"score": 9223372036854775808}', {}),
        (200, b'\xff{"score": 7}', {}),
        (200, b'{"score": 7}' + b" " * 70_000, {}),
        (200, b'{"score": 7}', {"content-type": "text/html"}),
        (200, b'{"score": 7}', {"content-type": "application/json; charset=utf-16"}),
        (200, b'{"score": 7}', {"content-encoding": "zstd"}),
        (201, b'{"score": 7}', {}),
        (302, b"", {"location": "/elsewhere"}),
        (404, b'{"score": 7}', {}),
        (500, b'{"score": 7}', {}),
    ],
)
async def test_what_is_not_as_declared_is_no_answer(
    stage: Stage, status: int, body: bytes, headers: dict[str, str]
) -> None:
    server = stage.server
    server.status, server.body, server.headers = status, body, {**server.headers, **headers}
    assert await stage.fetch() is UNAVAILABLE
    assert len(server.asked) == 1, "no redirect is followed"
    assert stage.results() == {"failed": 1}
    stage.now += enrich.UNAVAILABLE_FOR
    assert stage.found() is None


async def test_bytes_are_counted_as_they_come(stage: Stage) -> None:
    stage.described("  type: {score: integer}\n  maxSize: 12B")
    assert isinstance(await stage.fetch(), Enriched)
    stage.described("  type: {score: integer}\n  maxSize: 11B")
    assert await stage.fetch() is UNAVAILABLE


async def test_and_so_is_the_memory_that_they_would_take(stage: Stage) -> None:
    stage.described("  type: {all: list}\n  maxSize: 1MiB")
    stage.server.body = b'{"all": [' + b"1," * 60_000 + b"1]}"
    assert isinstance(await stage.fetch(), Enriched)
    assert stage.asking.answers.weight > 60_000 * 50
    stage.server.body = b'{"all": [' + b"{}," * 60_000 + b"{}]}"
    stage.now += 60
    assert await stage.fetch() is UNAVAILABLE


async def test_a_thing_that_is_not_there_is_one_without_members(stage: Stage) -> None:
    stage.described("  type: {tier: text, vip: boolean}\n  optional: [tier, vip]")
    stage.server.status = 404
    found = await stage.fetch()
    assert found.values == {}
    assert stage.results() == {"absent": 1}
    stage.described("  type: {tier: text, vip: boolean}\n  optional: [tier]")
    assert await stage.fetch() is UNAVAILABLE


# Questions.


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("7", "7"),
        ("a/b", "a%2Fb"),
        ("../admin", "..%2Fadmin"),
        ("%2e%2e", "%252e%252e"),
        ("a?b=c#d", "a%3Fb%3Dc%23d"),
        ("a b+c", "a%20b%2Bc"),
        ("zoë;\\", "zo%C3%AB%3B%5C"),
        ("x\r\nHost: evil", "x%0D%0AHost%3A%20evil"),
        ("...", "..."),
        (7, "7"),
        (7.5, "7.5"),
        (True, "true"),
    ],
)
async def test_a_value_is_one_segment_of_the_path(stage: Stage, value: Any, segment: str) -> None:
    stage.described("  parameters: {id: token.x}\n  type: {score: integer}", "/of/{id}/risk")
    assert isinstance(await stage.fetch(("id", value)), Enriched)
    ((method, path, _, body),) = stage.server.asked
    assert (method, path, body) == ("GET", f"/of/{segment}/risk", b"")


@pytest.mark.parametrize("value", ["", ".", "..", "x" * 9000, float("nan"), float("inf")])
async def test_a_value_that_is_none_is_not_asked_about(
    stage: Stage, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stage.described("  parameters: {id: token.x}\n  type: {score: integer}", "/of/{id}")
    for _ in range(2 * BREAKS_AFTER):
        assert await stage.fetch(("id", value)) is UNAVAILABLE
    assert stage.server.asked == []
    assert not stage.asking.status()["risk"]["open"]
    assert "xxx" not in caplog.text


async def test_the_other_parameters_are_the_query(stage: Stage) -> None:
    more = "  parameters: {id: token.x, a: token.a, n: token.n}\n  type: {score: integer}"
    stage.described(more, "/a%20b/{id}.json")
    await stage.fetch(("id", "7"), ("a", "x&y=z é"), ("n", False))
    assert stage.server.asked[0][1] == "/a%20b/7.json?a=x%26y%3Dz%20%C3%A9&n=false"


async def test_or_a_json_object(stage: Stage) -> None:
    more = (
        "  method: POST\n  parameters: {id: token.x, a: token.a, n: token.n}\n"
        "  type: {score: integer}"
    )
    stage.described(more, "/{id}")
    await stage.fetch(("id", "7"), ("a", 'x"y'), ("n", 7))
    method, path, headers, body = stage.server.asked[0]
    assert (method, path, body) == ("POST", "/7", b'{"a":"x\\"y","n":7}')
    assert headers["content-type"] == "application/json"


SECRET = "  headers: {Authorization: {fromFile: $F/key}}\n  type: {score: integer}"


async def test_secrets_are_read_when_they_are_used_and_never_shown(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.described(SECRET.replace("$F", str(stage.folder)))
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * BREAKS_AFTER):
            assert await stage.fetch() is UNAVAILABLE
    assert stage.server.asked == []
    assert caplog.text.count(f"{stage.folder}/key does not exist") == 1
    assert not stage.asking.status()["risk"]["open"], "it is not the server's fault"
    key = stage.folder / "key"
    key.write_text("Bearer one\r\nx-injected: yes")
    assert await stage.fetch() is UNAVAILABLE
    key.write_text("Bearer one\n")
    assert isinstance(await stage.fetch(), Enriched)
    key.write_text("Bearer two\n")
    stage.now += 60
    await stage.fetch()
    sent = [headers["authorization"] for _, _, headers, _ in stage.server.asked]
    assert sent == ["Bearer one", "Bearer two"]
    stage.server.status = 500
    stage.now += 60
    await stage.fetch()
    assert "Bearer" not in caplog.text


async def test_what_was_asked_is_in_no_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.described("  parameters: {id: token.x}\n  type: {score: integer}", "/of/{id}")
    for stage.server.status in (500, 400):
        await stage.fetch(("id", "private"))
    stage.server.status = 200
    stage.server.body = b'{"score": "private"}'
    await stage.fetch(("id", "private"))
    await stage.server.stop()
    await stage.fetch(("id", "private"))
    assert "of/{id}: answered 500" in caplog.text
    assert "private" not in caplog.text


async def test_a_ca_of_its_own(tmp_path: Path) -> None:
    authority = Authority("risk")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue("localhost").write(tmp_path, "server"))
    server = Server()
    await server.start(tls)
    stage = Stage(tmp_path, server)
    more = f"  ca: {{fromFile: {tmp_path}/ca.pem}}\n  type: {{score: integer}}"
    try:
        for text, outcome in ((more, UNAVAILABLE), ("  type: {score: integer}", UNAVAILABLE)):
            stage.enricher = compiled(f"https://localhost:{server.port}/", text)
            stage.asking.use([stage.enricher])
            assert await stage.fetch() is outcome
        authority.write(tmp_path)
        stage.enricher = compiled(f"https://localhost:{server.port}/", more)
        stage.asking.use([stage.enricher])
        assert isinstance(await stage.fetch(), Enriched)
    finally:
        await stage.asking.close()
        await server.stop()


async def test_no_proxy_of_the_environment(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert isinstance(await stage.fetch(), Enriched)


# Bounds.


async def test_one_question_for_a_key_at_a_time(stage: Stage) -> None:
    stage.server.go.clear()
    waiting = [asyncio.create_task(stage.fetch(("a", "1"))) for _ in range(10)]
    other = asyncio.create_task(stage.fetch(("a", "2")))
    await becomes(lambda: len(stage.server.asked) == 2)
    waiting[0].cancel()  # who hangs up takes nothing from the others
    stage.server.go.set()
    found = await asyncio.gather(*waiting[1:], other)
    assert all(isinstance(each, Enriched) for each in found)
    assert len(stage.server.asked) == 2


async def test_so_many_at_once_and_the_line_ends(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrich, "WAITING", 5)
    monkeypatch.setattr(enrich, "AT_ONCE", 2)
    stage.described("  timeout: 10s\n  type: {score: integer}")
    stage.server.go.clear()
    flights = [asyncio.create_task(stage.fetch(("a", str(n)))) for n in range(6)]
    await becomes(lambda: len(stage.server.asked) == 2 and stage.results() == {"crowded": 1})
    assert await flights[5] is CROWDED
    stage.server.go.set()
    assert all(isinstance(each, Enriched) for each in await asyncio.gather(*flights[:5]))
    assert not stage.asking._flights
    assert stage.asking._servers["risk"].flying == 0


async def test_and_so_does_that_of_all(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrich, "ALL_WAITING", 1)
    stage.server.go.clear()
    first = asyncio.create_task(stage.fetch(("a", "1")))
    await becomes(lambda: bool(stage.server.asked))
    assert await stage.fetch(("a", "2")) is CROWDED
    stage.server.go.set()
    assert isinstance(await first, Enriched)


async def test_who_gets_no_turn_in_time_blames_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.described("  timeout: 20ms\n  type: {score: integer}")
    async with asyncio.timeout(10), stage.asking._turn:
        monkeypatch.setattr(stage.asking, "_turn", asyncio.Semaphore(0))
        for n in range(2 * BREAKS_AFTER):
            assert await stage.fetch(("a", str(n))) is CROWDED
    assert stage.server.asked == []
    assert not stage.asking.status()["risk"]["open"]


async def test_the_time_out_is_for_all_of_it(stage: Stage) -> None:
    stage.described("  timeout: 50ms\n  type: {score: integer}")
    stage.server.go.clear()
    async with asyncio.timeout(5):
        assert await stage.fetch() is UNAVAILABLE
    assert stage.asking.status()["risk"]["error"] == "no answer within 0.05 s"


async def test_a_server_that_fails_is_left_alone_and_tried_again(stage: Stage) -> None:
    stage.server.status = 503
    for n in range(BREAKS_AFTER + 3):
        assert await stage.fetch(("a", n)) is UNAVAILABLE
    assert len(stage.server.asked) == BREAKS_AFTER
    assert stage.results() == {"failed": BREAKS_AFTER, "spared": 3}
    assert stage.asking.status()["risk"]["open"]
    stage.server.status = 200
    stage.now += OPEN
    assert isinstance(await stage.fetch(("a", 0)), Enriched)
    assert stage.asking.status()["risk"] == {"open": False, "error": ""}


@pytest.mark.parametrize("status", [200, 400, 404, 422])
async def test_no_caller_can_have_it_left_alone(stage: Stage, status: int) -> None:
    stage.server.status, stage.server.body = status, b"{}"
    for n in range(2 * BREAKS_AFTER):
        assert await stage.fetch(("a", n)) is UNAVAILABLE
    assert len(stage.server.asked) == 2 * BREAKS_AFTER


# Old answers.

STALE = "  cache: 10s\n  staleIfError: 60s\n  type: {score: integer}"


async def test_an_old_answer_is_better_than_none(stage: Stage) -> None:
    stage.described(STALE)
    first = await stage.fetch()
    stage.server.status = 500
    stage.now += 10
    assert stage.found() is None
    found = await stage.fetch()
    assert (found.values, found.expires) == (first.values, stage.now + STALE_FOR)
    assert stage.results() == {"answered": 1, "stale": 1}
    stage.now = NOW + 69.9
    assert (await stage.fetch()).expires == pytest.approx(stage.now + 1)
    stage.now = NOW + 71
    assert await stage.fetch() is UNAVAILABLE
    stage.server.status, stage.server.body = 200, b'{"score": 8}'
    stage.now += 1
    assert (await stage.fetch()).values == {"score": 8}


async def test_whatever_the_reason(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.described(STALE + "\n  timeout: 50ms")
    await stage.fetch()
    stage.now += 10
    stage.server.body = b'{"score": "x"}'
    assert isinstance(await stage.fetch(), Enriched)
    stage.now += STALE_FOR
    stage.server.go.clear()
    assert isinstance(await stage.fetch(), Enriched)
    stage.server.go.set()
    await stage.server.stop()
    for _ in range(BREAKS_AFTER):
        stage.now += STALE_FOR
        assert isinstance(await stage.fetch(), Enriched)
    assert stage.asking.status()["risk"]["open"]
    monkeypatch.setattr(enrich, "WAITING", 0)
    stage.now += STALE_FOR
    assert isinstance(await stage.fetch(), Enriched)
    assert stage.results() == {"answered": 1, "stale": 3 + BREAKS_AFTER}


@pytest.mark.parametrize("status", [404, 410])
async def test_but_for_what_is_gone(stage: Stage, status: int) -> None:
    stage.described(STALE)
    await stage.fetch()
    stage.now += 10
    stage.server.status = status
    assert await stage.fetch() is UNAVAILABLE
    stage.server.status = 500
    stage.now += 1
    assert await stage.fetch() is UNAVAILABLE


@pytest.mark.parametrize(
    ("header", "stale"),
    [
        ("no-store", False), ("no-cache", False), ("must-revalidate", False),
        ("stale-if-error=0", False), ("stale-if-error=5", False), ("max-age=10", True),
    ],
)  # fmt: skip
async def test_unless_the_answer_forbids_it(stage: Stage, header: str, stale: bool) -> None:
    stage.described(STALE)
    stage.server.headers["cache-control"] = header
    await stage.fetch()
    stage.server.status = 500
    stage.now += 16
    assert isinstance(await stage.fetch(), Enriched) is stale


# Other documents.


async def test_another_document_is_asked_anew(stage: Stage) -> None:
    stage.described(STALE)
    await stage.fetch()
    before, old = stage.want(), stage.enricher
    other = compiled("http://127.0.0.1:1/", name="other")
    stage.asking.use([stage.enricher, other])
    assert stage.found() is not None, "the same document"
    stage.described(STALE.replace("60s", "61s"))
    assert len(stage.asking.answers) == 0
    assert len(stage.asking._old) == 0
    stage.server.status = 500
    assert await stage.fetch() is UNAVAILABLE
    await stage.asking.fetch(before)
    assert stage.asking.answers.get(before.key, NOW) is None, "of a snapshot that is gone"
    stage.asking.use([])
    assert stage.asking.status() == {}
    assert not stage.asking.outcomes
    stage.asking.use([old])
    assert stage.asking.status()["risk"]["error"] == ""


async def test_what_is_under_way_for_one_that_is_gone_leaves_nothing(stage: Stage) -> None:
    stage.server.go.clear()
    want = stage.want()
    flight = asyncio.create_task(stage.asking.fetch(want))
    await becomes(lambda: bool(stage.server.asked))
    stage.asking.use([])
    stage.server.go.set()
    await flight
    assert stage.asking.answers.get(want.key, NOW) is None


async def test_a_defect_of_ours_is_an_answer_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr(enrich, "answer", broken)
    assert isinstance(await stage.fetch(), Unavailable)


async def test_closing_leaves_nothing_behind(stage: Stage) -> None:
    stage.server.go.clear()
    asking = asyncio.create_task(stage.asking.fetch(stage.want()))
    await becomes(lambda: bool(stage.server.asked))
    await stage.asking.close()
    await asking
    assert not stage.asking._flights
