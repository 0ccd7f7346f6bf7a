"""What documents, requests and logs say, as a terminal may be given it, and moments."""

from __future__ import annotations

from datetime import UTC, datetime


def printable(text: str) -> str:
    """One line of it: nothing of it may move a cursor, colour what follows, or begin another."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def printable_lines(text: object) -> str:
    """The same of what may be several lines."""
    return "\n".join([printable(line) for line in str(text).split("\n")])


def moment(seconds: float) -> str:
    """A time, in seconds since the epoch, as RFC 3339 has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
