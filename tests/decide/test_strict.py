"""One reading only: what the strict readers take, and what they refuse."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.decide.strict import MAX_DEPTH, _any_object, _written_plainly, base64url, json_object


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


PIECES = (
    "{", "}", "[", "]", ":", ",", " ", "\n", "\t", '"a"', '"b"', '"\\u0061"', '"x\\":y"', '"{"', '"\\ud800"',
    "1", "-0", "1.0", "1e2", "1e400", "18446744073709551615", "18446744073709551616", "-9223372036854775809",
    "true", "null", "NaN", '"', "\ufeff", "\x00", '"é"',
)  # fmt: skip
members = st.lists(
    st.tuples(
        st.sampled_from(('"a"', '"b"', '"\\u0061"', '"c":', '"":', '" "')),
        st.sampled_from((":", " :", ": ", "\t:", "")),
        st.sampled_from(PIECES),
        st.sampled_from(("", " ", "\n")),
    ),
    max_size=4,
)
written = members.map(
    lambda found: "{" + ",".join("".join(member) for member in found) + "}"
) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=3000)
@given(written)
def test_the_fast_way_reads_nothing_in_another_way(text: str) -> None:
    """What it takes is what the slow way takes, down to the types."""
    data = text.encode()
    fast = _written_plainly(data)
    if fast is not None:
        assert repr(fast) == repr(_any_object(data))


def test_the_fast_way_is_taken() -> None:
    """By claims as most issuers write them; the test above would be one of nothing otherwise."""
    claims = {"iss": "https://idp.example", "aud": ["a", "ä"], "exp": 1, "x": None, "t": {"y": 1.5}}
    text = json.dumps(claims, separators=(",", ":"), ensure_ascii=False)
    assert _written_plainly(text.encode()) == claims
    for odd in (
        b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"a" :1,"a":2}', b'{"a":{"b":1,"b":1}}', b'{"a":1e300}',
        b'{"a":18446744073709551616}', b'{"a":-0}', b"[]", b'{"a":"\\ud800"}',
    ):  # fmt: skip
        assert _written_plainly(odd) is None
