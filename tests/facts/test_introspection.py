"""Asking issuers about opaque tokens: who we say we are, one question at a time, bounds, breaker."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from msgspec import structs

from sidecar.decide.introspection import INACTIVE, Introspector, Secret, Unknown, key_of
from sidecar.decide.outcomes import NeedIntrospection
from sidecar.decide.tokens import Verified
from sidecar.errors import FetchFailed
from sidecar.facts import introspection
from sidecar.facts.breaker import BREAKS_AFTER, OPEN
from sidecar.facts.http import HttpClient
from sidecar.facts.introspection import Introspections
from sidecar.facts.secrets import Secrets
from tests.decide.test_introspection import NOW, body, introspector

ACTIVE = body()


class Server(HttpClient):
    """Answers as told; `hold` keeps questions waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: bytes | FetchFailed = ACTIVE
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def post(
        self, address: str, form: Mapping[str, str], headers: Mapping[str, str], tls: Any = None
    ) -> bytes:
        self.asked.append((address, dict(form), dict(headers)))
        await self.go.wait()
        if isinstance(self.answer, FetchFailed):
            raise self.answer
        return self.answer


class Stage:
    """Everything, with a clock of its own. Secrets are files below `folder`."""

    def __init__(self, folder: Path, more: str = "", **variables: str) -> None:
        self.folder = folder
        self.now = NOW
        self.server = Server()
        (folder / "idp").write_text("s3cret:%\n")
        secrets = Secrets(folder, variables.get)
        self.asking = Introspections(secrets, clock=lambda: self.now, http=self.server)
        self.introspector = introspector(more or f"clientSecret: {{fromFile: {folder / 'idp'}}}")
        self.asking.use([self.introspector])

    def secret(self, text: str) -> None:
        (self.folder / "idp").write_text(text)

    def want(self, token: bytes = b"opq", address: str = "192.0.2.1") -> NeedIntrospection:
        key = key_of(self.introspector, token)
        return NeedIntrospection(key, self.introspector.issuer.issuer, token, address)

    async def fetch(self, token: bytes = b"opq") -> Any:
        want = self.want(token)
        await self.asking.fetch(want)
        return self.asking.answers.get(want.key, self.now)


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (nobody would set the event)
            await asyncio.sleep(0)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def test_an_answer_is_evidence_until_its_time(stage: Stage) -> None:
    found = await stage.fetch()
    assert isinstance(found, Verified)
    key = stage.want().key
    assert stage.asking.answers.get(key, NOW + 29.9) is found
    assert stage.asking.answers.get(key, NOW + 30) is None
    assert stage.asking.outcomes == {"active": 1}
    stage.server.answer = b'{"active": false}'
    assert await stage.fetch(b"other") is INACTIVE
    assert stage.asking.answers.get(stage.want(b"other").key, NOW + 5) is None
    stage.server.answer = body(aud="else")
    await stage.fetch(b"third")
    assert stage.asking.outcomes == {"active": 1, "inactive": 1, "refused": 1}


async def test_the_client_says_who_it_is_by_its_secret(stage: Stage) -> None:
    await stage.fetch()
    ((address, form, headers),) = stage.server.asked
    assert address == "https://idp.example/introspect"
    assert form == {"token": "opq", "token_type_hint": "access_token"}
    pair = base64.b64decode(headers["authorization"].removeprefix("Basic "))
    assert pair == b"sidecar:s3cret%3A%25"  # form-encoded first (RFC 6749 section 2.3.1)
    (stage.folder / "idp").write_text("changed")
    await stage.fetch(b"other")
    assert base64.b64decode(stage.server.asked[1][2]["authorization"][6:]) == b"sidecar:changed"


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), "RS256"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate, "EdDSA"),
    ],
)
async def test_or_by_a_signed_assertion(
    tmp_path: Path, make: Callable[[], Any], algorithm: str
) -> None:
    key = make()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(pem)
    stage = Stage(tmp_path, f"privateKey: {{fromFile: {tmp_path / 'key'}}}, keyId: k1")
    await stage.fetch()
    await stage.fetch(b"other")
    tokens = [form["client_assertion"] for _, form, _ in stage.server.asked]
    for text in tokens:
        claims = jwt.decode(
            text, key.public_key(), [algorithm], audience="https://idp.example",
            options={"verify_exp": False, "verify_iat": False},
        )  # fmt: skip
        assert (claims["iss"], claims["sub"]) == ("sidecar", "sidecar")
        assert claims["exp"] - claims["iat"] == 60
        assert jwt.get_unverified_header(text)["kid"] == "k1"
    assert tokens[0] != tokens[1]
    form = stage.server.asked[0][1]
    assert form["client_id"] == "sidecar"
    assert form["client_assertion_type"].endswith("jwt-bearer")


async def test_a_secret_may_be_a_variable(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, "clientSecret: {fromEnv: SIDECAR_SECRET_IDP}", SIDECAR_SECRET_IDP="from env"
    )
    await stage.fetch()
    pair = base64.b64decode(stage.server.asked[0][2]["authorization"][6:])
    assert pair == b"sidecar:from+env"


@pytest.mark.parametrize("content", [b"", b"  \n", None, b"not pem"])
async def test_a_secret_that_is_of_no_use_is_said_and_never_shown(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "key"
    stage = Stage(tmp_path, f"privateKey: {{fromFile: {path}}}")
    if content is not None:
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = await stage.fetch(b"opq_very_secret")
    assert isinstance(found, Unknown)
    assert str(path) in caplog.text
    assert "opq_very_secret" not in caplog.text
    assert stage.server.asked == []


async def test_one_question_for_a_token_at_a_time(stage: Stage) -> None:
    stage.server.go.clear()
    waiting = [asyncio.create_task(stage.asking.fetch(stage.want())) for _ in range(10)]
    other = asyncio.create_task(stage.asking.fetch(stage.want(b"other")))
    await becomes(lambda: len(stage.server.asked) == 2)
    waiting[0].cancel()  # who hangs up takes nothing from the others
    stage.server.go.set()
    await asyncio.gather(*waiting, other, return_exceptions=True)
    assert sorted(form["token"] for _, form, _ in stage.server.asked) == ["opq", "other"]
    assert isinstance(stage.asking.answers.get(stage.want().key, NOW), Verified)


async def test_an_address_asks_about_so_many_at_a_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "PER_ADDRESS", 2)
    stage.server.go.clear()
    flights = [asyncio.create_task(stage.asking.fetch(stage.want(b"t%d" % n))) for n in range(5)]
    await becomes(lambda: len(stage.server.asked) == 2)
    assert stage.asking.asks_too_much("192.0.2.1")
    assert not stage.asking.asks_too_much("192.0.2.2")
    elsewhere = asyncio.create_task(stage.asking.fetch(stage.want(b"t", "192.0.2.2")))
    await becomes(lambda: len(stage.server.asked) == 3)
    stage.server.go.set()
    await asyncio.gather(*flights, elsewhere)
    assert len(stage.server.asked) == 3
    assert not stage.asking.asks_too_much("192.0.2.1")
    assert not stage.asking._asking


async def test_a_server_gets_so_many_at_once_and_the_queue_ends(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "WAITING", 3)
    stage.server.go.clear()
    flights = [
        asyncio.create_task(stage.asking.fetch(stage.want(b"t%d" % n, f"192.0.2.{n}")))
        for n in range(4)
    ]
    await becomes(lambda: len(stage.server.asked) == 3 and bool(stage.asking.outcomes["spared"]))
    stage.server.go.set()
    await asyncio.gather(*flights)
    assert stage.asking.outcomes == {"active": 3, "spared": 1}
    assert not stage.asking.status()["https://idp.example"]["open"]


async def test_a_secret_of_ours_that_is_missing_is_not_the_servers_fault(stage: Stage) -> None:
    stage.secret("")
    for number in range(2 * BREAKS_AFTER):
        assert isinstance(await stage.fetch(b"t%d" % number), Unknown)
    assert stage.server.asked == []
    assert not stage.asking.status()["https://idp.example"]["open"]
    stage.secret("found again")
    assert isinstance(await stage.fetch(b"again"), Verified)


async def test_those_in_line_are_not_sent_to_a_server_that_fails_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "AT_ONCE", BREAKS_AFTER)
    (tmp_path / "idp").write_text("s")
    stage = Stage(tmp_path, f"clientSecret: {{fromFile: {tmp_path / 'idp'}}}")
    stage.server.answer = FetchFailed("down")
    stage.server.go.clear()
    flights = [
        asyncio.create_task(stage.asking.fetch(stage.want(b"t%d" % n, f"192.0.2.{n}")))
        for n in range(3 * BREAKS_AFTER)
    ]
    await becomes(lambda: len(stage.server.asked) == BREAKS_AFTER)
    stage.server.go.set()
    await asyncio.gather(*flights)
    assert len(stage.server.asked) == BREAKS_AFTER


async def test_a_server_that_fails_is_left_alone_and_tried_again(stage: Stage) -> None:
    stage.server.answer = FetchFailed("down")
    for number in range(BREAKS_AFTER + 3):
        assert isinstance(await stage.fetch(b"t%d" % number), Unknown)
    assert len(stage.server.asked) == BREAKS_AFTER
    assert stage.asking.outcomes == {"failed": BREAKS_AFTER, "spared": 3}
    assert stage.asking.status()["https://idp.example"] == {"open": True, "error": "down"}
    stage.now += OPEN
    stage.server.answer = ACTIVE
    assert isinstance(await stage.fetch(b"again"), Verified)
    assert stage.asking.status()["https://idp.example"] == {"open": False, "error": ""}


async def test_no_token_can_have_the_server_left_alone(stage: Stage) -> None:
    """A question that the server does not like says nothing about the server."""
    stage.server.answer = FetchFailed("answered 400", 400)
    for number in range(2 * BREAKS_AFTER):
        assert isinstance(await stage.fetch(b"t%d" % number), Unknown)
    assert len(stage.server.asked) == 2 * BREAKS_AFTER
    stage.server.answer = FetchFailed("answered 401", 401)
    for number in range(2 * BREAKS_AFTER):
        await stage.fetch(b"u%d" % number)
    assert len(stage.server.asked) == 3 * BREAKS_AFTER


@pytest.mark.parametrize("answer", [b"not json", b'{"active": 1}', FetchFailed("too long", 200)])
async def test_nor_can_what_it_says_of_one(stage: Stage, answer: Any) -> None:
    stage.server.answer = answer
    for number in range(2 * BREAKS_AFTER):
        assert isinstance(await stage.fetch(b"t%d" % number), Unknown)
    assert len(stage.server.asked) == 2 * BREAKS_AFTER


async def test_what_goes_on_is_asked_about_whoever_asks_too_much(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "PER_ADDRESS", 0)
    want = stage.want()
    await stage.asking.fetch(want)
    assert stage.server.asked == []
    await stage.asking.fetch(structs.replace(want, reviewed=True))
    assert len(stage.server.asked) == 1


def test_an_ipv6_client_is_its_network(stage: Stage) -> None:
    stage.asking._asking["2001:db8::"] = introspection.PER_ADDRESS
    assert stage.asking.asks_too_much("2001:db8::1:2")
    assert not stage.asking.asks_too_much("2001:db8:0:1::1")


async def test_what_is_not_ascii_is_not_even_asked_about(stage: Stage) -> None:
    assert await stage.fetch("ö".encode()) is INACTIVE
    assert stage.server.asked == []


async def test_a_defect_of_ours_is_an_answer_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr(introspection, "read", broken)
    assert isinstance(await stage.fetch(), Unknown)


async def test_nobody_is_asked_for_a_snapshot_that_is_gone(stage: Stage) -> None:
    want = stage.want()
    stage.asking.use([])
    await stage.asking.fetch(want)
    assert stage.server.asked == []
    stage.asking.use([introspector()])
    await stage.asking.fetch(want)
    assert stage.server.asked == []


async def test_another_description_closes_the_breaker(stage: Stage) -> None:
    stage.server.answer = FetchFailed("down")
    for number in range(BREAKS_AFTER):
        await stage.fetch(b"t%d" % number)
    stage.asking.use([stage.introspector])
    assert stage.asking.status()["https://idp.example"]["open"]
    other: Introspector = introspector("clientSecret: {fromEnv: SIDECAR_SECRET_X}")
    stage.asking.use([other])
    assert not stage.asking.status()["https://idp.example"]["open"]


async def test_closing_leaves_nothing_behind(stage: Stage) -> None:
    stage.server.go.clear()
    asking = asyncio.create_task(stage.asking.fetch(stage.want()))
    await becomes(lambda: bool(stage.server.asked))
    await stage.asking.close()
    await asking
    assert not stage.asking._flights


# Secrets.


def test_only_what_was_put_where_secrets_are_is_read(tmp_path: Path) -> None:
    folder, outside = tmp_path / "secrets", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("private")
    (folder / "in").write_text("fine")
    (folder / "link").symlink_to(outside)
    (folder / "inner").symlink_to(folder / "in")
    (folder / "sub").mkdir()
    secrets = Secrets(folder, {"SIDECAR_SECRET_A": "a", "HOME": "/root"}.get)
    assert secrets.read(Secret(file=str(folder / "in"))) == b"fine"
    assert secrets.read(Secret(file=str(folder / "inner"))) == b"fine"
    assert secrets.read(Secret(variable="SIDECAR_SECRET_A")) == b"a"
    for bad in (
        Secret(file=str(outside)), Secret(file=str(folder / "link")),
        Secret(file=str(folder / "missing")), Secret(file=str(folder / "sub")),
        Secret(file=f"{folder}/../outside"), Secret(variable="HOME"),
        Secret(variable="SIDECAR_SECRET_B"),
    ):  # fmt: skip
        with pytest.raises(FetchFailed) as caught:
            secrets.read(bad)
        assert "private" not in str(caught.value)
    pods = folder / "kubernetes.io" / "serviceaccount"
    pods.mkdir(parents=True)
    (pods / "token").write_text("private")
    with pytest.raises(FetchFailed, match="the pod's own"):
        secrets.read(Secret(file=str(pods / "token")))
    (folder / "huge").write_bytes(b"x" * 70_000)
    with pytest.raises(FetchFailed, match="more than"):
        secrets.read(Secret(file=str(folder / "huge")))


# The wire.


@pytest.mark.parametrize(
    ("status", "text", "headers", "active"),
    [
        (200, ACTIVE.decode(), {}, True),
        (200, "x" * 70_000, {}, False),
        (500, ACTIVE.decode(), {}, False),
        (302, "", {"location": "/elsewhere"}, False),
    ],
)
async def test_over_http(
    tmp_path: Path, status: int, text: str, headers: dict[str, str], active: bool
) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(str((await request.post())["token"]))
        return web.Response(
            status=status, text=text, headers=headers, content_type="application/json"
        )

    app = web.Application()
    app.router.add_post("/introspect", answer)
    app.router.add_route("*", "/elsewhere", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    (tmp_path / "idp").write_text("secret")
    asking = Introspections(Secrets(tmp_path, lambda _: None), clock=lambda: NOW)
    (one,) = [
        introspector(f"clientSecret: {{fromFile: {tmp_path / 'idp'}}}")
    ]  # fmt: skip
    object.__setattr__(one, "endpoint", f"http://127.0.0.1:{port}/introspect")
    asking.use([one])
    want = NeedIntrospection(key_of(one, b"a&b=c"), one.issuer.issuer, b"a&b=c", "192.0.2.1")
    await asking.fetch(want)
    found = asking.answers.get(want.key, NOW)
    assert isinstance(found, Verified) is active
    assert seen == ["a&b=c"]
    assert json.loads(ACTIVE)["active"] is True
    await asking.close()
    await runner.cleanup()
