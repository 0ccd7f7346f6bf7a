"""A TLS context that follows its files: checked every half second and on demand, off the loop.

Files count as changed by what they hold, not by their times: Kubernetes swaps a link, others write
in place. A change is taken up once two looks in a row found the same, so that a pair written one
file after the other is read as a pair. What cannot be used leaves the context before in force, is
said once and counted once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final

from sidecar.edge.certificates import Files, Loaded, digest, load
from sidecar.errors import TlsFilesUnusable

_log: Final = logging.getLogger("sidecar.tls")

INTERVAL: Final = 0.5  # seconds between two looks


class Rotation:
    """One side's context. `side` is `client` or `upstream`, a metric label."""

    def __init__(self, side: str, files: Files, changed: Callable[[], None] | None = None) -> None:
        """`changed` is called after each swap, on the loop."""
        self.side = side
        self.files = files
        self.changed = changed
        self.reloads = 0
        self.failures = 0
        self._loaded: Loaded | None = None
        self._seen = ""  # at the last look
        self._refused = ""
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """For the first time. Raises TlsFilesUnusable."""
        self._adopt(load(self.files))

    @property
    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        if self._loaded is None:
            raise RuntimeError("load it first")
        return self._loaded.context

    @property
    def bundles(self) -> Mapping[str, frozenset[bytes]]:
        """Who vouches for whom; of the context of the moment."""
        return {} if self._loaded is None else self._loaded.bundles

    @property
    def expiry(self) -> float:
        """When the certificate shown ends, in seconds since 1970; 0 where none is shown."""
        return 0.0 if self._loaded is None else self._loaded.expiry

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.check()

    async def check(self, *, settled: bool = False) -> None:
        """Look once; `settled`: somebody says that the files are as they should be (SIGHUP)."""
        if self._loaded is None:
            return  # a signal during the start
        async with self._lock:
            found = await asyncio.to_thread(digest, self.files)
            seen, self._seen = self._seen, found
            if found == self._loaded.digest:
                self._refused = ""
            elif found != self._refused and (settled or found == seen):
                await self._reload(found)

    async def _reload(self, found: str) -> None:
        try:
            loaded = await asyncio.to_thread(load, self.files)
        except Exception as error:  # noqa: BLE001  (of ours or a library's: what works stays)
            if await asyncio.to_thread(digest, self.files) != found:
                return  # still being written; the next look sees
            self._refused = found
            self.failures += 1
            unknown = None if isinstance(error, TlsFilesUnusable) else error
            _log.error(
                "TLS towards the %s goes on with what it had: %s", self.side, error,
                exc_info=unknown,
            )  # fmt: skip
            return
        self._refused = ""
        self.reloads += 1
        self._adopt(loaded)
        _log.info("TLS towards the %s: %s read again", self.side, self.files.paths[0])
        if self.changed is not None:
            self.changed()

    def _adopt(self, loaded: Loaded) -> None:
        self._loaded = loaded
        if 0 < loaded.expiry < time.time():
            _log.warning("TLS towards the %s: the certificate has expired", self.side)
