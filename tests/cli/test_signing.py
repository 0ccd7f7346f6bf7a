"""What is signed where the key is: nothing but exactly what is being applied."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from sidecar.cli.signing import Known, check_manifests, signed, signing_key
from sidecar.decide.documents import Document
from sidecar.errors import Misuse
from sidecar.facts.releases import Entry, Manifest, manifest_of
from sidecar.facts.signing import Signature, TrustedKeys
from sidecar.wire import convert
from tests.publishing import KEY, policy

A, B = policy("a", selector={"app": "x"}), policy("b")
OTHERS = policy("c", "other")
KNOWN = Known(dict.fromkeys(("default", "other", "gone", "payments"), (6, 0)), {}, 1000.0)


def manifest(*documents: Document, namespace: str = "default", floor: int = 0) -> Manifest:
    return manifest_of(documents, namespace=namespace, version=7, floor=floor, issued=1000)


def checked(*manifests: Manifest, given: tuple[Document, ...] = (A, B), **more: object) -> None:
    settings = {"namespaces": (), "raise_floor": False, "known": KNOWN, **more}
    check_manifests([each.to_bytes() for each in manifests], given, **settings)  # type: ignore[arg-type]


def numbered(version: int, floor: int = 0, issued: int = 1000) -> Manifest:
    return manifest_of([A, B], namespace="default", version=version, floor=floor, issued=issued)


def knowing(newest: int, floor: int = 0, base: int | None = None, now: float = 1000.0) -> Known:
    bases = {} if base is None else {"default": base}
    return Known({"default": (newest, floor)}, bases, now)


def test_what_is_applied_is_signed() -> None:
    checked(manifest(A, B))
    checked(manifest(A, B), manifest(OTHERS, namespace="other"), given=(A, B, OTHERS))
    checked(manifest(A, B), given=(A, B, OTHERS))  # nothing changes in the other one
    checked(manifest(A, B), manifest(namespace="gone"), namespaces=("gone",))
    checked(manifest(A, B, floor=7), raise_floor=True)
    checked(manifest(A, B, floor=6), known=knowing(6, 6))
    checked(numbered(1), known=Known({}, {}, 1000.0))
    checked(numbered(1), known=knowing(0))
    checked(numbered(1042), known=knowing(1041, base=42))
    checked(numbered(43, 42), known=knowing(42, 42, base=42))
    checked(numbered(7, issued=1900), known=knowing(6))


@pytest.mark.parametrize(
    ("found", "known", "more", "says"),
    [
        (numbered(2**62), knowing(6), {}, "history ends at @6"),
        (numbered(6), knowing(6), {}, "history ends at @6"),
        (numbered(8), knowing(6), {}, "apply again"),
        (numbered(2), Known({}, {}, 1000.0), {}, "history ends at @0"),
        # It lies twice.
        (numbered(2**62), knowing(2**62 - 1), {}, "no namespace has had so many"),
        (numbered(1043), knowing(1042, base=42), {}, "not within 1000 of --base default=42"),
        (numbered(42), knowing(41, base=42), {}, "not within 1000 of --base default=42"),
        (numbered(43, 43), knowing(42, 43, base=42), {}, "raise the floor of default to 43"),
        (numbered(8, 7), knowing(7), {}, "raise the floor of default to 7"),
        (numbered(8, 5), knowing(7, 4), {}, "raise the floor of default to 5"),
        (numbered(8, 7), knowing(7), {"raise_floor": True}, "not raise the floor"),
        (numbered(7, issued=1901), knowing(6), {}, r"\+901 s from now"),
        (numbered(7, issued=99), knowing(6), {}, "-901 s from now"),
    ],
)
def test_nothing_that_no_later_release_could_pass(
    found: Manifest, known: Known, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(Misuse, match=says):
        checked(found, known=known, **more)


def with_entry(found: Manifest, place: int, **fields: object) -> Manifest:
    entries = list(found.entries)
    entries[place] = replace(entries[place], **fields)  # type: ignore[arg-type]
    return replace(found, entries=tuple(entries))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([manifest(A, B, policy("more"))], "more than what is applied, AccessPolicy/default/more"),
        ([manifest(A)], "leave out AccessPolicy/default/b"),
        ([manifest()], "leave out AccessPolicy/default/a"),
        ([with_entry(manifest(A, B), 1, sha256="0" * 64)], "another AccessPolicy/default/b"),
        # The document itself is as given, and no sidecar would be sent it.
        ([with_entry(manifest(A, B), 1, selector={"no": "body"})], "another AccessPolicy/default/b"),
        ([with_entry(manifest(A, B), 0, selector={})], "another AccessPolicy/default/a"),
        ([manifest(A, B), manifest(A)], "two releases of default"),
        ([manifest(A, B), manifest(A, B)], "two releases of default"),
        ([manifest(A, B), manifest(namespace="payments")], "release of payments"),
        ([manifest(A, B, floor=7)], "raise the floor of default"),
    ],
)  # fmt: skip
def test_nothing_else_is(found: list[Manifest], says: str) -> None:
    with pytest.raises(Misuse, match=says):
        checked(*found)


def test_names_in_what_is_said_are_the_control_planes_and_bounded() -> None:
    entries = [Entry("AccessPolicy", f"n{number}", {}, "0" * 64) for number in range(1000)]
    with pytest.raises(Misuse) as error:
        checked(replace(manifest(), entries=tuple(entries)), given=())
    assert len(str(error.value)) < 1000


def test_what_no_manifest_is_is_not_signed() -> None:
    with pytest.raises(Misuse, match="not signed"):
        check_manifests([b"{}"], [A], KNOWN, namespaces=(), raise_floor=False)


def test_a_signature_counts_for_who_trusts_the_key() -> None:
    [message] = signed([manifest(A).to_bytes()], KEY)
    text, signatures = convert.signed_from_wire(message)
    assert text == manifest(A).to_bytes()
    trusted = TrustedKeys(frozenset((KEY.public_key().public_bytes_raw(),)))
    trusted.verify_release(text, [Signature(*pair) for pair in signatures])


def read(path: Path) -> object:
    return signing_key(argparse.Namespace(signing_key=path))


def test_keys_are_read_or_it_is_said_why_not(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    with pytest.raises(Misuse, match="No such file"):
        read(file)
    file.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(Misuse, match="not a private key in PEM"):
        read(file)
    pem = (Encoding.PEM, PrivateFormat.PKCS8)
    file.write_bytes(KEY.private_bytes(*pem, BestAvailableEncryption(b"secret")))
    with pytest.raises(Misuse, match="without a passphrase"):
        read(file)
    other = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(other.private_bytes(*pem, NoEncryption()))
    with pytest.raises(Misuse, match="Ed25519; it is another kind"):
        read(file)
    file.write_bytes(KEY.private_bytes(*pem, NoEncryption()))
    assert read(file).public_key() == KEY.public_key()  # type: ignore[attr-defined]
    assert signing_key(argparse.Namespace(signing_key=None)) is None
