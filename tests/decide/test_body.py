"""Bodies as rules read them: whatever two readers could read differently is refused."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.body import LONGEST_NUMBER, MAX_DEPTH, BadBody, NotInspected, read

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def of(content: bytes, kind: str = JSON) -> Any:
    return read(content, kind, [], charsets=False)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"{}", {}),
        (b" [1, -2, 0.5, 1e2, true, null] ", [1, -2, 0.5, 100.0, True, None]),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"10.10", 10.1),
        (b"0.1", 0.1),
        (b"-0.0", -0.0),
        (b"1E+2", 100.0),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b'{"a":"{[\\"]}"}', {"a": '{["]}'}),
        (b"", {}),
    ],
)
def test_read(content: bytes, value: Any) -> None:
    assert of(content) == value


@pytest.mark.parametrize(
    "content",
    [
        b" ", b"{", b"{]", b"{'a':1}", b"{a:1}", b"[1,]", b'{"a":1,}', b"01", b"+1", b".5", b"1.", b"1e",
        b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e-400", b"0.10000000000000000001",
        b"9223372036854775808", b"-9223372036854775809", b"1" * (LONGEST_NUMBER + 1),
        b"0." + b"1" * LONGEST_NUMBER, b"9007199254740993.0", b'{"a":1,"a":1}', b'{"a":1,"\\u0061":1}',
        b'[{"x":{"a":1,"a":2}}]', b'"\\ud800"', b'{"\\udfff":1}', b'["\\ud83d\\ud83d"]', b"\xef\xbb\xbf{}",
        b"\xff", b'"\xed\xa0\x80"', b'"\t"', b'"\x00"', b"{} {}", b"{}//", b"\x0b{}", b"\xc2\xa0{}",
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), b"[" * 100_000, b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_refused(content: bytes) -> None:
    with pytest.raises(BadBody):
        of(content)


@pytest.mark.parametrize("number", [b"0e99999999999999999999", b"1e-99999999999999999999"])
def test_exponents_beyond_all_decimals(number: bytes) -> None:
    with pytest.raises(BadBody, match="represented exactly"):
        of(number)


@pytest.mark.parametrize("text", [b'"\\' * 40_000, b'"' + b"\\" * 80_001, b'["a",' * 16_000])
def test_strings_that_never_end_are_looked_at_once(text: bytes) -> None:
    started = time.process_time()
    with pytest.raises(BadBody):
        of(text)
    assert time.process_time() - started < 1  # 12 s where each quotation mark begins anew


def test_nested_as_deep_as_may_be() -> None:
    assert of(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"a=1&b=", {"a": "1", "b": ""}),
        (b"a", {"a": ""}),
        (b"a%20b=c+d%2B", {"a b": "c d+"}),
        (b"%C3%BC=%E2%82%AC", {"ü": "€"}),
        (b"a=b=c".replace(b"=c", b"%3Dc"), {"a": "b=c"}),
    ],
)
def test_forms(content: bytes, value: dict[str, str]) -> None:
    assert of(content, FORM) == value


@pytest.mark.parametrize(
    "content",
    [b"a=1&a=2", b"a=1&%61=2", b"&", b"a=1&&b=2", b"a=1&", b"a=%", b"a=%4", b"a=%zz", b"a=%ff", b"a=\xc3\xbc", b"a=b c", b"a=b=c", b"a[b", b"a=\x00"],
)  # fmt: skip
def test_forms_that_are_refused(content: bytes) -> None:
    with pytest.raises(BadBody):
        of(content, FORM)


@pytest.mark.parametrize(
    ("kind", "encodings", "charsets"),
    [
        ("", [], False),
        ("text/plain", [], False),
        ("text/json", [], False),
        ("multipart/form-data", [], False),
        ("application/jsonx", [], False),
        ("application/json-seq", [], False),
        (JSON, [b"gzip"], False),
        (JSON, [b"identity", b"br"], False),
        (JSON, [b"identity, gzip"], False),
        (JSON, [], True),
    ],
)
def test_not_inspected(kind: str, encodings: list[bytes], charsets: bool) -> None:
    with pytest.raises(NotInspected):
        read(b'{"a":1}', kind, encodings, charsets)


def test_an_encoding_that_is_none() -> None:
    assert read(b"[]", "application/vnd.x+json", [b" Identity "], charsets=False) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(VALUES)
def test_what_json_writes_is_read_as_it_was(value: Any) -> None:
    assert of(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_nothing_else_is_raised(content: bytes) -> None:
    for kind in (JSON, FORM):
        with contextlib.suppress(BadBody, NotInspected):
            of(content, kind)
