"""Long work offers to pause, again and again; whoever has it done beside something else may accept.

By itself an offer does nothing, and nothing that is worked out depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

PAUSE: Final[ContextVar[Callable[[], None] | None]] = ContextVar("pause", default=None)
"""What is done with an offer, in this context."""


def pause() -> None:
    """An offer. Cheap enough to be made a few times for each rule."""
    accept = PAUSE.get()
    if accept is not None:
        accept()
