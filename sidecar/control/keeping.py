"""The signing keys while the control plane runs: rotated, delegated, and handed out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from sidecar.control.keys import Keys
from sidecar.control.publish import Publisher
from sidecar.control.releases import By
from sidecar.control.store import Store
from sidecar.errors import Misuse
from sidecar.facts.signing import fingerprint, load_public_keys, public_key_pem

MAX_KEYS = 60  # in all: a sidecar looks at 64 endorsements
_log = logging.getLogger(__name__)


class Keeping:
    """`changed` hears the PEM that sidecars may be told to trust, whenever it is another one."""

    def __init__(
        self, store: Store, publisher: Publisher, changed: Callable[[str], None] | None = None
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._changed = changed
        self._turn = asyncio.Lock()
        self._told = b""

    @property
    def keys(self) -> Keys:
        """As they are."""
        return self._store.keys

    @property
    def pem(self) -> bytes:
        """The public keys whose releases count, as `--trust` reads them: the store's own where it
        signs, and those of delegated signers."""
        keys = self._store.keys
        own = keys.public if self._store.signs else ()
        others = () if self._store.signs else tuple(each.public_key for each in keys.delegated)
        return b"".join(public_key_pem(key) for key in (*own, *others) or keys.public)

    async def rotate(self, by: By) -> None:
        """A new key from now on; nothing is sent to sidecars, who hear of it with what they are
        sent next. Raises StoreFailed, and Misuse where there are too many."""
        async with self._turn:
            self._room()
            new = await self._store.rotate_key(by)
            await self._publisher.refresh()
            _log.info("releases are signed with %s from now on", fingerprint(new))
            self.hand_out()

    async def delegate(self, pem: bytes, name: str, by: By) -> None:
        """Somebody else's key may sign, too. Raises StoreFailed, and Misuse for what is no key."""
        if not 0 < len(name) <= 253 or not name.isprintable():
            raise Misuse("name: 1 to 253 printable characters say whose key it is")
        found = load_public_keys(pem)
        if len(found) != 1:
            raise Misuse("public_key: one key is expected")
        (public_key,) = found
        async with self._turn:
            self._room()
            if public_key in self._store.public_keys:
                raise Misuse("public_key: it is the control plane's own")
            await self._store.delegate(public_key, name, by)
            await self._publisher.refresh()
            self.hand_out()

    def hand_out(self) -> None:
        """Writes the file beside an SQLite store, and tells whoever wants to hear it."""
        pem = self.pem
        if pem == self._told:
            return
        self._told = pem
        if self._store.path is not None:
            _write(pem, Path(f"{self._store.path}.trust.pem"))
        if self._changed is not None:
            self._changed(pem.decode("ascii"))

    def _room(self) -> None:
        keys = self._store.keys
        if len(keys.private) + len(keys.delegated) >= MAX_KEYS:
            raise Misuse(f"there are {MAX_KEYS} keys, the most that sidecars can follow")


def _write(pem: bytes, path: Path) -> None:
    try:
        path.write_bytes(pem)
    except OSError as error:  # the store is what counts; the file is for convenience
        _log.warning("cannot write %s: %s", path, error.strerror)
