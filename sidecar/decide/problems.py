"""Mistakes in a document at the place where they stand."""

from __future__ import annotations

from sidecar.decide.documents import Document
from sidecar.errors import Problem


def problem_at(
    document: Document,
    pointer: str,
    message: str,
    *,
    hint: str = "",
    warning: bool = False,
    code: str = "",
) -> Problem:
    """A problem at `pointer` of a document, or at the nearest enclosing place that is known."""
    place = pointer
    while place and place not in document.marks:
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    line, column = document.marks.get(place, (0, 0))
    return Problem(
        message=message,
        file=document.file,
        line=line,
        column=column,
        document=document.ref,
        pointer=pointer,
        hint=hint,
        warning=warning,
        code=code,
    )


def report(
    problems: list[Problem], document: Document, pointer: str, message: str, *, hint: str = ""
) -> None:
    """Add an error at `pointer` to `problems`."""
    problems.append(problem_at(document, pointer, message, hint=hint))
