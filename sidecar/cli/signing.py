"""Signing releases where the private key is, in CI say, and not at the control plane."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.decide.documents import Document
from sidecar.errors import Misuse, ReleaseRefused
from sidecar.facts.releases import Manifest
from sidecar.facts.signing import sign_release
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import SignedManifest

AHEAD: Final = 1000  # releases that there may have been since --base, rollouts that ended included
HIGHEST: Final = 2**31  # version that is signed without --base
CLOCKS: Final = 900  # seconds by which ours and the control plane's may differ


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


@dataclass(frozen=True, slots=True)
class Known:
    """What a manifest is held against besides the documents. `newest` is what the control plane
    says of each namespace, version and floor, and `bases` what `--base` does, which it has no hand
    in; `now` is Unix time in seconds."""

    newest: Mapping[str, tuple[int, int]]
    bases: Mapping[str, int]
    now: float


def check_manifests(
    manifests: Iterable[bytes],
    documents: Sequence[Document],
    known: Known,
    *,
    namespaces: Collection[str],
    raise_floor: bool,
) -> None:
    """Whether the control plane asks for signatures of exactly what is being applied: nobody signs
    what they have not got, nor that something is gone which they have, nor a number or a floor that
    no release after it could pass. `namespaces` are to be pruned besides those of the documents.
    Raises Misuse."""
    meant = {document.namespace for document in documents} | set(namespaces)
    seen: set[str] = set()
    for text in manifests:
        try:
            manifest = Manifest.from_bytes(text)
        except ReleaseRefused as error:
            raise Misuse(f"{error}: not signed") from None
        name = manifest.namespace
        if name not in meant:
            raise Misuse(f"the control plane would make a release of {name}, too: not signed")
        if name in seen:
            raise Misuse(f"the control plane would make two releases of {name}: not signed")
        seen.add(name)
        _check_numbers(manifest, known, raise_floor=raise_floor)
        _check(manifest, [each for each in documents if each.namespace == name])


def _check_numbers(manifest: Manifest, known: Known, *, raise_floor: bool) -> None:
    """Of two lies that fit together `--base` alone finds out."""
    name, version, floor = manifest.namespace, manifest.version, manifest.floor
    newest, before = known.newest.get(name, (0, 0))
    base = known.bases.get(name)
    if version != newest + 1:
        raise Misuse(
            f"the control plane would make {name}@{version}, and its history ends at @{newest}: "
            "not signed; if somebody else published just now, apply again"
        )
    if version > HIGHEST or (base is not None and not base < version <= base + AHEAD):
        why = f"that is not within {AHEAD} of --base {name}={base}" if base is not None else (
            "no namespace has had so many"
        )  # fmt: skip
        raise Misuse(f"the control plane would make {name}@{version}, and {why}: not signed")
    if raise_floor:
        if floor != version:
            raise Misuse(f"the control plane would not raise the floor of {name}: not signed")
    elif floor > before or (base is not None and floor > base):
        raise Misuse(f"the control plane would raise the floor of {name} to {floor}: not signed")
    if abs(manifest.issued - known.now) > CLOCKS:
        raise Misuse(
            f"the control plane would date {name}@{version} {manifest.issued - known.now:+.0f} s "
            "from now: not signed; is one of the clocks wrong?"
        )


def _check(manifest: Manifest, documents: Sequence[Document]) -> None:
    entries = {(entry.kind, entry.name): entry for entry in manifest.entries}
    for document in documents:
        entry = entries.pop((document.kind, document.name), None)
        if entry is None:
            raise Misuse(f"the control plane would leave out {document.ref}: not signed")
        if (entry.sha256, entry.selector) != (document.digest, dict(document.selector)):
            raise Misuse(f"the control plane would publish another {document.ref}: not signed")
    if entries:
        more = ", ".join(
            f"{kind}/{manifest.namespace}/{name}" for kind, name in sorted(entries)[:5]
        )
        raise Misuse(
            f"the control plane would publish more than what is applied, {more[:500]}, and it is "
            "not for --signing-key to vouch for that: apply all documents of the namespace, with "
            "--prune"
        )


def signed(manifests: Iterable[bytes], key: Ed25519PrivateKey) -> list[SignedManifest]:
    """Each with the key's signature."""
    return [convert.signed_to_wire(each, [sign_release(each, key)]) for each in manifests]
