"""What the webhook waits for: keys and certificates that others publish, its own key, and whether
the cluster runs sidecar containers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.errors import Misuse
from sidecar.facts.signing import load_public_keys
from sidecar.inject.certificates import Material
from sidecar.inject.terms import Terms

LARGEST: Final = 64 * 1024  # bytes of a file; all of it travels with every pod


@dataclass(frozen=True, slots=True)
class Ready:
    """What injecting needs: terms, and the key that signs registrations."""

    terms: Terms
    key: Ed25519PrivateKey


class Sources:
    """`ready` is asked for each pod: files are read again when they have changed."""

    def __init__(self, terms: Terms, ca: Path, trust: Path, native: bool | None) -> None:
        """`terms` without those that are in files. `native` None: `native` is set later."""
        self.key: Ed25519PrivateKey | None = None
        self.native = native
        self._terms = terms
        self._files = {"ca": ca, "trust": trust}
        self._read: dict[str, tuple[tuple[int, int], str]] = {}

    def use(self, material: Material) -> None:
        """The key of registrations is this one's from now on."""
        self.key = material.signing_key()

    def ready(self) -> Ready | str:
        """What injecting needs, or what of it is missing."""
        if self.key is None:
            return "the key that signs registrations is not there yet"
        if self.native is None:
            return "it is not known yet whether the cluster runs sidecar containers"
        texts = []
        for name, path in self._files.items():
            try:
                texts.append(self._text(name, path))
            except (OSError, ValueError, Misuse) as error:
                return f"{path} is not there yet, or of no use: {error}"
        ca, trust = texts
        return Ready(replace(self._terms, native=self.native, ca=ca, trust=trust), self.key)

    def missing(self) -> str:
        """What of it is; empty: nothing."""
        found = self.ready()
        return found if isinstance(found, str) else ""

    def _text(self, name: str, path: Path) -> str:
        found = path.stat()
        stamp = found.st_mtime_ns, found.st_ino
        known = self._read.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        if found.st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST} bytes")
        data = path.read_bytes()
        if name == "ca":
            x509.load_pem_x509_certificates(data)
        else:
            load_public_keys(data)
        self._read[name] = stamp, data.decode("ascii")
        return self._read[name][1]
