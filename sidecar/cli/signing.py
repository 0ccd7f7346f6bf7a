"""Signing releases where the private key is, in CI say, and not at the control plane."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.errors import Misuse
from sidecar.facts.signing import sign_release
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import SignedManifest


def add_key_flag(parser: argparse.ArgumentParser) -> None:
    """`--signing-key`."""
    parser.add_argument(
        "--signing-key", metavar="FILE", type=Path,
        help="sign the releases with this Ed25519 key (PEM), which `sidecar keys delegate` has "
        "been told of",
    )  # fmt: skip


def signing_key(args: argparse.Namespace) -> Ed25519PrivateKey | None:
    """What the flag names. Raises Misuse."""
    path: Path | None = args.signing_key
    if path is None:
        return None
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise Misuse(f"--signing-key {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Misuse(
            f"--signing-key {path}: not a private key in PEM without a passphrase; make one with "
            "`openssl genpkey -algorithm ed25519`"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misuse(f"--signing-key {path}: releases are signed with Ed25519; it is another kind")
    return key


def signed(manifests: Iterable[bytes], key: Ed25519PrivateKey) -> list[SignedManifest]:
    """Each with the key's signature."""
    return [convert.signed_to_wire(each, [sign_release(each, key)]) for each in manifests]
