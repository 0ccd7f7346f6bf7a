"""What sidecars say of themselves, for logs, terminals and databases."""

from __future__ import annotations

from typing import Final

MAX_ERROR: Final = 4096  # characters kept


def said(text: str) -> str:
    """Bounded, and without what moves a cursor or what PostgreSQL cannot hold."""
    kept = text[:MAX_ERROR]
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in kept
    )
