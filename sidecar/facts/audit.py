"""What a record of the audit trail is, and whether a trail is whole. Pure; both ends use it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson

_PREFIX: Final = b"sidecar audit v1\n"


class Head(NamedTuple):
    """Where a trail ends; 0 and nothing before its first record."""

    number: int
    hash: bytes


class Record(NamedTuple):
    """One, as it is stored. `content` is canonical JSON."""

    number: int
    content: bytes
    hash: bytes


START: Final = Head(0, b"")


def content_of(
    number: int, at: float, by: str, action: str, about: Mapping[str, Any], previous: bytes
) -> bytes:
    """The canonical form: keys sorted, no spaces. `at` is in seconds since the epoch."""
    body = {
        "about": about,
        "action": action,
        "at": at,
        "by": by,
        "number": number,
        "previous": previous.hex(),
    }
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def hash_of(content: bytes) -> bytes:
    """SHA-256, over a prefix that says what it is of."""
    return hashlib.sha256(_PREFIX + content).digest()


def broken(records: Iterable[Record], head: Head = START) -> tuple[Head, str]:
    """Where a trail that goes on from `head` ends, and what is wrong with it; empty: nothing is."""
    for record in records:
        if record.number != head.number + 1:
            return head, f"record {head.number + 1} is missing: {record.number} follows"
        if hash_of(record.content) != record.hash:
            return head, f"record {record.number} is not what its hash says: it was changed"
        try:
            body = orjson.loads(record.content)
            named = body["number"], body["previous"]
        except (ValueError, KeyError, TypeError):
            return head, f"record {record.number} is not of this form"
        if named != (record.number, head.hash.hex()):
            return head, f"record {record.number} does not follow on the one before it"
        head = Head(record.number, record.hash)
    return head, ""
