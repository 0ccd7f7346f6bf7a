"""Where the webhook is asked: a path that the API server alone is told.

The API server shows no client certificate to a webhook, so what tells it from others that reach the
port is that it knows this path, by the webhook's configuration. A new one is answered before it is
announced there, and the one before for a moment after, so no call fails while it changes.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable
from typing import Final

PREFIX: Final = "/inject/"
STILL: Final = 60.0  # seconds that a path counts after another was announced


def review_path(secret: bytes) -> str:
    """The path that has this secret (URL-safe ASCII)."""
    return PREFIX + secret.decode("ascii")


class ReviewPath:
    """`expect` a secret, announce it, `announced`. Before the first nothing is admitted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}  # by path

    def expect(self, secret: bytes) -> None:
        """Admit it from now on; those before still count."""
        self._until[review_path(secret).encode("ascii")] = math.inf

    def announced(self, secret: bytes) -> None:
        """It is the one that the API server is told: those before count for STILL."""
        last = self._clock() + STILL
        self._until = {path: min(until, last) for path, until in self._until.items()}
        self.expect(secret)

    def admits(self, path: str) -> bool:
        """Whether that is one, as it stands in the request without its query. How long this takes
        does not tell how much of it is right."""
        now, given, found = self._clock(), path.encode("utf-8", "surrogateescape"), False
        for known, until in self._until.items():
            found |= hmac.compare_digest(known, given) and now < until
        return found
