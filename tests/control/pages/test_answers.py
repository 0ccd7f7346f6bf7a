"""sidecar/control/pages/answers.py"""

from __future__ import annotations

from datetime import date
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.control.pages.answers import ERRORS, LONGEST, NotAnAnswer, parsed, taken
from sidecar.control.pages.journeys import Question, QuestionType

CHOICES = (("basic", "Basic"), ("plus", "Plus"))


def asked(type_: QuestionType, **more: Any) -> Question:
    return Question(
        "default/x", "X", type=type_, choices=CHOICES if type_ == "choice" else (), **more
    )


def refusal_of(question: Question, submitted: Any, *, as_json: bool = False) -> str | None:
    """The key of what is wrong; None where nothing is."""
    try:
        (taken if as_json else parsed)(question, submitted)
    except NotAnAnswer as error:
        return error.key
    return None


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("text", "  Ada  ", "Ada"),
        ("text", "e\u0301", "\u00e9"),
        ("email", "kim.o'hara+x@mail.example.org", "kim.o'hara+x@mail.example.org"),
        ("phone", "+49 (30) 901-820", "+4930901820"),
        ("date", "2024-02-29", "2024-02-29"),
        ("integer", "-12", -12),
        ("integer", "9007199254740991", 2**53 - 1),
        ("number", "12.5", 12.5),
        ("number", "-0", 0.0),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("choice", "plus", "plus"),
    ],
)
def test_what_is_told_gets_the_type(type_: QuestionType, text: str, value: Any) -> None:
    found = parsed(asked(type_), text)
    assert found == value
    assert type(found) is type(value)
    assert str(found) == str(value)  # 0.0, not -0.0


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        ("email", "kim"), ("email", "kim@localhost"), ("email", "kim@@example.org"),
        ("email", "kim@example.org\u200b"), ("email", ".kim@example.org"), ("email", "k..m@example.org"),
        ("email", "kim@-example.org"), ("email", "kim@example.org, eve@example.org"),
        ("email", "kim@" + "a." * 130 + "org"), ("email", "a" * 65 + "@example.org"),
        ("email", "<script>@example.org"),
        ("phone", "030901820"), ("phone", "+0301234567"), ("phone", "+12345"),
        ("phone", "+1234567890123456"), ("phone", "+49\u0663\u0660901820"), ("phone", "+49x30901820"),
        ("date", "2023-02-29"), ("date", "20240229"), ("date", "2024-W09-4"), ("date", "29.02.2024"),
        ("date", "0000-01-01"), ("date", "2024-02-29T00:00"), ("date", "\u0662024-02-29"),
        ("integer", "1.0"), ("integer", "1e3"), ("integer", "0x10"), ("integer", "1_000"),
        ("integer", "\u0661"), ("integer", "9007199254740992"), ("integer", "9" * 1000),
        ("number", "1,5"), ("number", "nan"), ("number", "inf"), ("number", "1e400"), ("number", "."),
        ("number", "1."), ("boolean", "yes"), ("boolean", "True"), ("choice", "Plus"), ("choice", "gold"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_type_is_refused(type_: QuestionType, text: str) -> None:
    with pytest.raises(NotAnAnswer) as refused:
        parsed(asked(type_), text)
    assert refused.value.key == f"error.{type_}"


@pytest.mark.parametrize(
    "text", ["a\x00b", "a\nb", "a\x7fb", "a\x85b", "a\u202eb", "a\u2066b", "a\u2028b", "a\ud800b"]
)
@pytest.mark.parametrize("type_", ["text", "email", "phone", "choice", "date"])
def test_what_cannot_be_read_is_refused(type_: QuestionType, text: str) -> None:
    with pytest.raises(NotAnAnswer) as refused:
        parsed(asked(type_), text)
    assert refused.value.key == "error.characters"


@pytest.mark.parametrize("type_", get_args(QuestionType))
@pytest.mark.parametrize("text", ["", "   ", "\t\n"])
def test_nothing_is_no_answer(type_: QuestionType, text: str) -> None:
    assert parsed(asked(type_, required=False), text) is None
    assert taken(asked(type_, required=False), None) is None
    assert refusal_of(asked(type_), text) == "error.required"
    assert refusal_of(asked(type_), None, as_json=True) == "error.required"


@pytest.mark.parametrize(
    ("question", "text", "key", "limit"),
    [
        (asked("text", min_length=3), "ab", "error.too_short", 3),
        (asked("text", max_length=3), "abcd", "error.too_long", 3),
        (asked("text", max_length=5000), "a" * (LONGEST + 1), "error.too_long", LONGEST),
        (asked("text"), "\u0344" * 1024, "error.too_long", LONGEST),  # NFC makes two of each
        (asked("text", pattern="[a-z]+"), "ab1", "error.pattern", None),
        (asked("text", pattern="a|ab"), "abc", "error.pattern", None),
        (asked("text", pattern="("), "(", "error.pattern", None),
        (asked("email", pattern=".*@example\\.org"), "a@example.com", "error.pattern", None),
        (asked("phone", pattern="\\+49.*"), "+44 20 7946 0018", "error.pattern", None),
        (asked("integer", minimum=18), "17", "error.too_small", 18),
        (asked("number", maximum=1.5), "1.6", "error.too_large", 1.5),
    ],
)
def test_validation_binds(question: Question, text: str, key: str, limit: float | None) -> None:
    with pytest.raises(NotAnAnswer) as refused:
        parsed(question, text)
    assert (refused.value.key, refused.value.limit) == (key, limit)


def test_bounds_belong_to_what_is_allowed() -> None:
    assert parsed(asked("integer", minimum=18, maximum=18), "18") == 18
    assert parsed(asked("text", min_length=2, max_length=2), "\U0001f600\U0001f600") is not None
    assert parsed(asked("text", pattern="a|ab"), "ab") == "ab"


@pytest.mark.parametrize(
    ("type_", "sent"),
    [
        ("text", 1), ("text", ["a"]), ("email", {}), ("phone", 4930901820), ("date", 20240229),
        ("integer", True), ("integer", 1.0), ("integer", "1"), ("integer", 10**400), ("number", True),
        ("number", "1"), ("number", float("nan")), ("number", float("inf")), ("number", -(10**400)),
        ("boolean", 1), ("boolean", "true"), ("boolean", 0), ("choice", 1),
    ],
)  # fmt: skip
def test_json_has_to_have_the_type_already(type_: QuestionType, sent: Any) -> None:
    with pytest.raises(NotAnAnswer) as refused:
        taken(asked(type_), sent)
    assert refused.value.key == f"error.{type_}"


@given(st.sampled_from(get_args(QuestionType)), st.text(max_size=1100))
def test_any_text_is_taken_or_refused_with_words_for_it(type_: QuestionType, text: str) -> None:
    question = asked(type_)
    if (refusal := refusal_of(question, text)) is not None:
        assert refusal in ERRORS
        return
    found = parsed(question, text)
    assert taken(question, found) == found  # what was taken is taken again, unchanged
    if isinstance(found, str):
        assert 0 < len(found) <= LONGEST
        assert not any(ord(c) < 32 for c in found)


@given(
    st.sampled_from(get_args(QuestionType)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
)
def test_any_json_is_taken_or_refused_with_words_for_it(type_: QuestionType, sent: Any) -> None:
    assert refusal_of(asked(type_), sent, as_json=True) in {None, *ERRORS}


@given(st.dates())
def test_every_day_is_a_date(day: date) -> None:
    assert parsed(asked("date"), day.isoformat()) == day.isoformat()


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_every_safe_integer_is_one(number: int) -> None:
    assert parsed(asked("integer"), str(number)) == number
