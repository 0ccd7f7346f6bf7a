"""Whose certificate counts: what handshakes show, what trusted proxies say, and nobody else."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509

from sidecar.decide.workloads import Certificate
from sidecar.edge.callers import Callers, named, thumbprint, told
from sidecar.edge.certificates import ServerFiles
from sidecar.edge.fields import CLIENT_CERT, FORWARDED_CLIENT_CERT
from sidecar.edge.forwarded import TrustedProxies, network
from sidecar.edge.handshakes import Handshakes
from sidecar.edge.http1 import parse_request_head
from sidecar.edge.rotation import Rotation
from tests.certificates import Authority, Pair

from .conftest import Rig
from .test_tls import BOTH, GET, TlsRig, off

BILLING = "spiffe://prod/ns/pay/sa/billing"
NO = GET.replace(b"/a", b"/no")
LOOPBACK = TrustedProxies([network("127.0.0.1")])


def mark(authority: Authority) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.pem.decode())).digest()


def usage(**said: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: said.get(name, False) for name in names})


# -- whom a verified certificate names


def test_an_id_counts_where_its_own_trust_domain_vouches_for_it() -> None:
    prod, stage = Authority("prod"), Authority("stage")
    bundles = {"prod": frozenset((mark(prod),)), "stage": frozenset((mark(stage),))}
    leaf = prod.issue("billing", BILLING).der
    found = named(leaf, (mark(prod),), bundles)
    assert found is not None
    assert (found.spiffe, found.namespace, found.service_account) == (BILLING, "pay", "billing")
    not_after = x509.load_der_x509_certificate(leaf).not_valid_after_utc.timestamp()
    assert found.expires == not_after
    # The CA of another trust domain can sign whatever it likes.
    assert named(stage.issue("billing", BILLING).der, (mark(stage),), bundles) is None
    assert named(leaf, (mark(prod),), {"stage": bundles["stage"]}) is None
    assert named(leaf, (), bundles) is None, "nothing was verified"
    assert named(leaf, (mark(prod),), {}) is None


@pytest.mark.parametrize("names", [
    ("spiffe://prod/a", "spiffe://prod/b"), ("spiffe://prod/a", "https://prod/a"), ("https://prod/a",),
    ("spiffe://prod",), ("spiffe://PROD/a",), ("localhost",), ("spiffe://prod/a?x",), ("spiffe://prod/a/",),
])  # fmt: skip
def test_what_names_no_workload(names: tuple[str, ...]) -> None:
    prod = Authority("prod")
    leaf = prod.issue("x", *names).der
    assert named(leaf, (mark(prod),), {"prod": frozenset((mark(prod),))}) is None


def test_names_beside_the_id_do_not_matter() -> None:
    prod = Authority("prod")
    leaf = prod.issue("x", BILLING, "billing.pay", "10.0.0.1").der
    assert named(leaf, (mark(prod),), {"prod": frozenset((mark(prod),))}) is not None


@pytest.mark.parametrize(("extension", "stands"), [
    (x509.BasicConstraints(ca=True, path_length=None), False),
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage(digital_signature=True), True), (usage(digital_signature=True, key_cert_sign=True), False),
    (usage(digital_signature=True, crl_sign=True), False), (usage(key_agreement=True), False),
])  # fmt: skip
def test_a_leaf_signs_handshakes_and_no_certificates(extension: Any, stands: bool) -> None:
    """X509-SVID section 4: or whoever holds one makes ids of its own."""
    prod = Authority("prod")
    leaf = prod.issue("x", BILLING, more=(extension,)).der
    found = named(leaf, (mark(prod),), {"prod": frozenset((mark(prod),))})
    assert (found is not None) == stands


def test_junk_names_nobody() -> None:
    for leaf in (b"", b"junk", Authority().issue().der[:-1]):
        assert named(leaf, (b"x" * 32,), {"prod": frozenset((b"x" * 32,))}) is None


# -- handshakes


class CallersRig(TlsRig):
    """TLS that knows trust bundles."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.prod, self.stage = Authority("prod"), Authority("stage")

    async def begin(self, *, bundles: bool = True, optional: bool = True, **more: Any) -> None:
        folder = self.folder
        held = (
            ("prod", self.prod.write(folder, "prod")),
            ("stage", self.stage.write(folder, "stage")),
        )
        files = ServerFiles(
            *self.authority.issue().write(folder, "server"), self.callers.write(folder, "callers"),
            optional, held if bundles else (),
        )  # fmt: skip
        self.rotation = Rotation("client", files)
        self.rotation.load()
        self.known = Callers(lambda: self.rotation.bundles)
        handshakes = Handshakes(lambda: self.rotation.context)
        await self.start(more={"handshakes": handshakes, "callers": self.known, **more})

    async def seen(
        self, pair: Pair | None, *, version: ssl.TLSVersion | None = None
    ) -> Certificate | None:
        """What a decision about a caller with this certificate is told."""
        context = self.authority.client_context(
            pair.write(self.folder, "caller") if pair is not None else None
        )
        if version is not None:
            context.minimum_version = context.maximum_version = version

        def ask() -> None:
            with self.connect(context) as client:
                client.sock.sendall(NO)
                assert client.sock.recv(12) == b"HTTP/1.1 403"

        await off(ask)
        return self.authorizer.decided[-1].certificate


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[CallersRig]:
    rig = CallersRig(tmp_path)
    yield rig
    await rig.stop()


@BOTH
async def test_what_a_handshake_shows(rig: CallersRig, version: ssl.TLSVersion) -> None:
    await rig.begin()
    pair = rig.prod.issue("billing", BILLING)
    found = await rig.seen(pair, version=version)
    assert found is not None
    assert found.thumbprint == pair.thumbprint
    assert found.workload is not None
    assert found.workload.spiffe == BILLING
    assert await rig.seen(pair, version=version) is found, "equal certificates are one"
    assert await rig.seen(None, version=version) is None
    other = await rig.seen(rig.prod.issue("billing", BILLING), version=version)
    assert other is not None
    assert other.thumbprint != found.thumbprint


async def test_each_bundle_vouches_for_its_own_only(rig: CallersRig) -> None:
    await rig.begin()
    for pair in (
        rig.stage.issue("x", BILLING), rig.callers.issue("x", BILLING), rig.prod.issue("x"),
    ):  # fmt: skip
        found = await rig.seen(pair)
        assert found is not None
        assert (found.thumbprint, found.workload) == (pair.thumbprint, None)


async def test_an_intermediate_of_a_bundle(rig: CallersRig) -> None:
    await rig.begin()
    between = Authority("between", above=rig.prod)
    leaf = between.issue("billing", BILLING)
    chain = Pair(leaf.certificate + between.pem, leaf.key)
    found = await rig.seen(chain)
    assert found is not None
    assert found.workload is not None
    # And one that claims to be of prod below the other one.
    false = Authority("between", above=rig.stage)
    leaf = false.issue("billing", BILLING)
    found = await rig.seen(Pair(leaf.certificate + false.pem, leaf.key))
    assert found is not None
    assert found.workload is None


async def test_without_bundles_nobody_is_a_workload(rig: CallersRig) -> None:
    await rig.begin(bundles=False)
    found = await rig.seen(rig.callers.issue("x", BILLING))
    assert found is not None
    assert found.workload is None


async def test_a_resumed_session_is_still_the_same_caller(rig: CallersRig) -> None:
    """TLS 1.2, which verifies nothing again."""
    await rig.begin()
    context = rig.authority.client_context(rig.prod.issue("x", BILLING).write(rig.folder, "caller"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def ask(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with rig.connect(context, session) as client:
            client.sock.sendall(NO)
            assert client.sock.recv(12) == b"HTTP/1.1 403"
            return client.sock.session, bool(client.sock.session_reused)

    session, _ = await off(lambda: ask(None))
    first = rig.authorizer.decided[-1].certificate
    _, reused = await off(lambda: ask(session))
    assert reused
    assert first is not None
    assert rig.authorizer.decided[-1].certificate is first
    rig.known._known.clear()
    await off(lambda: ask(session))
    again = rig.authorizer.decided[-1].certificate
    assert again is not None
    assert (again.thumbprint, again.workload) == (first.thumbprint, None), "nobody vouches for it"


async def test_a_bundle_that_changes_takes_its_word_back(rig: CallersRig) -> None:
    await rig.begin()
    found = await rig.seen(rig.prod.issue("billing", BILLING))
    assert found is not None
    assert found.workload is not None
    assert not rig.known.renew(), "nothing has changed"
    (rig.folder / "prod.pem").write_bytes(Authority("prod, anew").pem)
    await rig.rotation.check(settled=True)
    assert rig.known.renew()
    assert found.workload is None


async def test_two_callers_never_share_a_request(rig: CallersRig) -> None:
    """The very same bytes: a request is remembered for one certificate alone."""
    await rig.begin()
    one, two = rig.prod.issue("a", BILLING), rig.prod.issue("b", "spiffe://prod/b")
    for _ in range(4):
        for pair in (one, two, None):
            found = await rig.seen(pair)
            assert (found.thumbprint if found else None) == (pair.thumbprint if pair else None)
    requests = {id(each.certificate): each for each in rig.authorizer.decided}
    assert len({id(each) for each in requests.values()}) == 3


async def test_what_a_caller_says_of_itself(rig: CallersRig) -> None:
    """No header makes a certificate, whoever sends it over our own TLS."""
    await rig.begin()
    said = base64.b64encode(rig.prod.issue("x", BILLING).der)
    lines = b"\r\nClient-Cert: :" + said + b":\r\nX-Forwarded-Client-Cert: Hash=" + b"a" * 64
    context = rig.authority.client_context()

    def ask() -> None:
        with rig.connect(context) as client:
            client.sock.sendall(NO.replace(b"\r\n", lines + b"\r\n", 1))
            assert client.sock.recv(12) == b"HTTP/1.1 403"

    await off(ask)
    assert rig.authorizer.decided[-1].certificate is None
    assert not rig.authorizer.decided[-1].values(b"client-cert")


# -- what trusted proxies say


LEAF = Authority().issue("caller")
OTHER = Authority().issue("other")
SAID = b":" + base64.b64encode(LEAF.der) + b":"
HASH = hashlib.sha256(LEAF.der).hexdigest().encode()
ANOTHER = hashlib.sha256(OTHER.der).hexdigest().encode()


def block(*lines: bytes) -> Any:
    return parse_request_head(b"\r\n".join((b"GET / HTTP/1.1", b"host: h", *lines, b"", b""))).block


def test_rfc_9440() -> None:
    found = told(block(b"Client-Cert: " + SAID), CLIENT_CERT)
    assert found is not None
    assert (found.thumbprint, found.workload) == (LEAF.thumbprint, None)
    assert told(block(b"client-cert: " + SAID), CLIENT_CERT) is found, "equal ones are one"
    assert told(block(b"client-cert: " + SAID), FORWARDED_CLIENT_CERT) is None


def test_an_odd_certificate_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library raises errors of its own, of no common kind, on what it cannot read."""

    def odd(_: bytes) -> Any:
        raise x509.UnsupportedGeneralNameType("ediPartyName", 5)

    monkeypatch.setattr(x509, "load_der_x509_certificate", odd)
    assert named(b"leaf", [b"ca"], {"prod": frozenset((b"ca",))}) is None
    odd_one = b":" + base64.b64encode(b"odd") + b":"
    assert told(block(b"client-cert: " + odd_one), CLIENT_CERT) is None


async def test_a_connection_counts_before_its_certificate_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Odd(Callers):
        def shown(self, tls: Any) -> Any:
            raise RuntimeError("a defect")

    rig = Rig()
    await rig.start(more={"callers": Odd(lambda: {})})
    client = await rig.client()
    await rig.becomes(lambda: rig.stats.accepted == 1)
    client.close()
    await rig.becomes(lambda: rig.stats.connections_open == 0)
    assert rig.stats.connections_open == 0
    await rig.stop()


@pytest.mark.parametrize("value", [
    b"", b"::", SAID[1:-1], SAID[:-1], SAID + b";a=b", SAID + b", " + SAID, b":" + SAID[1:-3] + b":",
    SAID.replace(b"A", b"-", 1), SAID[:20] + b" " + SAID[20:], b":AAAA:", b'"' + SAID[1:-1] + b'"', b":====:",
    b":" + base64.b64encode(LEAF.der + b"x" * 20000) + b":",
])  # fmt: skip
def test_what_rfc_9440_does_not_say(value: bytes) -> None:
    assert told(block(b"client-cert: " + value), CLIENT_CERT) is None


def test_two_headers_are_none() -> None:
    assert told(block(b"client-cert: " + SAID, b"client-cert: " + SAID), CLIENT_CERT) is None
    assert told(block(b"client_cert: " + SAID), CLIENT_CERT) is None
    assert told(block(), CLIENT_CERT) is None


@pytest.mark.parametrize("value", [
    b"Hash=" + HASH, b"By=spiffe://x/y;Hash=" + HASH + b';Subject="CN=a,O=b;c"', b"hash=" + HASH.upper(),
    b'Subject="a\\"b,c";Hash=' + HASH, b'Hash="' + HASH + b'"', b'Subject="x, Hash=y";Hash=' + HASH,
])  # fmt: skip
def test_envoys_header(value: bytes) -> None:
    found = told(block(b"x-forwarded-client-cert: " + value), FORWARDED_CLIENT_CERT)
    assert found is not None
    assert found.thumbprint == LEAF.thumbprint == thumbprint(LEAF.der)


@pytest.mark.parametrize("value", [
    b"", b"Hash=", b"Hash=" + HASH[:-1], b"Hash=" + HASH + b"0", b"Hash=" + HASH + b";Hash=" + HASH,
    b"Hash=" + HASH + b",", b"Hash=" + HASH + b",By=x", b'Subject="Hash=' + HASH, b'Subject="a;Hash=' + HASH + b'"',
    b"Hash=" + ANOTHER + b",Hash=" + HASH, b"By=x;Hash=" + ANOTHER + b";URI=spiffe://evil/a,Hash=" + HASH,
    b"Hash=" + ANOTHER + b";DNS=a,Hash=" + HASH,
    b'"Hash=' + HASH + b'"', b"Hash=" + b"g" * 64, b'Subject="x";y"Hash=' + HASH, b"Chain=" + HASH,
])  # fmt: skip
def test_what_envoy_does_not_say(value: bytes) -> None:
    """Two elements among it: names come unquoted, so a comma in one could begin the second."""
    assert told(block(b"x-forwarded-client-cert: " + value), FORWARDED_CLIENT_CERT) is None


async def test_a_trusted_proxy_is_believed_where_a_setting_says_so() -> None:
    request = NO.replace(b"\r\n", b"\r\nclient-cert: " + SAID + b"\r\n", 1)
    for trusted, header, believed in (
        (True, CLIENT_CERT, True), (False, CLIENT_CERT, False), (True, 0, False),
        (True, FORWARDED_CLIENT_CERT, False),
    ):  # fmt: skip
        rig = Rig()
        more = {"trusted": LOOPBACK, "told": header} if trusted else {"told": header}
        await rig.start(more=more)
        for _ in range(3):
            client = await rig.client(request)
            await client.response()
            found = rig.authorizer.decided[-1]
            assert (found.certificate is not None) == believed
            assert not found.values(b"client-cert"), "no rule sees it"
        await rig.stop()


async def test_no_upstream_is_told_what_a_proxy_said() -> None:
    rig = Rig()
    await rig.start(more={"trusted": LOOPBACK, "told": CLIENT_CERT})
    lines = b"\r\nclient-cert: " + SAID + b"\r\nx-forwarded-client-cert: Hash=" + HASH + b"\r\n"
    await rig.client(GET.replace(b"\r\n", lines, 1))
    head = await (await rig.upstream.accept()).head()
    assert b"client-cert" not in head
    await rig.stop()


async def test_behind_such_a_proxy_its_own_certificate_says_nothing_of_the_caller(
    rig: CallersRig,
) -> None:
    await rig.begin(trusted=LOOPBACK, told=CLIENT_CERT)
    assert await rig.seen(rig.prod.issue("gateway", "spiffe://prod/gateway")) is None
