"""What travels through a customer's browser and must come back unchanged and unread: tickets,
visitors' cookies, sessions of pages.

Sealed is signed and encrypted (Fernet: HMAC-SHA256 over AES-128-CBC), so that neither addresses nor
histories of browsers hold anything personal. Each use has a key of its own, derived from the secret
(RFC 5869): what was sealed for one use, or for one namespace, opens for no other. That it is used
once is for whoever opens it to see to.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any, Final

import orjson
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sidecar.errors import SealBroken

LONGEST: Final = 8192  # characters of what is sealed
SECRET: Final = 32  # bytes


def derived(secret: bytes, use: str) -> bytes:
    """A secret for one use; knowing it tells nothing of the others. 32 bytes."""
    return HKDF(
        algorithm=hashes.SHA256(), length=SECRET, salt=None, info=f"sidecar {use}".encode()
    ).derive(secret)


@lru_cache(maxsize=4096)
def _fernet(secret: bytes, use: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(derived(secret, use)))


def seal(secret: bytes, use: str, members: dict[str, Any], *, now: float, seconds: float) -> str:
    """Text that a URL and a cookie take as it is. Raises ValueError for more than it can bear."""
    whole = orjson.dumps({**members, "exp": now + seconds})
    sealed = _fernet(secret, use).encrypt_at_time(whole, int(now)).rstrip(b"=").decode("ascii")
    if len(sealed) > LONGEST:
        raise ValueError(f"more than {LONGEST} characters")
    return sealed


def unseal(secret: bytes, use: str, text: str, *, now: float) -> dict[str, Any]:
    """What was sealed for this use. Raises SealBroken, with `expired` where that is all."""
    if not 0 < len(text) <= LONGEST or not text.isascii():
        raise SealBroken("not one of ours")
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        whole = orjson.loads(_fernet(secret, use).decrypt(padded))
    except (InvalidToken, ValueError, TypeError):
        raise SealBroken("not one of ours") from None
    if not isinstance(whole, dict) or not isinstance(whole.get("exp"), int | float):
        raise SealBroken("not one of ours")
    if now >= whole["exp"]:
        raise SealBroken("its time is over", expired=True)
    return whole
