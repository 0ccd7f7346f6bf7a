"""Ed25519 signatures and whose of them count: pinned keys, and keys that pinned ones endorsed.

Every signature is made over a prefix that names its purpose, so that one made for a manifest can
never serve as an endorsement or the other way round. Pure: keys come in, verdicts go out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sidecar.errors import Misuse, ReleaseRefused

MAX_ENDORSEMENTS: Final = 64
_RELEASE: Final = b"sidecar release v1\n"
_ENDORSEMENT: Final = b"sidecar key endorsement v1\n"


class Signature(NamedTuple):
    """`public_key` is raw Ed25519 (32 bytes)."""

    public_key: bytes
    signature: bytes


class Endorsement(NamedTuple):
    """The key `by` vouches that `public_key` may sign manifests too."""

    public_key: bytes
    by: bytes
    signature: bytes


def sign_release(manifest: bytes, key: Ed25519PrivateKey) -> Signature:
    """A signature over a manifest's bytes."""
    return Signature(raw_public_key(key), key.sign(_RELEASE + manifest))


def endorse(public_key: bytes, by: Ed25519PrivateKey) -> Endorsement:
    """`by` vouches for a new key."""
    return Endorsement(public_key, raw_public_key(by), by.sign(_ENDORSEMENT + public_key))


def raw_public_key(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes by which keys are known on the wire."""
    return key.public_key().public_bytes_raw()


def _verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# Trust.


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The raw public keys whose signatures count.

    With `first_use` and no pinned key the keys of the first release are pinned; only for loopback
    (see `trust_for`). A key that a pinned one endorsed, directly or over others, counts too.
    """

    pinned: frozenset[bytes] = frozenset()
    first_use: bool = False

    def verify_release(
        self,
        manifest: bytes,
        signatures: Sequence[Signature],
        endorsements: Sequence[Endorsement] = (),
    ) -> None:
        """Raises ReleaseRefused unless the first signature by a trusted key is right."""
        trusted = self._with_endorsed(endorsements)
        for signature in signatures:
            if trusted is None or signature.public_key in trusted:
                if _verifies(signature.public_key, signature.signature, _RELEASE + manifest):
                    return
                raise ReleaseRefused("a manifest's signature is wrong: it was altered on the way")
        known = ", ".join(sorted(fingerprint(key) for key in self.pinned)) or "none"
        found = ", ".join(fingerprint(s.public_key) for s in signatures) or "none"
        raise ReleaseRefused(
            f"a manifest is signed by {found}, and the trusted keys are {known}. If the control "
            "plane's key changed on purpose, give its public key with --trust, or start with "
            "another --state"
        )

    def after(self, verified: Iterable[Sequence[Signature]]) -> TrustedKeys:
        """What to trust once releases with these signatures are adopted: at first use, their keys.

        Only the first signature of each was looked at by `verify_release`, so only it counts.
        """
        if self.pinned or not self.first_use:
            return self
        keys = {signature.public_key for signatures in verified for signature in signatures[:1]}
        return TrustedKeys(frozenset(keys), first_use=True)

    def _with_endorsed(self, endorsements: Sequence[Endorsement]) -> frozenset[bytes] | None:
        """All keys that count; None is any."""
        if not self.pinned:
            return None if self.first_use else frozenset()
        trusted = set(self.pinned)
        waiting = list(endorsements[:MAX_ENDORSEMENTS])
        grown = True
        while grown:
            grown = False
            for endorsement in [e for e in waiting if e.by in trusted]:
                waiting.remove(endorsement)
                if _verifies(
                    endorsement.by, endorsement.signature, _ENDORSEMENT + endorsement.public_key
                ):
                    trusted.add(endorsement.public_key)
                    grown = True
        return frozenset(trusted)


def trust_for(
    control_plane: str, *, trust_pem: bytes | None, pinned: frozenset[bytes]
) -> TrustedKeys:
    """Whose releases count: `--trust`, else the keys pinned in state, else on loopback the first.

    `control_plane` is HOST:PORT. Raises Misuse where nothing can be trusted, or for a bad PEM.
    """
    if trust_pem is not None:
        return TrustedKeys(load_public_keys(trust_pem))
    if is_loopback(control_plane):
        return TrustedKeys(pinned, first_use=True)
    raise Misuse(
        f"control plane {control_plane} is not on loopback: name the public keys that sign its "
        "releases with --trust FILE (the control plane writes it beside its store, STORE.trust.pem)"
    )


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT (or a host alone) can only be this machine."""
    bare = address.count(":") > 1 and not address.startswith("[")  # IPv6 without a port
    host = address if bare else address.rpartition(":")[0] or address
    host = host.strip("[]").lower()
    return host in ("localhost", "::1") or _is_loopback_v4(host)


def _is_loopback_v4(host: str) -> bool:
    parts = host.split(".")
    return (
        len(parts) == 4
        and parts[0] == "127"
        and all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts)
    )


def load_public_keys(pem: bytes) -> frozenset[bytes]:
    """Raw Ed25519 public keys from PEM, several blocks allowed. Raises Misuse."""
    marker = b"-----END PUBLIC KEY-----"
    keys = set()
    for block in pem.split(marker)[:-1]:
        start = block.find(b"-----BEGIN PUBLIC KEY-----")
        try:
            if start < 0:
                raise ValueError
            key = serialization.load_pem_public_key(block[start:] + marker + b"\n")
        except (ValueError, UnsupportedAlgorithm):
            raise Misuse("--trust: a PUBLIC KEY block is not readable PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise Misuse("--trust: releases are signed with Ed25519; found another kind of key")
        keys.add(key.public_bytes_raw())
    if not keys:
        raise Misuse("--trust: expected at least one '-----BEGIN PUBLIC KEY-----' block (Ed25519)")
    return frozenset(keys)


def public_key_pem(public_key: bytes) -> bytes:
    """A raw key as PEM, the form that `--trust` reads."""
    return Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(public_key: bytes) -> str:
    """A short name of a key for people: the start of its SHA-256."""
    return "ed25519:" + hashlib.sha256(public_key).hexdigest()[:16]
