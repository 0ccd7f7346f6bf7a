"""Server nonces for DPoP proofs: one for each window of time, of a key that nobody else has. Pure.

Nothing is remembered of a nonce that was handed out: it is made again and compared. The one of this
window and the one before are accepted, so a nonce lives for one to two windows, and a proof made
with it cannot be older. Source: RFC 9449 sections 8, 9 and 11.3.
"""

from __future__ import annotations

import base64
import hmac
from functools import lru_cache
from typing import Final

_SIZE: Final = 16  # bytes of the MAC that are shown


@lru_cache(maxsize=8)
def _nonce(key: bytes, window: int) -> str:
    mac = hmac.digest(key, b"dpop-nonce|%d" % window, "sha256")
    return base64.urlsafe_b64encode(mac[:_SIZE]).rstrip(b"=").decode("ascii")


def current(key: bytes, length: float, now: float) -> str:
    """The nonce of the window of `length` seconds that `now` is in."""
    return _nonce(key, int(now // length))


def known(key: bytes, length: float, now: float, given: object) -> bool:
    """Whether `given` is a nonce that a proof may carry now."""
    if not isinstance(given, str) or not given.isascii():
        return False
    window = int(now // length)
    return any(hmac.compare_digest(given, _nonce(key, each)) for each in (window, window - 1))
