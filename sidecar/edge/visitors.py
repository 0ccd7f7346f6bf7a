"""The signed cookie by which an anonymous visitor is known again: read, and made.

What it names is a random id and nothing else. Only who holds the pool's secret makes one that is
believed; without the secret nobody is known, and no cookie is set.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from sidecar.decide.journey import CompiledIdentity, VisitorTerms
from sidecar.decide.request import Request
from sidecar.errors import SealBroken
from sidecar.facts.sealed import seal, unseal

USE: Final = "visitor"
KNOWN: Final = 4_096  # cookies whose meaning is remembered
LONGEST: Final = 512  # bytes of one
SPARE: Final = 30 * 86_400  # seconds that one is set anew before its end


class Visitors:
    """One per process. `secret` is that of the moment; empty: there is none."""

    def __init__(self, secret: Callable[[], bytes], clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock
        self._known: OrderedDict[tuple[bytes, bytes], tuple[str, float]] = OrderedDict()

    def of(self, request: Request, policy: CompiledIdentity) -> str:
        """The visitor that the request's cookie names; empty: none, or nobody whom we know."""
        found = self._read(request, policy.visitor)
        return found[0] if found is not None else ""

    def cookie(self, request: Request, terms: VisitorTerms) -> bytes:
        """The Set-Cookie line, with its end, for a response to somebody who has no cookie, or one
        that ends soon; empty where there is nothing to set."""
        secret, now = self._secret(), self._clock()
        if not secret:
            return b""
        found = self._read(request, terms)
        if found is not None and found[1] - now > min(SPARE, terms.max_age / 2):
            return b""
        visitor = found[0] if found is not None else os.urandom(16).hex()
        value = seal(secret, USE, {"v": visitor}, now=now, seconds=terms.max_age)
        secure = "; Secure" if terms.secure else ""
        return (
            f"set-cookie: {terms.cookie}={value}; Path=/; Max-Age={terms.max_age}; HttpOnly; "
            f"SameSite=Lax{secure}\r\n"
        ).encode("ascii")

    def _read(self, request: Request, terms: VisitorTerms) -> tuple[str, float] | None:
        name = terms.cookie.encode("ascii")
        values = [
            value
            for line in request.values(b"cookie")
            for pair in line.split(b";")
            for key, _, value in (pair.strip(b" \t").partition(b"="),)
            if key == name
        ]
        if len(values) != 1 or not 0 < len(values[0]) <= LONGEST:
            return None  # of two, a neighbour on another path or domain may have set one
        secret, now = self._secret(), self._clock()
        key = (secret, values[0])
        known = self._known.get(key)
        if known is None:
            if not secret:
                return None
            try:
                read = unseal(secret, USE, values[0].decode("ascii", "replace"), now=now)
            except SealBroken:
                return None
            if not isinstance(read.get("v"), str):
                return None
            known = (read["v"], float(read["exp"]))
            while len(self._known) >= KNOWN:
                self._known.popitem(last=False)
            self._known[key] = known
        return known if now < known[1] else None
