"""What is presented, to who that is: tokens that a real issuer signed, certificates, a file that
changes; and what an attacker would try."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ed25519

from sidecar.control import credentials, peer_certificate
from sidecar.control.attempts import ADDRESSES, RATE, Attempts
from sidecar.control.authority import Caller, Permission, Unauthenticated
from sidecar.control.credentials import AGAIN, Authority
from sidecar.control.peer_certificate import PeerCertificate
from sidecar.errors import Misuse
from sidecar.facts.jwks import COOL_DOWN
from tests import certificates
from tests.casebook import jwks, token

IDP = "https://idp.example"
NOW = 1_800_000_000.0
AUDIENCE = "sidecar-control-plane"
PEER = "192.0.2.7:5000"
VIEWER = (Permission("viewer"),)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def permission(who: str = f'issuer: "{IDP}", subject: alice', more: str = "role: viewer") -> str:
    return f"- {{who: {{{who}}}, {more}}}\n"


def write(
    folder: Path,
    *permissions: str,
    issuer: str = IDP,
    keys: Any = None,
    more: str = "",
    source: str = "",
) -> Path:
    """A new file each time, as tools replace files; `source` is where the keys are."""
    inline = f"jwks: {{inline: {json.dumps(jwks() if keys is None else keys)}}}"
    text = f"""issuers:
- issuer: {issuer}
  audience: {AUDIENCE}
  {more}
  {inline if source == "" else source}
permissions:
{"".join(permissions or (permission(),))}"""
    path = folder / "publishers.yaml"
    new = folder / "publishers.new"
    new.write_text(text)
    os.replace(new, path)
    return path


def bearer(claims: Mapping[str, Any] | None = None, header: Mapping[str, Any] | None = None) -> str:
    return "Bearer " + token(NOW, {"aud": AUDIENCE, **(claims or {})}, header)


@asynccontextmanager
async def authority(path: Path, clock: Clock | None = None) -> AsyncIterator[Authority]:
    found = Authority(path, clock=clock or Clock())
    yield found
    await found.close()


async def refused(found: Authority, shown: str | None, peer: str = PEER, **more: Any) -> str:
    with pytest.raises(Unauthenticated) as error:
        await found.identify(shown, more.get("certificate"), peer)
    assert error.value.later == (error.value.reason in ("throttled", "crowded", "keys_unavailable"))
    for part in (shown or "").removeprefix("Bearer ").split("."):
        assert len(part) < 12 or part not in str(error.value), "no credential is repeated"
    return error.value.reason


async def test_a_token_says_who_calls(tmp_path: Path) -> None:
    async with authority(write(tmp_path)) as found:
        caller = await found.identify(bearer(), None, PEER)
        assert caller == Caller(f"{IDP}#alice", VIEWER, NOW + 330)
        for shown in (bearer(header={"alg": "RS256"}), bearer(header={"typ": "at+jwt"}),
                      bearer().replace("Bearer", "bearer"), bearer({"aud": ["x", AUDIENCE]})):  # fmt: skip
            assert (await found.identify(shown, None, PEER)).permissions == VIEWER
        stranger = await found.identify(bearer({"sub": "mallory"}), None, PEER)
        assert stranger == Caller(f"{IDP}#mallory", (), NOW + 330)


FORGED = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (None, "missing"),
        ("", "scheme"),
        ("Bearer", "scheme"),
        ("Bearer ", "scheme"),
        ("Basic YWxpY2U6eA==", "scheme"),
        ("Bearer tök.e.n", "scheme"),
        ("Bearer \udcff.e.n", "scheme"),
        ("Bearer x", "malformed"),
        ("Bearer a.b.c", "malformed"),
        ("Bearer " + "a" * 20_000, "too_large"),
        (bearer({"aud": "bank"}), "audience_mismatch"),
        (bearer({"aud": None}), "audience_mismatch"),
        (bearer({"exp": -31}), "expired"),
        (bearer({"exp": None}), "malformed"),
        (bearer({"nbf": 31}), "not_yet_valid"),
        (bearer({"iss": "https://other.example"}), "issuer_unknown"),
        (bearer({"iss": IDP + "/"}), "issuer_unknown"),
        (bearer({"sub": None}), "subject_missing"),
        (bearer({"sub": ""}), "subject_missing"),
        (bearer({"sub": "a" * 256}), "malformed"),
        (bearer(header={"key": "stranger"}), "signature_invalid"),
        (bearer(header={"kid": "other"}), "key_unknown"),
        (bearer(header={"typ": "secevent+jwt"}), "type_not_admitted"),
        (bearer(header={"typ": "logout+jwt"}), "type_not_admitted"),
        (bearer({"events": {}}), "type_not_admitted"),
        (bearer({"cnf": {"jkt": "x"}}), "not_bound"),
        (f"Bearer {FORGED}.{bearer().split('.')[1]}.", "algorithm_not_admitted"),
    ],
)
async def test_what_does_not_stand(tmp_path: Path, shown: str | None, why: str) -> None:
    async with authority(write(tmp_path)) as found:
        assert await refused(found, shown) == why


async def test_alg_none_and_another_algorithm_than_the_issuers(tmp_path: Path) -> None:
    async with authority(write(tmp_path, more="algorithms: [ES256]")) as found:
        assert await refused(found, bearer()) == "algorithm_not_admitted"


async def test_an_unverified_address_is_nobody(tmp_path: Path) -> None:
    path = write(
        tmp_path, permission(f'issuer: "{IDP}", subject: a@x.example'), more="subject: email"
    )
    async with authority(path) as found:
        claims = {"email": "a@x.example", "sub": "1"}
        assert (await found.identify(bearer(claims), None, PEER)).name == f"{IDP}#a@x.example"
        shown = bearer({**claims, "email_verified": True})
        assert (await found.identify(shown, None, PEER)).permissions == VIEWER
        for no in (False, "true", None):
            if no is not None:
                assert await refused(found, bearer({**claims, "email_verified": no})) == "email"


async def test_a_bound_token_is_its_holders(tmp_path: Path) -> None:
    async with authority(write(tmp_path)) as found:
        shown = bearer({"cnf": {"x5t#S256": "print"}})
        mine, others = PeerCertificate(thumbprint="print"), PeerCertificate(thumbprint="other")
        assert (await found.identify(shown, mine, PEER)).name == f"{IDP}#alice"
        assert await refused(found, shown, certificate=others) == "not_bound"
        assert await refused(found, shown) == "not_bound", "also when it was seen to stand"


async def test_what_stood_expires(tmp_path: Path) -> None:
    clock = Clock()
    async with authority(write(tmp_path), clock) as found:
        shown = bearer()
        await found.identify(shown, None, PEER)
        clock.now += 329
        await found.identify(shown, None, PEER)
        clock.now += 1
        assert await refused(found, shown) == "expired"


# Certificates.


def certificate(*names: str, **more: Any) -> PeerCertificate:
    return peer_certificate.read(
        certificates.Authority().issue("deploy.ci.example", *names, **more).certificate
    )


async def test_a_certificate_says_who_calls(tmp_path: Path) -> None:
    spiffe = "spiffe://prod/ns/ci/sa/deploy"
    path = write(tmp_path, permission(f"spiffe: {spiffe}"), permission("certificate: a.example"))
    async with authority(path) as found:
        by_id = await found.identify(None, PeerCertificate(spiffe, expires=NOW + 9), PEER)
        assert by_id == Caller(spiffe, VIEWER, NOW + 9)
        by_name = await found.identify(None, PeerCertificate("", frozenset(["a.example"])), PEER)
        assert (by_name.name, by_name.permissions) == ("dns:a.example", VIEWER)
        stranger = await found.identify(None, PeerCertificate(spiffe + "x"), PEER)
        assert stranger.permissions == ()
        with pytest.raises(Unauthenticated, match="has expired"):
            await found.identify(None, PeerCertificate(spiffe, expires=NOW), PEER)
        with pytest.raises(Unauthenticated, match="its common name does not count"):
            await found.identify(None, PeerCertificate(), PEER)


async def test_a_token_counts_before_a_certificate(tmp_path: Path) -> None:
    path = write(tmp_path, permission("certificate: a.example", "role: admin"), permission())
    shown = PeerCertificate("", frozenset(["a.example"]))
    async with authority(path) as found:
        assert (await found.identify(bearer(), shown, PEER)).permissions == VIEWER
        assert await refused(found, "Bearer x", certificate=shown) == "malformed"


def test_what_is_read_of_certificates() -> None:
    spiffe = "spiffe://prod/ns/ci/sa/deploy"
    found = certificate("A.example", "10.0.0.1", spiffe)
    assert (found.spiffe, found.dns) == (spiffe, frozenset(["a.example"]))
    assert len(found.thumbprint) == 43
    assert certificate("a.example", "https://x/y").spiffe == ""
    assert certificate(spiffe, "spiffe://prod/other").spiffe == "", "one id and no other"
    assert certificate(spiffe, "https://x/y").spiffe == ""
    assert certificate("spiffe://prod").spiffe == ""
    nobody = certificate("10.0.0.1")
    assert (nobody.spiffe, nobody.dns) == ("", frozenset()), "the common name is nobody's"
    with pytest.raises(ValueError, match="PEM"):
        peer_certificate.read(b"no certificate")


# Guessing.


async def test_who_guesses_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with authority(write(tmp_path), clock) as found:
        await found.identify(bearer(), None, PEER)
        forged = bearer(header={"key": "stranger"})
        for _ in range(RATE.burst):
            assert await refused(found, forged) == "signature_invalid"
        with monkeypatch.context() as patched:
            patched.setattr(
                "sidecar.control.credentials.tokens.verify",
                lambda *_: pytest.fail("a signature was checked"),
            )
            assert await refused(found, forged, "192.0.2.7:9999") == "throttled"
            assert await refused(found, bearer({"sub": "bob"})) == "throttled"
            # What was seen to stand still does, and certificates are none of it.
            await found.identify(bearer(), None, PEER)
            await found.identify(None, PeerCertificate("spiffe://p/a"), PEER)
        assert await refused(found, forged, "192.0.2.8:1") == "signature_invalid", "others may"
        clock.now += RATE.interval
        await found.identify(bearer({"sub": "bob"}), None, PEER)


def test_attempts_are_bounded_and_count_networks() -> None:
    attempts = Attempts(most=3)
    for place in range(5):
        attempts.failed(f"192.0.2.{place}", 0.0)
    assert len(attempts) == 3
    assert Attempts()._most == ADDRESSES
    found = Attempts()
    for place in range(RATE.burst):
        found.failed(f"[2001:db8::{place}]", 0.0)
    assert found.wait("[2001:db8::ffff]", 0.0) > 0, "a /64 is one client"
    assert found.wait("[2001:db8:0:1::1]", 0.0) <= 0
    assert found.wait("[2001:db8::1]", RATE.interval) <= 0


async def test_what_is_remembered_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "REMEMBERED", 2)
    async with authority(write(tmp_path)) as found:
        for name in "abc":
            await found.identify(bearer({"sub": name}), None, PEER)
        assert len(found._stood) == 2


# Keys that are fetched.


class Provider:
    """An issuer on loopback."""

    def __init__(self) -> None:
        self.keys = jwks()
        self.asked = 0
        self.status = 200
        self.address = ""

    async def _metadata(self, _: web.Request) -> web.Response:
        return web.json_response({"issuer": self.address, "jwks_uri": f"{self.address}/jwks"})

    async def _keys(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response(self.keys, status=self.status)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/jwks", self._keys)
        app.router.add_get("/.well-known/openid-configuration", self._metadata)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()


async def test_keys_by_discovery_and_their_rotation(tmp_path: Path) -> None:
    provider, clock = Provider(), Clock()
    async with provider.serve():
        path = write(
            tmp_path, permission(f'issuer: "{provider.address}", subject: alice'),
            issuer=provider.address, source="subject: sub",
        )  # fmt: skip
        async with authority(path, clock) as found:
            shown = bearer({"iss": provider.address, "exp": 9999})
            both = await asyncio.gather(*(found.identify(shown, None, PEER) for _ in range(3)))
            assert {each.name for each in both} == {f"{provider.address}#alice"}
            assert provider.asked == 1
            # A withdrawn key no longer counts, whatever was seen to stand.
            provider.keys = {"keys": [key for key in jwks()["keys"] if key["kid"] == "rsa"]}
            clock.now += COOL_DOWN
            await found._keys.fetch(provider.address)
            assert await refused(found, shown) == "key_unknown"
            fresh = bearer({"iss": provider.address}, {"alg": "RS256"})
            assert (await found.identify(fresh, None, PEER)).permissions == VIEWER


async def test_keys_that_cannot_be_had_are_nobodys_fault(tmp_path: Path) -> None:
    provider = Provider()
    provider.status = 500
    async with provider.serve():
        path = write(
            tmp_path, permission(f'issuer: "{provider.address}", subject: alice'),
            issuer=provider.address, source=f'jwks: {{uri: "{provider.address}/jwks"}}',
        )  # fmt: skip
        async with authority(path) as found:
            shown = bearer({"iss": provider.address})
            for _ in range(RATE.burst + 1):
                assert await refused(found, shown) == "keys_unavailable"
            assert provider.asked == 1


# The file changes.


async def test_a_new_file_counts_from_the_next_call_on(tmp_path: Path) -> None:
    path = write(tmp_path)
    async with authority(path) as found:
        shown = bearer()
        assert (await found.identify(shown, None, PEER)).permissions == VIEWER
        write(tmp_path, permission(more="role: publisher, namespaces: [payments]"))
        assert (await found.identify(shown, None, PEER)).permissions == (
            Permission("publisher", frozenset(["payments"])),
        )
        write(tmp_path, permission(f'issuer: "{IDP}", subject: bob'))
        assert (await found.identify(shown, None, PEER)).permissions == ()
        write(tmp_path, permission("spiffe: spiffe://p/a"), more="subject: oid")
        assert await refused(found, shown) == "subject_missing", "it is looked at anew"


async def test_a_broken_file_leaves_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    clock = Clock()
    async with authority(path, clock) as found:
        with caplog.at_level(logging.ERROR):
            write(tmp_path, permission(more="role: root"))
            for _ in range(3):
                assert (await found.identify(bearer(), None, PEER)).permissions == VIEWER
            path.unlink()
            assert (await found.identify(bearer(), None, PEER)).permissions == VIEWER
        assert [record.getMessage()[:30] for record in caplog.records] == [
            "the publishers before stay: --"
        ] * 2
        assert found.error
        write(tmp_path, permission(more="role: approver"))
        assert (await found.identify(bearer(), None, PEER)).permissions == (Permission("approver"),)
        assert not found.error


async def test_a_file_of_keys_is_followed_too(tmp_path: Path) -> None:
    keys = tmp_path / "keys.jwks"
    keys.write_text(json.dumps(jwks()))
    path = write(tmp_path, source="jwks: {file: keys.jwks}")
    clock = Clock()
    async with authority(path, clock) as found:
        assert (await found.identify(bearer(), None, PEER)).permissions == VIEWER
        other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        jwk = {"kty": "OKP", "crv": "Ed25519", "kid": "ed",
               "x": base64.urlsafe_b64encode(other).rstrip(b"=").decode()}  # fmt: skip
        keys.write_text(json.dumps({"keys": [jwk]}))
        assert await refused(found, bearer()) == "signature_invalid"
        # A new file of publishers names keys that come only later.
        write(tmp_path, source="jwks: {file: new.jwks}")
        assert await refused(found, bearer()) == "signature_invalid"
        assert "new.jwks" in found.error
        (tmp_path / "new.jwks").write_text(json.dumps(jwks()))
        clock.now += AGAIN
        assert (await found.identify(bearer(), None, PEER)).permissions == VIEWER


def test_it_does_not_begin_with_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="root"):
        Authority(write(tmp_path, permission(more="role: root")))
    with pytest.raises(Misuse, match="No such file"):
        Authority(tmp_path / "gone.yaml")
