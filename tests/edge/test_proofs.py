"""Bound tokens through a real proxy: each proof once, nonces told, tunnels that outlive their proof."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sidecar.decide.compile import compile_snapshot
from sidecar.edge.authorizer import Authorizer
from sidecar.edge.replays import Use
from sidecar.facts.jwks import KeyStore
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics
from tests.casebook import documents, token
from tests.edge.conftest import Peer, Rig, pytest_asyncio_loop_factories
from tests.proofs import Prover

__all__ = ["pytest_asyncio_loop_factories"]

NOW = 1_800_000_000.0
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {inline: $JWKS}, clockSkew: 10m}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {dpop: {nonce: %s}, limits: {failedCredentials: 1/h}, mode: %s}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec: {rules: [{name: any, match: {paths: [/any]}}]}
"""
ME = Prover()
KEYED = token(NOW, {"cnf": {"jkt": ME.thumbprint}})
TARGET = "http://bank.example/any"


class Door:
    """A real authorizer in a real proxy, in front of an upstream that says its own nonce."""

    def __init__(self, rig: Rig, log: Path) -> None:
        self.rig = rig
        self.log = DecisionLog(str(log))
        self.authorizer = Authorizer(KeyStore(), Metrics(), self.log, clock=lambda: self.rig.wall)
        rig.wall = NOW

    async def start(self, nonce: str = "none", mode: str = "enforce") -> None:
        self.rig.authorizer = self.authorizer  # type: ignore[assignment]
        self.adopt(nonce, mode)
        await self.rig.start()

    def adopt(self, nonce: str = "none", mode: str = "enforce") -> None:
        self.authorizer.adopt(
            compile_snapshot(documents(DOCUMENTS % (nonce, mode)), namespace="default", labels={})
        )

    def request(self, *lines: bytes, proof: bytes | None = None, **more: Any) -> bytes:
        said = ME.proof("GET", TARGET, KEYED, self.rig.wall, **more) if proof is None else proof
        head = [
            b"GET /any HTTP/1.1", b"host: bank.example", b"authorization: DPoP " + KEYED.encode(),
            b"dpop: " + said, *lines, b"", b"",
        ]  # fmt: skip
        return b"\r\n".join(head)

    async def ask(self, client: Peer, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; the upstream, if asked, answers 200."""
        client.send(request)
        answering = asyncio.ensure_future(self._answer())
        head = (await client.head()).decode()
        answering.cancel()
        fields = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
        names = [name for name, _, _ in fields]
        assert len(names) == len(set(names)), f"said twice: {head}"
        headers = {name: value for name, _, value in fields}
        return int(head[9:12]), headers, await client.exactly(int(headers["content-length"]))

    async def _answer(self) -> None:
        peer = self.rig.upstream.peers[-1] if self.rig.upstream.peers else None
        if peer is None:
            peer = await self.rig.upstream.accept()
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndpop-nonce: theirs\r\n\r\nok")

    @property
    def uses(self) -> dict[str, int]:
        return {use.value: count for use, count in self.authorizer.replays.counts.items() if count}


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    found = Door(Rig(), tmp_path / "log")
    yield found
    await found.rig.stop()
    found.log.close()


async def test_a_proof_is_good_for_one_request(door: Door, tmp_path: Path) -> None:
    await door.start()
    client, other = await door.rig.client(), await door.rig.client()
    request = door.request()
    status, headers, _ = await door.ask(client, request)
    assert (status, headers["dpop-nonce"]) == (200, "theirs"), "what the upstream says is its own"
    for again in (client, other, client):  # the very same bytes, which are decided from memory
        status, headers, body = await door.ask(again, request)
        assert (status, json.loads(body)["code"]) == (401, "invalid_dpop_proof")
        assert headers["www-authenticate"].startswith(
            'DPoP realm="bank", error="invalid_dpop_proof"'
        )
    assert (await door.ask(client, door.request()))[0] == 200
    assert door.uses == {"first": 2}, "what is known to be used is refused before it is tried"
    door.log.close()
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [record.get("reason", "") for record in records] == ["", *["proof_replayed"] * 3, ""]


async def test_the_commit_has_the_last_word(door: Door) -> None:
    """Two workers decide at the same time; the table is asked once more before forwarding."""
    await door.start()
    object.__setattr__(door.authorizer.evidence, "replayed", lambda proof: False)
    client = await door.rig.client()
    request = door.request()
    assert (await door.ask(client, request))[0] == 200
    status, headers, body = await door.ask(client, request)
    assert (status, json.loads(body)["code"]) == (401, "invalid_dpop_proof")
    assert headers["www-authenticate"].startswith('DPoP realm="bank", error="invalid_dpop_proof"')
    assert door.uses == {"first": 1, "replayed": 1}


@pytest.mark.parametrize(("use", "status", "code"), [
    (Use.CROWDED, 429, "too_many_requests"), (Use.BUSY, 503, "unavailable"),
])  # fmt: skip
async def test_what_cannot_be_committed_is_refused(
    door: Door, use: Use, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await door.start()
    monkeypatch.setattr(type(door.authorizer.replays), "use", lambda *_: use)
    found, headers, body = await door.ask(await door.rig.client(), door.request())
    assert (found, json.loads(body)["code"]) == (status, code)
    assert headers["retry-after"] == "1"


async def test_bad_proofs_count_as_bad_credentials(door: Door) -> None:
    await door.start()
    client = await door.rig.client()
    assert (await door.ask(client, door.request()))[0] == 200
    signature = ME.proof("GET", TARGET, KEYED, NOW).rpartition(b".")[0] + b"." + b"A" * 86
    for _ in range(20):
        assert (await door.ask(client, door.request(proof=signature)))[0] == 401
    assert (await door.ask(client, door.request(proof=signature)))[0] == 429
    assert (await door.ask(client, door.request()))[0] == 429, (
        "which its signature would have to say"
    )
    assert (await door.ask(client, door.request(proof=b"junk")))[0] == 401, "which costs nothing"


async def test_in_mode_observe_a_replay_is_only_logged(door: Door, tmp_path: Path) -> None:
    await door.start(mode="observe")
    client = await door.rig.client()
    request = door.request()
    assert [(await door.ask(client, request))[0] for _ in range(2)] == [200, 200]
    door.log.close()
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [record["outcome"] for record in records] == ["permit", "observe"]


async def test_nonces_are_asked_for_and_renewed(door: Door) -> None:
    await door.start("required")
    client = await door.rig.client()
    status, headers, body = await door.ask(client, door.request())
    assert (status, json.loads(body)["code"]) == (401, "use_dpop_nonce")
    assert 'DPoP realm="bank", error="use_dpop_nonce"' in headers["www-authenticate"]
    nonce = headers["dpop-nonce"]
    status, headers, _ = await door.ask(client, door.request(nonce=nonce))
    assert (status, headers["dpop-nonce"]) == (200, "theirs"), "there is nothing new to say"
    door.rig.wall += 60
    status, headers, _ = await door.ask(client, door.request(nonce=nonce))
    assert status == 200
    assert headers["dpop-nonce"] not in (nonce, "theirs"), (
        "the next one, in place of the upstream's"
    )
    assert (await door.ask(client, door.request(nonce=headers["dpop-nonce"])))[0] == 200
    door.rig.wall += 60
    assert (await door.ask(client, door.request(nonce=nonce)))[0] == 401


async def test_the_proof_goes_on_as_it_came(door: Door) -> None:
    """A service may check it itself, as the resource server that it is."""
    await door.start()
    client = await door.rig.client()
    proof = ME.proof("GET", TARGET, KEYED, NOW)
    client.send(door.request(b"connection: dpop", proof=proof))
    head = await (await door.rig.upstream.accept()).head()
    assert b"\r\ndpop: " + proof + b"\r\n" in head
    assert b"\r\nauthorization: DPoP " in head


async def test_a_tunnel_outlives_its_proof(door: Door) -> None:
    await door.start()
    client = await door.rig.client()
    upgrade = (
        b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13",
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    handshake = door.request(*upgrade)
    client.send(handshake)
    upstream = await door.rig.upstream.accept()
    await upstream.head()
    upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    door.rig.pass_time(120)
    door.adopt("required")  # and is looked at again
    upstream.send(b"\x81\x02ok")
    assert await client.exactly(4) == b"\x81\x02ok"
    await door.rig.becomes(lambda: not door.rig.proxy.tunnels._reviewing)
    upstream.send(b"\x81\x02ok")
    assert await client.exactly(4) == b"\x81\x02ok"
    again = await door.rig.client(handshake)
    assert (await again.head()).startswith(b"HTTP/1.1 401 "), "its handshake is not one for another"
