"""What of a request, its caller and its subject may be written down, in logs and explanations.

Never a credential, nor what by its name might be one; and no more than a line can bear. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

LONGEST: Final = 256  # characters of one text
MOST: Final = 64  # members of one map or list
DEEPEST: Final = 4
LARGEST: Final = 1024  # texts, numbers, maps and lists in one value
# Names under which credentials travel, whatever their owners call them.
SECRET: Final = re.compile(
    r"auth|cookie|token|secret|passw|passphrase|credential|api.?key|session|signature|otp|\bpin\b|"
    r"\bcvv\b|\bcvc\b|private|dpop|assertion|jwt|bearer|\bcode\b",
    re.IGNORECASE,
)
STANDARD: Final = ("iss", "sub", "aud", "scope", "acr", "amr", "auth_time")
"""Claims that requirements read."""
_NOTHING_HIDDEN: Final[frozenset[str]] = frozenset()


def is_secret(name: str, hidden: Set[str] = _NOTHING_HIDDEN) -> bool:
    """Whether what goes by this name is not to be written down; `hidden` are further names."""
    return name in hidden or (SECRET.search(name) is not None and name not in STANDARD)


class Shown:
    """A value as it may be written down. `whole`: nothing of it was left out."""

    __slots__ = ("_room", "value", "whole")

    def __init__(self, value: Any, hidden: Set[str] = _NOTHING_HIDDEN) -> None:
        self.whole = True
        self._room = LARGEST
        self.value = self._bounded(value, 0, hidden)

    def _bounded(self, value: Any, depth: int, hidden: Set[str]) -> Any:
        self._room -= 1
        if self._room < 0 or _unbearable(value):
            return self._left_out()
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, Timestamp):  # as enrichers' answers have times
            return value.ToJsonString()
        if isinstance(value, Mapping):
            if depth >= DEEPEST or len(value) > MOST:
                self.whole = False
            if depth >= DEEPEST:
                return None
            found = {}
            for key, item in list(value.items())[:MOST]:
                # Too much is as absent: a null would say that there is none.
                if self._room <= 0 or is_secret(key, hidden) or _unbearable(item):
                    self.whole = False
                else:
                    found[key] = self._bounded(item, depth + 1, _NOTHING_HIDDEN)
            return found
        if isinstance(value, list | tuple):
            if depth >= DEEPEST:
                return self._left_out()
            if len(value) > MOST:
                self.whole = False
            return [self._bounded(item, depth + 1, _NOTHING_HIDDEN) for item in value[:MOST]]
        return value

    def _left_out(self) -> None:
        self.whole = False


def _unbearable(value: Any) -> bool:
    """A text that is too long, or a number that records cannot hold."""
    if isinstance(value, str):
        return len(value) > LONGEST
    return isinstance(value, int) and not -(2**63) <= value < 2**64
