"""What was withdrawn before its time: tokens, sessions, subjects, keys. It can only refuse.

A sidecar holds no names, only the first 16 bytes of a SHA-256 of what is withdrawn: to find one's
own in it takes a dictionary look-up, to read somebody's name out of it takes knowing it already.
Each entry is forgotten when nothing it could refuse can be valid any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from sidecar.decide.tokens import Verified, digest

Kind = Literal["token", "session", "subject", "key"]
KINDS: Final[tuple[Kind, ...]] = ("token", "session", "subject", "key")
"""By `jti`, by `sid`, by `sub`, and by the key that signed it or that it is bound to."""

TARGET: Final = 16  # bytes: nobody finds a second text of the same 128 bits
BOUND: Final = 200_000  # entries; a control plane hands out at most half of it

# An entry is one number, since two of them in a tuple would take three times the memory:
# milliseconds of `before`, then 34 bits of seconds until it is forgotten.
_SECONDS: Final = 34
_EXPIRES: Final = (1 << _SECONDS) - 1
_WHENEVER: Final = 1 << 43  # milliseconds: no date
PACKED: Final = TARGET + 10  # bytes of one, on disk and between processes


class Revocation(msgspec.Struct, frozen=True):
    """One withdrawal. `before`: only what was issued before then, seconds since the epoch; None:
    whenever it was. It is forgotten at `expires`."""

    target: bytes
    before: float | None
    expires: float


def target(kind: Kind, issuer: str, value: str) -> bytes:
    """What an entry is found by. Names of different issuers never meet."""
    text = f"{kind}:{len(issuer)}:{issuer}{value}"
    return digest(text.encode("utf-8", "surrogatepass"))[:TARGET]


class Revocations:
    """All that is withdrawn at the moment. `mark` is another object after each change, so that
    who was found to stand need not be looked up again until then."""

    __slots__ = ("_entries", "_next", "mark")

    def __init__(self) -> None:
        self.mark = object()
        self._entries: dict[bytes, int] = {}
        self._next = _EXPIRES  # when the next one may be forgotten

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Revocation]:
        for target_, entry in self._entries.items():
            yield _revocation(target_, entry)

    def packed(self) -> bytes:
        """All of it, as `unpack` reads it. An entry is not made a Revocation on the way: of
        100,000 that would hold up everybody else."""
        return b"".join(
            [key + entry.to_bytes(PACKED - TARGET, "big") for key, entry in self._entries.items()]
        )

    def add(self, revocations: Iterable[Revocation]) -> None:
        """Withdraw these too. Of two about the same thing the later dates count."""
        entries = self._entries
        for each in revocations:
            # Rounded up: what was issued within the same millisecond is withdrawn with it.
            before = _WHENEVER
            if each.before is not None:
                before = math.ceil(min(max(0.0, each.before * 1000), _WHENEVER))
            expires = math.ceil(min(max(0.0, each.expires), _EXPIRES))
            known = entries.get(each.target)
            if known is not None:
                before = max(before, known >> _SECONDS)
                expires = max(expires, known & _EXPIRES)
            entries[each.target] = before << _SECONDS | expires
            self._next = min(self._next, expires)
        self.mark = object()

    def revokes(self, verified: Verified, now: float) -> bool:
        """Whether a credential that otherwise stands was withdrawn."""
        if verified.cleared is self.mark:
            return False
        entries = self._entries
        if entries:
            for wanted in targets(verified):
                entry = entries.get(wanted)
                if entry is not None and now < (entry & _EXPIRES):
                    before = entry >> _SECONDS
                    if before == _WHENEVER or _issued_before(verified.claims, before):
                        return True
        verified.cleared = self.mark
        return False

    def forget(self, now: float) -> None:
        """Let go of what has expired; cheap where nothing has."""
        if now < self._next:
            return
        # At least a minute until the next time: looking at 100,000 takes milliseconds.
        entries = {key: each for key, each in self._entries.items() if now < (each & _EXPIRES)}
        soonest = min([each & _EXPIRES for each in entries.values()], default=_EXPIRES)
        self._entries = entries
        self._next = max(soonest, int(now) + 60)


def pack(revocations: Iterable[Revocation]) -> bytes:
    """Some of them, likewise."""
    held = Revocations()
    held.add(revocations)
    return held.packed()


def unpack(data: bytes) -> list[Revocation]:
    """The same. Raises ValueError."""
    if len(data) % PACKED:
        raise ValueError("cut short")
    found = []
    for at in range(0, len(data), PACKED):
        entry = int.from_bytes(data[at + TARGET : at + PACKED], "big")
        found.append(_revocation(data[at : at + TARGET], entry))
    return found


def _revocation(target_: bytes, entry: int) -> Revocation:
    before = entry >> _SECONDS
    moment = None if before >= _WHENEVER else before / 1000
    return Revocation(target_, moment, float(entry & _EXPIRES))


def targets(verified: Verified) -> tuple[bytes, ...]:
    """All that a credential could be withdrawn by; worked out once."""
    known: tuple[bytes, ...] | None = verified.targets
    if known is not None:
        return known
    claims, issuer = verified.claims, verified.identity.issuer
    subject = verified.identity.subject
    found = [target("subject", issuer, subject)]
    named = claims.get("sub")
    if isinstance(named, str) and named != subject:
        found.append(target("subject", issuer, named))
    for kind, name in _CLAIMS:
        value = claims.get(name)
        if type(value) is int:  # not as RFC 7519 has it, but seen
            value = str(value)
        if isinstance(value, str) and value:
            found.append(target(kind, issuer, value))
    if verified.key_id:
        found.append(target("key", issuer, verified.key_id))
    bound = claims.get("cnf")
    if isinstance(bound, dict):
        thumbprints = (bound.get("jkt"), bound.get("x5t#S256"))
        found += [target("key", issuer, each) for each in thumbprints if each and type(each) is str]
    verified.targets = known = tuple(found)
    return known


_CLAIMS: Final[tuple[tuple[Kind, str], ...]] = (("token", "jti"), ("session", "sid"))


def _issued_before(claims: Mapping[str, Any], before: int) -> bool:
    """By `iat`, against milliseconds. Without one nobody can say, so it counts as withdrawn."""
    issued = claims.get("iat")
    if isinstance(issued, bool) or not isinstance(issued, int | float):
        return True
    return issued * 1000 < before
