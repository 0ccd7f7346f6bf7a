"""`--api`: TLS, tokens and certificates, with real sockets; and what it refuses to begin with."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientConnectorError, ClientError, ClientSession, TCPConnector

from sidecar.app import _publishers
from sidecar.config_publishers import PublisherSettings
from sidecar.config_setting import Address
from sidecar.control import http
from sidecar.control.certificates import ServerCertificates
from sidecar.control.credentials import Authority
from sidecar.control.publisher_listener import PublisherListener, check
from sidecar.control.server import ControlPlane
from sidecar.errors import Misuse
from tests import certificates
from tests.control.api.calling import Answer, Caller, Shown, connected, document, tls_api
from tests.control.test_doors import IDP, PUBLISHERS


async def asked(
    call: Caller, context: ssl.SSLContext, path: str = "/v1/whoami", name: str = "localhost"
) -> Answer:
    """On a connection of its own."""
    async with ClientSession(connector=TCPConnector(ssl=context)) as session:
        return await replace(call, session=session, url=call.url.replace("localhost", name)).get(
            path
        )


async def test_a_token_over_tls(tmp_path: Path) -> None:
    async with tls_api(tmp_path) as (here, shown):
        connector = TCPConnector(ssl=shown.authority.client_context())
        async with ClientSession(connector=connector) as session:
            call = replace(here.call, session=session)
            made = await call.as_("publisher").post("/v1/apply", {"documents": [document()]})
            assert (made.status, made.body["outcome"]) == (200, "published")
            # Behind TLS a name may be any that the certificate is for, and a proxy may be before it.
            viewer = call.as_("viewer")
            named = await viewer.get("/v1/documents", host="api.example", x_forwarded_for="1.2.3.4")
            assert named.status == (421 if "127.0.0.1" in here.bound.api else 200)
            assert len((await viewer.get("/v1/documents")).body["documents"]) == 1
            assert (await call.get("/v1/documents")).status == 401
            assert (await call.get("/v1/openapi.json")).status == 200
            assert (await call.get("/metrics")).status == 404, "nothing else is there"
            assert (await viewer.get("/v1/whoami", origin="https://evil.example")).status == 403


async def test_beyond_loopback(tmp_path: Path) -> None:
    async with tls_api(tmp_path, api="0.0.0.0:0") as (here, shown):
        context = shown.authority.client_context()
        async with ClientSession(connector=TCPConnector(ssl=context)) as session:
            viewer = replace(here.call, session=session).as_("viewer")
            named = await viewer.get("/v1/documents", host="api.example", x_forwarded_for="1.2.3.4")
            assert named.status == 200
            assert (await viewer.get("/v1/whoami", sec_fetch_site="cross-site")).status == 403


async def test_plain_text_and_old_versions_do_not_connect(tmp_path: Path) -> None:
    async with tls_api(tmp_path) as (here, shown):
        async with connected(
            here.call, b"GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\n\r\n"
        ) as reader:
            assert b"HTTP" not in await reader.read()
        old = shown.authority.client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ClientConnectorError):
            await asked(here.call, old)
        with pytest.raises(ClientConnectorError):
            await asked(here.call, certificates.Authority().client_context())


async def test_certificates_may_be_shown(tmp_path: Path) -> None:
    async with tls_api(tmp_path, asks=True) as (here, shown):

        def context(*names: str) -> ssl.SSLContext:
            pair = shown.authority.issue("x", *names).write(tmp_path, "client")
            return shown.authority.client_context(pair)

        workload = await asked(here.call, context("spiffe://prod/ns/ci/sa/deploy"))
        assert workload.body["name"] == "spiffe://prod/ns/ci/sa/deploy"
        assert (await asked(here.call, context("deploy.ci.example"))).body[
            "name"
        ] == "dns:deploy.ci.example"
        stranger = await asked(here.call, context("other.example"))
        assert (stranger.status, stranger.body["code"]) == (403, "denied")
        token = await asked(here.call.as_("viewer"), context("other.example"))
        assert token.body["name"] == f"{IDP}#viewer", "with a token as well, the token counts"
        nothing = await asked(here.call, shown.authority.client_context())
        assert (nothing.status, nothing.body["code"]) == (401, "authentication_required")


async def test_certificates_of_others_do_not_connect(tmp_path: Path) -> None:
    name = "spiffe://prod/ns/ci/sa/deploy"
    async with tls_api(tmp_path, asks=True) as (here, shown):
        other = certificates.Authority().issue("x", name).write(tmp_path, "other")
        over = shown.authority.issue("x", name, days=1, since=-2).write(tmp_path, "over")
        for pair in (other, over):
            with pytest.raises((ClientError, OSError)):
                await asked(here.call, shown.authority.client_context(pair))


async def test_without_authorities_nobody_is_asked_for_a_certificate(tmp_path: Path) -> None:
    async with tls_api(tmp_path) as (here, shown):
        pair = shown.authority.issue("x", "spiffe://prod/ns/ci/sa/deploy").write(tmp_path, "c")
        answer = await asked(here.call, shown.authority.client_context(pair))
        assert answer.status == 401


def written(pair: certificates.Pair, shown: Shown) -> None:
    """In the place of what is shown, as one that renews certificates does it."""
    for file, data in zip(shown.pair, (pair.certificate, pair.key), strict=True):
        new = file.with_suffix(".new")
        new.write_bytes(data)
        os.replace(new, file)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_new_files_count_from_the_next_connection_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Also for who asks for no name (SNI), as who comes by address."""
    async with tls_api(tmp_path, asks=True) as (here, shown):
        viewer = here.call.as_("viewer")
        assert (await asked(viewer, shown.authority.client_context(), name=name)).status == 200
        next_one = certificates.Authority("next root")
        written(next_one.issue(), shown)
        assert (await asked(viewer, next_one.client_context(), name=name)).status == 200
        with pytest.raises(ClientConnectorError):
            await asked(viewer, shown.authority.client_context(), name=name)
        # What is of no use is said once, and what was before stays.
        written(certificates.Pair(b"nonsense", b"nonsense"), shown)
        with caplog.at_level(logging.ERROR):
            for _ in range(2):
                assert (await asked(viewer, next_one.client_context(), name=name)).status == 200
        assert caplog.text.count("the certificate before stays in use") == 1


async def test_new_authorities_count_from_the_next_connection_on(tmp_path: Path) -> None:
    async with tls_api(tmp_path, asks=True) as (here, shown):
        name = "spiffe://prod/ns/ci/sa/deploy"
        mine = shown.authority.client_context(shown.authority.issue("x", name).write(tmp_path, "a"))
        assert (await asked(here.call, mine)).status == 200
        next_one = certificates.Authority("next root")
        new = tmp_path / "new.pem"
        new.write_bytes(next_one.pem)
        os.replace(new, shown.ca)
        with pytest.raises((ClientError, OSError)):
            await asked(here.call, mine)
        theirs = shown.authority.client_context(next_one.issue("x", name).write(tmp_path, "b"))
        assert (await asked(here.call, theirs)).status == 200


async def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.control.server.MAX_API", 1)
    async with tls_api(tmp_path) as (here, shown):
        viewer, context = here.call.as_("viewer"), shown.authority.client_context()
        async with ClientSession(connector=TCPConnector(ssl=context)) as session:
            first = replace(viewer, session=session)
            assert (await first.get("/v1/whoami")).status == 200
            with pytest.raises((ClientError, OSError)):
                await asked(viewer, context)
            assert (await first.get("/v1/whoami")).status == 200
    assert http.IDLE < 60


async def test_on_loopback_it_needs_nothing(tmp_path: Path) -> None:
    control = ControlPlane()
    bound = await control.start(
        "127.0.0.1:0", None, f"sqlite:///{tmp_path / 'store.db'}",
        publishers=PublisherListener(api=("127.0.0.1:0", None)),
    )  # fmt: skip
    try:
        async with ClientSession() as session:
            assert (await Caller(session, f"http://{bound.api}").get("/v1/whoami")).status == 200
    finally:
        await control.stop()


def test_what_it_refuses_to_begin_with(tmp_path: Path) -> None:
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)
    tokens = Authority(file)
    pem = certificates.Authority().write(tmp_path)
    tls = ServerCertificates(pem, pem, None)

    def begin(api: str, authority: Authority | None, shown: ServerCertificates | None) -> str:
        for insecure in (False, True):
            try:
                listener = PublisherListener(authority, tls, api=(api, shown))
                check("127.0.0.1:1", listener, insecure_unauthenticated=insecure)
            except Misuse as error:
                return str(error)
        return ""

    for where in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "control.example:1"):
        assert "--publishers FILE" in begin(where, None, tls), "and no insecure setting helps"
        assert "--api" in begin(where, None, None)
        assert "plain text" in begin(where, tokens, None)
    assert begin("127.0.0.1:1", None, None) == ""
    with pytest.raises(Misuse, match="one of the two"):
        check(
            "127.0.0.1:1",
            PublisherListener(tokens, tls, api=("0.0.0.0:1", tls)),
            insecure_unauthenticated=True,
        )
    check(
        "127.0.0.1:1",
        PublisherListener(tokens, tls, api=("0.0.0.0:1", tls)),
        insecure_unauthenticated=False,
    )


async def test_files_of_no_use_and_taken_ports_are_said(tmp_path: Path) -> None:
    ca = certificates.Authority()
    pair, other = ca.issue().write(tmp_path, "one"), ca.issue().write(tmp_path, "two")
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)

    async def begin(
        where: str, certificate: Path, key: Path, client_ca: Path | None = None
    ) -> None:
        shown = ServerCertificates(certificate, key, client_ca, "--publisher-tls-cert")
        control = ControlPlane()
        await control.start(
            "127.0.0.1:0", None, f"sqlite:///{tmp_path / 'store.db'}",
            publishers=PublisherListener(Authority(file), api=(where, shown)),
        )  # fmt: skip

    with pytest.raises(Misuse, match="--publisher-tls-cert: the key is not that of"):
        await begin("127.0.0.1:0", pair[0], other[1])
    with pytest.raises(Misuse, match="--publisher-tls-cert: "):
        await begin("127.0.0.1:0", pair[0], pair[1], pair[1])
    (tmp_path / "x").mkdir()
    async with tls_api(tmp_path / "x") as (here, _):
        with pytest.raises(Misuse, match="address already in use; choose another with --api"):
            await begin(here.bound.api, *pair)


def test_the_settings_say_what_it_shows(tmp_path: Path) -> None:
    file = tmp_path / "publishers.yaml"
    file.write_text(PUBLISHERS)
    pair, ca = (tmp_path / "c", tmp_path / "k"), tmp_path / "ca"
    where = Address("0.0.0.0", 7446)
    for mtls in (None, Address("0.0.0.0", 7445)):
        found = _publishers(PublisherSettings(file, pair, ca, mtls, where)).api
        assert found is not None
        address, shown = found
        assert (address, shown and shown.files) == ("0.0.0.0:7446", (*pair, ca))
    plain = _publishers(PublisherSettings(api=Address("127.0.0.1", 7446))).api
    assert plain == ("127.0.0.1:7446", None)
