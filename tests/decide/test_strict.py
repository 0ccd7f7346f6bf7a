"""One reading only: what the strict readers take, and what they refuse."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.strict import MAX_DEPTH, base64url, json_object


@given(st.binary(max_size=50))
def test_base64url_reads_what_is_written_canonically(data: bytes) -> None:
    assert base64url(base64.urlsafe_b64encode(data).rstrip(b"=")) == data


@pytest.mark.parametrize(
    "text", [b"A", b"AB=", b"A B", b"A+B/", b"AB\n", b"\xff\xff", b"AB", b"ABC"]
)
def test_base64url_refuses(text: bytes) -> None:
    """Wrong lengths and characters; the last two have unused bits that are not zero."""
    with pytest.raises(ValueError, match="base64url"):
        base64url(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=4), st.sampled_from(("", " ", "\r\n\t ")))
def test_an_object_is_read_as_json_reads_it(value: dict[str, object], space: str) -> None:
    text = space + json.dumps(value) + space
    try:
        assert json_object(text.encode()) == value
    except ValueError:  # only what holds half a surrogate, or brackets that look deep
        assert not _encodable(value) or text.count("[") + text.count("{") > MAX_DEPTH


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b'{"a":1', b"[]", b"1", b'"a"', b"null", b'{"a":1}{"a":1}', b'{"a":1},',
        b'{"a":1} x', b"\x0b{}", b"\xa0{}", b"\xef\xbb\xbf{}", b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}',
        b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":01}', b"{'a':1}", b'{"a":"\\ud800"}', b'{"a":"\xff"}',
        b'{"a":"\n"}', b'{"a":1,}', b'{"a":' + b"[" * 20 + b"]" * 20 + b"}",
        b'{"a":' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_json_refuses(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        json_object(text)
    assert not isinstance(caught.value, RecursionError)
