"""Every decision case again, over real HTTP through the proxy, the decision log included."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.decide.cache import ExpiringCache
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.enrichment import Enriched
from sidecar.decide.outcomes import Identity, Unavailable
from sidecar.decide.subjects import Subject
from sidecar.edge.address import Address
from sidecar.edge.authorizer import Authorizer
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.proxy import Proxy
from sidecar.edge.sweeper import Sweeper
from sidecar.edge.upstream import UpstreamPool
from sidecar.facts.jwks import KeyStore
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics
from tests.casebook import Case, Known, cases, documents


class Door:
    """A proxy in this process, and an upstream that keeps the heads it was sent."""

    def __init__(self, log: Path) -> None:
        self.log = DecisionLog(str(log))
        self.keys = KeyStore()
        self.now = time.time()
        self.known = Known(None, {})
        self.answers: ExpiringCache[bytes, Enriched | Unavailable] = ExpiringCache(100)
        self.authorizer = Authorizer(
            self.keys, Metrics(), self.log, clock=lambda: self.now, subjects=self, enrichments=self
        )
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.port = 0

    # -- subjects and enrichments of the case at hand

    def get(self, identity: Identity, now: float) -> Subject | Unavailable | None:
        return self.known.get(identity, now)

    def use(self, enrichers: object) -> None:
        pass

    async def fetch(self, want: object) -> None:
        self.known.fetch_now(want)
        for key, (expires, answer, _) in self.known.answers._entries.items():
            self.answers.put(key, answer, expires)

    async def start(self) -> None:
        self._upstream = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port = self._upstream.sockets[0].getsockname()[1]
        pool = UpstreamPool(Address("127.0.0.1", port), Limits(), Sweeper(), ProxyStats())
        self.proxy = Proxy(self.authorizer, pool, strip=self.authorizer.rule_headers)
        [(_, self.port)] = await self.proxy.listen("127.0.0.1", 0)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            length = re.search(rb"content-length: (\d+)", head)
            self.bodies.append(await reader.readexactly(int(length[1])) if length else b"")
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n"
                b"connection: close\r\n\r\n{}"
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        await self.proxy.close()
        self._upstream.close()
        await self._upstream.wait_closed()
        await self.keys.close()
        self.log.close()

    async def ask(self, case: Case, now: float) -> tuple[int, dict[str, str], bytes]:
        request = case.spec.get("request", {})
        path = request.get("path", "/").replace("$TOKEN", "x")
        lines = [f"{request.get('method', 'GET')} {path} HTTP/1.1".encode()]
        lines += [name + b": " + value for name, value in case.headers(now)]
        lines += [b"x-sidecar-subject: mallory", b"X_Sidecar_Subject: mallory", b"x-tier: forged"]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"\r\n".join(lines) + b"\r\nconnection: close\r\n\r\n" + case.body())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (field.partition(": ") for field in fields)
        }
        return int(first.split()[1]), headers, body


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    found = Door(tmp_path / "decisions.log")
    await found.start()
    yield found
    await found.close()


async def test_every_case_through_the_proxy(door: Door, tmp_path: Path) -> None:
    snapshots = {
        case.documents: compile_snapshot(
            documents(case.documents), namespace="default", labels=case.labels
        )
        for case in cases()
    }
    now = door.now
    expected = []
    for case in cases():
        door.authorizer.adopt(snapshots[case.documents])
        door.heads.clear()
        door.bodies.clear()
        door.known = case.known()
        door.answers.clear()
        door.authorizer.forget()  # enrichers answer otherwise than a moment ago
        status, headers, body = await door.ask(case, now)
        expect = case.spec["expect"]
        method = case.spec.get("request", {}).get("method", "GET")
        if "permit" in expect:
            assert status == 200, f"{case.id}: {status} {body!r}"
            [head] = door.heads
            check_forwarded(case, head.decode("latin-1"), expect)
            assert door.bodies == [case.body()], case.id
            for name, value in expect.get("responseHeaders", {}).items():
                assert headers[name] == value, case.id
            assert ("ratelimit" in headers) == ("limited" in expect), case.id
            expected.append(("permit", f"default/{expect['permit']}"))
        else:
            assert status == expect["refuse"], f"{case.id}: {status} {body!r}"
            assert door.heads == [], f"{case.id}: the upstream saw a refused request"
            assert "mallory" not in body.decode()
            if status == 302:
                id_ = headers["x-sidecar-decision"]
                assert headers["location"] == expect["location"].replace("$ID", id_), case.id
                expected.append(("refuse", expect.get("reason", "")))
                continue
            if method != "HEAD":
                assert json.loads(body)["code"] == expect["code"], case.id
            if "challenge" in expect:
                assert headers["www-authenticate"] == expect["challenge"], case.id
            expected.append(("refuse", expect.get("reason", "")))
    door.log.close()
    shadows = [case.spec["expect"].get("shadow") for case in cases()]
    records = [json.loads(line) for line in (tmp_path / "decisions.log").read_text().splitlines()]
    found = [
        (record["outcome"], record["rule"] if record["outcome"] == "permit" else record["reason"])
        for record in records
    ]
    assert len(found) == len(expected)
    for record, shadow in zip(records, shadows, strict=True):
        said = record.get("shadow")
        if shadow is not None:
            assert [said["outcome"], said.get("reason", "")] == shadow, record
    for one, other in zip(found, expected, strict=True):
        assert one == other or (other == ("refuse", "") and one[0] == "refuse")


def check_forwarded(case: Case, head: str, expect: dict[str, object]) -> None:
    fields = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
    values = {name.lower(): value for name, _, value in fields}
    assert "mallory" not in head, f"{case.id}: {head}"
    if case.file == "rules":  # a rule of that file sets x-tier
        assert "forged" not in head, f"{case.id}: {head}"
    subject = expect.get("subject", "?")
    if subject is None:
        assert "x-sidecar-subject" not in values, case.id
    elif subject != "?":
        assert values["x-sidecar-subject"] == subject, case.id
    wanted = expect.get("headers", {})
    assert isinstance(wanted, dict)
    for name, value in wanted.items():
        assert values[name] == value, case.id
    removed = expect.get("removed", [])
    assert isinstance(removed, list)
    for name in removed:
        assert name not in values, case.id
    assert len(values["x-sidecar-decision"]) == 32
    assert values["traceparent"].startswith("00-")
