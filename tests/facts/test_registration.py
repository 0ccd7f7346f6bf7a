"""What the webhook signs of a pod, and what is taken for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.errors import IdentityRefused
from sidecar.facts.registration import TYPE, Registration, read_keys, sign, verify
from sidecar.facts.signing import public_key_pem

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ONE = Registration("shop", "web", "web-7d9f-", True, {"app": "web", "tier": "gold"})


def test_what_was_signed_comes_back_and_is_always_the_same() -> None:
    statement = sign(ONE, KEY)
    assert verify(statement, [OTHER.public_key().public_bytes_raw(), PUBLIC]) == ONE
    assert sign(replace(ONE, labels={"tier": "gold", "app": "web"}), KEY) == statement


@pytest.mark.parametrize("part", [0, 1, 2])
def test_nothing_in_it_can_be_changed(part: int) -> None:
    parts = sign(ONE, KEY).split(".")
    other = sign(replace(ONE, namespace="bank"), OTHER).split(".")
    parts[part] = other[part] if part else other[part][:-2] + "AA"
    with pytest.raises(IdentityRefused):
        verify(".".join(parts), [PUBLIC])


def signed(payload: dict[str, object], typ: str = TYPE, algorithm: str = "EdDSA") -> str:
    key = KEY if algorithm == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(payload, key, algorithm=algorithm, headers={"typ": typ})


WHOLE: dict[str, object] = {
    "namespace": "shop", "serviceAccount": "web", "pod": "", "generated": False, "labels": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("", "no signed statement"),
        ("a.b.c", "no signed statement"),
        ("x" * 20000, "too long"),
        (signed(WHOLE, algorithm="ES256"), "no signed statement"),
        (jwt.encode(WHOLE, "", algorithm="none", headers={"typ": TYPE}), "no signed statement"),
        (signed(WHOLE, typ="JWT"), "of another kind"),
        (signed({**WHOLE, "labels": {"a": 1}}), "lacks"),
        (signed({**WHOLE, "labels": {str(n): "" for n in range(65)}}), "lacks"),
        (signed({**WHOLE, "namespace": None}), "lacks"),
        (signed({**WHOLE, "generated": "yes"}), "lacks"),
        (sign(ONE, OTHER), "none of the webhook's keys"),
    ],
)
def test_everything_else_is_refused(statement: str, why: str) -> None:
    with pytest.raises(IdentityRefused, match=why):
        verify(statement, [PUBLIC])


@pytest.mark.parametrize(
    ("name", "generated", "pod", "same"),
    [
        ("web-", True, "web-x7", True),
        ("web-", True, "web-", False),
        ("web-", True, "api-x7", False),
        ("web", False, "web", True),
        ("web", False, "web-x7", False),
        ("", False, "any", True),
    ],
)
def test_which_pod_it_is_of(name: str, generated: bool, pod: str, same: bool) -> None:
    assert Registration("n", "a", name, generated, {}).is_of(pod) is same


def test_the_keys_of_a_file_are_read_as_they_are_then(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    with pytest.raises(IdentityRefused, match="not there yet"):
        read_keys(file)
    file.write_bytes(public_key_pem(PUBLIC))
    assert read_keys(file) == {PUBLIC}
    file.write_text("no keys")
    with pytest.raises(IdentityRefused, match="not there yet"):
        read_keys(file)
