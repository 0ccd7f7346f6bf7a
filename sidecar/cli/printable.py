"""What documents, requests and logs say, as a terminal may be given it."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line of it: nothing of it may move a cursor, colour what follows, or begin another."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def printable_lines(text: object) -> str:
    """The same of what may be several lines."""
    return "\n".join([printable(line) for line in str(text).split("\n")])
