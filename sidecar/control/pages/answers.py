"""What a person submitted -> the JSON value of the question's type, or what is wrong with it.

Pure. An error is a key of the catalogues (`error.email`); nothing that was submitted is in it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import date
from typing import Any, Final

import re2

from sidecar.control.pages.journeys import Question
from sidecar.errors import SidecarError

LONGEST: Final = 1024  # characters of an answer
MAX_SAFE: Final = 2**53 - 1  # beyond it, JSON readers disagree (RFC 8259 section 6)
ERRORS: Final = (
    "error.required",
    "error.text",
    "error.email",
    "error.phone",
    "error.date",
    "error.number",
    "error.integer",
    "error.boolean",
    "error.choice",
    "error.pattern",
    "error.too_short",
    "error.too_long",
    "error.too_small",
    "error.too_large",
    "error.characters",
)

# As HTML's <input type=email> has it, with a dot in the domain: nobody's provider is a bare name.
_LABEL: Final = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_EMAIL: Final = re.compile(rf"[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})+")
_EMAIL_LONGEST: Final = 254  # RFC 5321 section 4.5.3.1.3
_PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}")  # E.164
_PHONE_SIGNS: Final = str.maketrans("", "", " -./()\u00a0\u202f")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,16}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,16}(?:\.[0-9]{1,16})?")
# Cc, and what turns the direction of text around so that people read something else (UAX 9).
_UNREADABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class NotAnAnswer(SidecarError):
    """What was submitted does not do; `key` says why. `limit` is the bound that it missed."""

    def __init__(self, key: str, limit: float | None = None) -> None:
        super().__init__(key)
        self.key = key
        self.limit = limit


def parsed(question: Question, submitted: str) -> Any:
    """Of a form. None where nothing was told. Raises NotAnAnswer, `error.required` included."""
    if len(submitted) > LONGEST:
        raise NotAnAnswer("error.too_long", LONGEST)
    text = submitted.strip()
    if not text:
        return _missing(question)
    if question.type == "boolean":
        if text not in ("true", "false"):
            raise NotAnAnswer("error.boolean")
        return text == "true"
    if question.type == "integer":
        return _integer(question, text)
    if question.type == "number":
        return _number(question, text)
    return _text(question, text)


def taken(question: Question, submitted: Any) -> Any:
    """Of JSON. None where nothing was told. Raises NotAnAnswer."""
    if submitted is None:
        return _missing(question)
    if question.type == "boolean":
        if not isinstance(submitted, bool):
            raise NotAnAnswer("error.boolean")
        return submitted
    if question.type in ("integer", "number"):
        return _numeric(question, submitted)
    if not isinstance(submitted, str):
        raise NotAnAnswer(f"error.{question.type}")
    return parsed(question, submitted)


def _missing(question: Question) -> None:
    if question.required:
        raise NotAnAnswer("error.required")


def _numeric(question: Question, submitted: Any) -> int | float:
    whole = question.type == "integer"
    if isinstance(submitted, bool) or not isinstance(submitted, int if whole else int | float):
        raise NotAnAnswer(f"error.{question.type}")
    if abs(submitted) > MAX_SAFE or not math.isfinite(submitted):  # the first also of huge integers
        raise NotAnAnswer(f"error.{question.type}")
    number = submitted if whole else float(submitted) + 0.0  # -0.0 is 0.0
    return _between(question, number)


def _integer(question: Question, text: str) -> int | float:
    if not _INTEGER.fullmatch(text):
        raise NotAnAnswer("error.integer")
    return _numeric(question, int(text))


def _number(question: Question, text: str) -> int | float:
    if not _NUMBER.fullmatch(text):
        raise NotAnAnswer("error.number")
    return _numeric(question, float(text))


def _between(question: Question, number: int | float) -> int | float:
    if question.minimum is not None and number < question.minimum:
        raise NotAnAnswer("error.too_small", question.minimum)
    if question.maximum is not None and number > question.maximum:
        raise NotAnAnswer("error.too_large", question.maximum)
    return number


def _text(question: Question, text: str) -> str:
    if _UNREADABLE.search(text):
        raise NotAnAnswer("error.characters")
    text = unicodedata.normalize("NFC", text)
    if question.type == "choice":
        if text not in {value for value, _ in question.choices}:
            raise NotAnAnswer("error.choice")
        return text
    if question.type == "date":
        return _date(text)
    if question.type == "email":
        local, _, _ = text.partition("@")
        dotted = local.startswith(".") or local.endswith(".") or ".." in local
        if len(text) > _EMAIL_LONGEST or dotted or not _EMAIL.fullmatch(text):
            raise NotAnAnswer("error.email")
    elif question.type == "phone":
        text = text.translate(_PHONE_SIGNS)
        if not _PHONE.fullmatch(text):
            raise NotAnAnswer("error.phone")
    return _fitting(question, text)


def _date(text: str) -> str:
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise NotAnAnswer("error.date") from None


def _fitting(question: Question, text: str) -> str:
    if len(text) > LONGEST:  # NFC may lengthen
        raise NotAnAnswer("error.too_long", LONGEST)
    if question.min_length is not None and len(text) < question.min_length:
        raise NotAnAnswer("error.too_short", question.min_length)
    if question.max_length is not None and len(text) > question.max_length:
        raise NotAnAnswer("error.too_long", question.max_length)
    if question.pattern is not None:
        try:
            fits = re2.fullmatch(question.pattern, text) is not None
        except re2.error:
            fits = False  # `check` refuses such a document; should one come by, nothing fits
        if not fits:
            raise NotAnAnswer("error.pattern")
    return text
