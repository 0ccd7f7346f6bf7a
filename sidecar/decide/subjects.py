"""What is known of a subject beyond its token: consents, profile, segments, risk. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import msgspec

from sidecar.decide.outcomes import Identity, Unavailable


@final
class Subject(msgspec.Struct, frozen=True, eq=False):
    """One subject's record. Equal to itself only: another reading of it is another one.

    `profile` are the attributes that are known; one that is null is not. `risk` is 0 (none) to 100.
    """

    consents: frozenset[str] = frozenset()
    profile: Mapping[str, Any] = {}
    segments: frozenset[str] = frozenset()
    risk: float = 0


NOT_KNOWN: Final = Subject()
"""Of whom there is no record, and of nobody."""

Subjects = Callable[[Identity, float], Subject | Unavailable | None]
"""(identity, now) -> the record, why it cannot be had, or None: it has to be fetched."""


def nobody_known(identity: Identity, now: float) -> Subject:
    """Where nothing is known of anybody."""
    return NOT_KNOWN
