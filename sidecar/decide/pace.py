"""Long work offers to pause, again and again; whoever has it done beside something else may accept.

By itself an offer does nothing, and nothing that is worked out depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

PAUSE: Final[ContextVar[Callable[[], None] | None]] = ContextVar("pause", default=None)
"""What is done with an offer, in this context."""


def let_go(held: list[Any]) -> None:
    """Empty a list from its end, with pauses: to free thousands of things at once takes
    milliseconds. What holds others has to come after them."""
    while held:
        pause()
        held.pop()


def pause() -> None:
    """An offer. Cheap enough to be made a few times for each rule."""
    accept = PAUSE.get()
    if accept is not None:
        accept()
