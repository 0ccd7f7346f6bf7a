"""Whose signatures count."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.errors import Misuse, ReleaseRefused
from sidecar.facts.signing import (
    Endorsement,
    TrustedKeys,
    endorse,
    fingerprint,
    is_loopback,
    load_public_keys,
    public_key_pem,
    raw_public_key,
    sign_release,
    trust_for,
)

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(4)]
PUBLIC = [raw_public_key(key) for key in KEYS]


def trusts(trust: TrustedKeys, key: int, *endorsements: Endorsement) -> bool:
    try:
        trust.verify_release(b"manifest", [sign_release(b"manifest", KEYS[key])], endorsements)
    except ReleaseRefused:
        return False
    return True


def test_a_pinned_key_counts_and_no_other() -> None:
    trust = TrustedKeys(frozenset(PUBLIC[:1]))
    assert trusts(trust, 0)
    assert not trusts(trust, 1)
    assert not trusts(TrustedKeys(), 0)


def test_a_signature_over_other_bytes_is_refused() -> None:
    with pytest.raises(ReleaseRefused, match="altered"):
        TrustedKeys(frozenset(PUBLIC)).verify_release(b"m", [sign_release(b"n", KEYS[0])])


def test_an_endorsement_is_no_release_and_a_release_no_endorsement() -> None:
    trust = TrustedKeys(frozenset(PUBLIC[:1]))
    endorsement = endorse(PUBLIC[1], KEYS[0])
    signature = sign_release(PUBLIC[1], KEYS[0])
    with pytest.raises(ReleaseRefused):
        trust.verify_release(PUBLIC[1], [signature._replace(signature=endorsement.signature)])
    assert not trusts(trust, 1, endorsement._replace(signature=signature.signature))


def test_a_key_counts_when_a_pinned_one_signed_it_also_over_others() -> None:
    trust = TrustedKeys(frozenset(PUBLIC[:1]))
    first, second = endorse(PUBLIC[1], KEYS[0]), endorse(PUBLIC[2], KEYS[1])
    assert trusts(trust, 1, first)
    assert trusts(trust, 2, second, first)
    assert not trusts(trust, 2, second)
    assert not trusts(trust, 1, endorse(PUBLIC[1], KEYS[1]))  # nobody vouches for oneself
    assert not trusts(trust, 1, first._replace(by=PUBLIC[2]))


def test_first_use_pins_the_first_key_only() -> None:
    trust = TrustedKeys(first_use=True)
    assert trusts(trust, 2)
    pinned = trust.after([[sign_release(b"manifest", KEYS[2]), sign_release(b"m", KEYS[3])]])
    assert pinned.pinned == {PUBLIC[2]}
    assert trusts(pinned, 2)
    assert not trusts(pinned, 3)
    assert pinned.after([[sign_release(b"manifest", KEYS[3])]]) == pinned


def test_a_refusal_names_the_keys_and_the_way_out() -> None:
    with pytest.raises(ReleaseRefused) as refused:
        TrustedKeys(frozenset(PUBLIC[:1])).verify_release(b"m", [sign_release(b"m", KEYS[1])])
    assert fingerprint(PUBLIC[0]) in str(refused.value)
    assert fingerprint(PUBLIC[1]) in str(refused.value)
    assert "--trust" in str(refused.value)


def test_public_keys_travel_as_pem_several_in_a_file() -> None:
    pem = b"# ours\n" + public_key_pem(PUBLIC[0]) + b"\n# theirs\n" + public_key_pem(PUBLIC[1])
    assert load_public_keys(pem) == set(PUBLIC[:2])


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"hello",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"AAAA\n-----END PUBLIC KEY-----\n",
    ],
)
def test_what_is_no_key_is_misuse(pem: bytes) -> None:
    with pytest.raises(Misuse, match="--trust"):
        load_public_keys(pem)


def test_trust_comes_from_the_file_the_state_or_on_loopback_the_first_use() -> None:
    pem = public_key_pem(PUBLIC[1])
    pinned = frozenset(PUBLIC[:1])
    assert trust_for("cp.example:7443", trust_pem=pem, pinned=pinned) == TrustedKeys(
        frozenset(PUBLIC[1:2])
    )
    assert trust_for("127.0.0.1:7443", trust_pem=None, pinned=pinned).pinned == pinned
    assert trust_for("localhost:7443", trust_pem=None, pinned=frozenset()).first_use
    with pytest.raises(Misuse, match="--trust FILE"):
        trust_for("10.0.0.1:7443", trust_pem=None, pinned=pinned)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.8.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("::1", True),
        ("127.0.0.1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("127.0.0.1.example.com:1", False),
        ("127.0.0.1@example.com:1", False),
        ("localhost.example.com:1", False),
        ("unix:/tmp/x", False),
    ],
)
def test_loopback_is_only_what_cannot_be_another_machine(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
