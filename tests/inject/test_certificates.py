"""The webhook's own authority and certificate: made, kept, renewed without a gap."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from sidecar.facts.signing import load_public_keys
from sidecar.inject.certificates import AUTHORITY_LIFE, SERVER_LIFE, Material, renewed

HOST = "sidecar-inject.sidecar-system.svc"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NOTHING = Material.of({})
FIRST = renewed(NOTHING, HOST, NOW)


def verifies(bundle: bytes, certificate: bytes, host: str, now: dt.datetime) -> bool:
    """As a client with that bundle would say it."""
    store = Store(x509.load_pem_x509_certificates(bundle))
    verifier = PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(host))
    try:
        verifier.verify(x509.load_pem_x509_certificate(certificate), [])
    except x509.verification.VerificationError:
        return False
    return True


def test_from_nothing_everything_is_made() -> None:
    assert all(FIRST.entries().values())
    assert b"".join(FIRST.entries().values()).count(b"PRIVATE KEY-----") == 6
    assert len(load_public_keys(FIRST.registration_pem().encode())) == 1
    assert Material.of(FIRST.entries()) == FIRST
    assert FIRST.ends() == (NOW + SERVER_LIFE).timestamp()


def test_the_authority_vouches_for_that_host_alone() -> None:
    assert verifies(FIRST.bundle, FIRST.certificate, HOST, NOW)
    assert not verifies(FIRST.bundle, FIRST.certificate, "another.sidecar-system.svc", NOW)
    assert not verifies(renewed(NOTHING, HOST, NOW).bundle, FIRST.certificate, HOST, NOW)


@pytest.mark.parametrize("days", [0, 1, 59])
def test_what_is_fresh_stays_the_same_object(days: int) -> None:
    assert renewed(FIRST, HOST, NOW + dt.timedelta(days=days)) is FIRST


def test_with_a_third_of_its_life_left_the_certificate_is_made_anew() -> None:
    now = NOW + dt.timedelta(days=61)
    after = renewed(FIRST, HOST, now)
    assert after.certificate != FIRST.certificate
    assert (after.bundle, after.key, after.registration, after.path) == (
        FIRST.bundle, FIRST.key, FIRST.registration, FIRST.path,
    )  # fmt: skip
    assert verifies(FIRST.bundle, after.certificate, HOST, now)


def test_a_new_authority_and_the_one_before_count_together_until_that_ends() -> None:
    now = NOW + AUTHORITY_LIFE * 0.7
    before = renewed(FIRST, HOST, now - dt.timedelta(days=30))
    assert before.bundle == FIRST.bundle
    after = renewed(before, HOST, now)
    assert len(x509.load_pem_x509_certificates(after.bundle)) == 2
    for shown in (before.certificate, after.certificate):
        assert verifies(after.bundle, shown, HOST, now)
    assert after.registration == FIRST.registration
    later = renewed(after, HOST, NOW + AUTHORITY_LIFE + dt.timedelta(days=1))
    assert len(x509.load_pem_x509_certificates(later.bundle)) == 1
    assert later.key == after.key


def test_nobody_guesses_the_path() -> None:
    assert re.fullmatch(rb"[A-Za-z0-9_-]{43}", FIRST.path)
    assert renewed(NOTHING, HOST, NOW).path != FIRST.path


@pytest.mark.parametrize("value", [FIRST.path + b"\n", FIRST.path[:-1] + b"/", FIRST.path[:20]])
def test_a_path_that_would_lead_elsewhere_or_be_guessed_is_made_anew(value: bytes) -> None:
    after = renewed(Material.of({**FIRST.entries(), "path.key": value}), HOST, NOW)
    assert re.fullmatch(rb"[A-Za-z0-9_-]{43}", after.path)
    assert value not in after.path


def test_for_another_host_the_certificate_is_made_anew() -> None:
    after = renewed(FIRST, "other.svc", NOW)
    assert after.bundle == FIRST.bundle
    assert verifies(after.bundle, after.certificate, "other.svc", NOW)


@pytest.mark.parametrize(
    "entry", ["ca.crt", "ca.key", "tls.crt", "tls.key", "registration.key", "path.key"]
)
@pytest.mark.parametrize("value", [b"", b"garbage"])
def test_what_is_lost_or_damaged_is_made_anew(entry: str, value: bytes) -> None:
    after = renewed(Material.of({**FIRST.entries(), entry: value}), HOST, NOW)
    assert all(after.entries().values())
    assert verifies(after.bundle, after.certificate, HOST, NOW)
    assert (after.registration == FIRST.registration) is (entry != "registration.key")
    assert (after.path == FIRST.path) is (entry != "path.key")
    assert renewed(after, HOST, NOW) is after


def test_a_clock_that_was_wrong_is_no_reason_to_show_what_nobody_believes() -> None:
    future = renewed(NOTHING, HOST, NOW + dt.timedelta(days=400))
    after = renewed(future, HOST, NOW)
    assert verifies(after.bundle, after.certificate, HOST, NOW)
