"""What the YAML parser raised -> a problem at the place where people made the mistake."""

from __future__ import annotations

from typing import Final

import yaml

from sidecar.decide.nodes import TooMuch
from sidecar.decide.yaml_traps import trap
from sidecar.errors import Problem

NOT_YAML: Final = "not valid YAML"


def no_yaml(file: str, error: yaml.YAMLError, text: str) -> Problem:
    """What is wrong with `text`, which `file` holds."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    if isinstance(error, TooMuch):
        return Problem(str(error), file, line, column)
    what = str(getattr(error, "problem", None) or error).splitlines()[0]
    context = getattr(error, "context", None) or ""
    hint = (
        "quote the whole value if it starts with one of ' \" [ ] { } & * ! | > % @ ` "
        "or holds ': ' or ' #', as in when: \"'admin' in token.groups\""
    )
    opened = getattr(error, "context_mark", None)
    row = "".join(text.splitlines()[line - 1 : line])
    if opened and context == "while scanning a quoted scalar":
        line, column = opened.line + 1, opened.column + 1
        hint = "the quote that begins here is never closed"
    elif opened and opened.line < line - 1 and "flow" in context and not row[: column - 1].strip():
        hint = f"the bracket opened at {opened.line + 1}:{opened.column + 1} is not closed before"
    elif found := trap(row, column, what):
        column, hint = found.column, found.hint
    return Problem(
        message=f"{NOT_YAML}: {what}" + (f" ({context})" if context else ""),
        file=file,
        line=line,
        column=column,
        hint=hint,
    )
