"""Bytes in, bytes out: what is cut, what stays, what cannot be looked through."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import jsonpath_rfc9535
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.decide.queries import LONGEST
from sidecar.decide.redact import Redaction, parse_redaction, redact
from sidecar.decide.spans import MAX_DEPTH, MAX_VALUES
from sidecar.errors import Uninspectable


def drop(*queries: str) -> Redaction:
    return parse_redaction(drop=queries)


def keep(*queries: str) -> Redaction:
    return parse_redaction(keep=queries)


ACCOUNT = b'{ "name":"Ada",\n  "ssn" : "1",\t"tier":1.50e0 ,"x":[ 1 , 2,3 ] }\n'

CASES = [
    # One member: first, in the middle, last, only.
    ('{"a":1,"b":2,"c":3}', [drop("$.a")], '{"b":2,"c":3}'),
    ('{"a":1,"b":2,"c":3}', [drop("$.b")], '{"a":1,"c":3}'),
    ('{"a":1,"b":2,"c":3}', [drop("$.c")], '{"a":1,"b":2}'),
    ('{"a":1}', [drop("$.a")], "{}"),
    ('{ "a" : 1 }', [drop("$.a")], "{  }"),
    # Several, side by side and apart.
    ('{"a":1,"b":2,"c":3}', [drop("$.a", "$.b")], '{"c":3}'),
    ('{"a":1,"b":2,"c":3}', [drop("$.b", "$.c")], '{"a":1}'),
    ('{"a":1,"b":2,"c":3}', [drop("$.a", "$.c")], '{"b":2}'),
    ('{"a":1,"b":2,"c":3,"d":4}', [drop("$.b", "$.d")], '{"a":1,"c":3}'),
    ('{"a":1,"b":2}', [drop("$.a", "$.b")], "{}"),
    ('{"a":1,"b":2}', [drop("$.*")], "{}"),
    # Elements; those behind move up.
    ("[0,1,2,3]", [drop("$[0]")], "[1,2,3]"),
    ("[0,1,2,3]", [drop("$[1,2]")], "[0,3]"),
    ("[0,1,2,3]", [drop("$[-1]")], "[0,1,2]"),
    ("[0,1,2,3]", [drop("$[::2]")], "[1,3]"),
    ("[0,1,2,3]", [drop("$[*]")], "[]"),
    ("[0,1,2,3]", [drop("$[9]")], "[0,1,2,3]"),
    # Nested, overlapping, the same twice.
    ('{"a":{"b":{"c":1}},"d":2}', [drop("$.a.b.c")], '{"a":{"b":{}},"d":2}'),
    ('{"a":{"b":1},"c":2}', [drop("$.a", "$.a.b")], '{"c":2}'),
    ('{"a":{"b":1,"c":2},"d":3}', [drop("$.a.b"), drop("$.a")], '{"d":3}'),
    ('{"a":1,"b":2}', [drop("$.a", "$['a']", "$..a")], '{"b":2}'),
    ('[{"s":1,"a":[{"s":2}]},{"s":3}]', [drop("$..s")], '[{"a":[{}]},{}]'),
    ('{"a":[{"b":1},{"b":2}]}', [drop("$.a[*].b", "$.a[0]")], '{"a":[{}]}'),
    # Names and kinds as written.
    ('{"s\\u0073n":1,"a":2}', [drop("$.ssn")], '{"a":2}'),
    ('{"ssn":1}', [drop("$['s\\u0073n']")], "{}"),
    ('{"é":1,"a":"é"}', [drop("$.é")], '{"a":"é"}'),
    ('{"\\ud83d\\ude00":1,"a":2}', [drop("$['😀']")], '{"a":2}'),
    ('{"":1,"a":2}', [drop("$['']")], '{"a":2}'),
    ('{"0":1}', [drop("$[0]")], '{"0":1}'),
    ('{"SSN":1}', [drop("$.ssn")], '{"SSN":1}'),
    ('{"a":"b"}', [drop("$.a[0]", "$.a.length")], '{"a":"b"}'),
    # The root.
    ('{"a":1}', [drop("$")], "null"),
    (" 7\n", [drop("$")], " null\n"),
    ('"a"', [drop("$.a", "$..a", "$[*]")], '"a"'),
    # keep
    ('{"a":1,"b":2,"c":3}', [keep("$.b")], '{"b":2}'),
    ('{"a":1,"b":2,"c":3}', [keep("$.a", "$.c")], '{"a":1,"c":3}'),
    ('{"a":{"b":{"c":1,"d":2}},"e":3}', [keep("$.a.b")], '{"a":{"b":{"c":1,"d":2}}}'),
    ('{"a":{"b":{"c":1,"d":2}},"e":3}', [keep("$.a.b.d")], '{"a":{"b":{"d":2}}}'),
    ('{"a":{"b":1,"c":2}}', [keep("$.a", "$.a.b")], '{"a":{"b":1,"c":2}}'),
    ('[{"a":1,"b":2},{"b":3},4]', [keep("$[*].a")], '[{"a":1}]'),
    ('[{"a":1,"b":2},{"b":3},4]', [keep("$..b")], '[{"b":2},{"b":3}]'),
    ('{"a":1}', [keep("$.z")], "{}"),
    ("[1,2]", [keep("$.z")], "[]"),
    ("[1,2]", [keep("$[1]")], "[2]"),
    ("{}", [keep("$.z")], "{}"),
    ("17", [keep("$.z")], "null"),
    ("17", [keep("$")], "17"),
    ('{"a":1}', [keep("$")], '{"a":1}'),
    ('{"a":1}', [keep("$", "$.b")], '{"a":1}'),
    # Together: what any cuts is cut.
    ('{"a":1,"b":2,"c":3}', [keep("$.a", "$.b"), drop("$.b")], '{"a":1}'),
    ('{"a":1,"b":2,"c":3}', [drop("$.a"), keep("$.a", "$.b")], '{"b":2}'),
    ('{"a":1,"b":2,"c":3}', [keep("$.a", "$.b"), keep("$.b", "$.c")], '{"b":2}'),
    ('{"a":{"s":1,"t":2}}', [keep("$.a"), drop("$..s")], '{"a":{"t":2}}'),
    ('{"a":1}', [keep("$.a"), drop("$")], "null"),
    ("[0,1,2]", [drop("$[0]"), drop("$[1]")], "[2]"),
    # Filters
    ('[{"p":1,"n":"x"},{"n":"y"}]', [drop("$[?@.p]")], '[{"n":"y"}]'),
    ('[{"p":0},{"p":null},{"p":false},{}]', [drop("$[?@.p]")], "[{}]"),
    ('[{"p":1},{"p":true},{"p":1.0}]', [drop("$[?@.p==1]")], '[{"p":true}]'),
    ('[{"p":[1]},{"p":[true]},{"p":[1.0]}]', [drop("$[?@.p==$[0].p]")], '[{"p":[true]}]'),
    ('[{"p":{"a":1}},{"p":{"a":2}}]', [drop("$[?@.p!=$[0].p]")], '[{"p":{"a":1}}]'),
    ('[{"n":"ab"},{"n":"b"},{"n":7}]', [drop("$[?match(@.n,'a.')]")], '[{"n":"b"},{"n":7}]'),
    ('["xaby","ab"]', [drop("$[?match(@,'ab')]")], '["xaby"]'),
    ('["xaby","ab","c"]', [drop("$[?search(@,'a[b$]')]")], '["c"]'),
    ('["a\\nb","a.b"]', [drop("$[?match(@,'a.b')]")], '["a\\nb"]'),
    ('["a^b","ab"]', [drop("$[?search(@,'\\\\^')]")], '["ab"]'),
    ('[{"a":[1,2]},{"a":[1]}]', [drop("$[?count(@.a[*])>1]")], '[{"a":[1]}]'),
    ("[123456789012345678901,1]", [drop("$[?@>1]")], "[1]"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "redactions", "left"), CASES)
def test_what_is_left(body: str, redactions: list[Redaction], left: str) -> None:
    assert redact(body.encode(), redactions).decode() == left


def test_every_other_byte_stays() -> None:
    assert redact(ACCOUNT, [drop("$.ssn")]) == (
        b'{ "name":"Ada",\t"tier":1.50e0 ,"x":[ 1 , 2,3 ] }\n'
    )
    assert redact(ACCOUNT, [keep("$.tier", "$.x[1]")]) == b'{ "tier":1.50e0 ,"x":[ 2 ] }\n'
    assert redact(ACCOUNT, [drop("$.none")]) == ACCOUNT
    assert redact(ACCOUNT, []) == ACCOUNT


SHUT = [
    (b"", "not_json"),
    (b" ", "not_json"),
    (b"{", "not_json"),
    (b'{"a"', "not_json"),
    (b'{"a":', "not_json"),
    (b'{"a":1', "not_json"),
    (b'{"a":1,}', "not_json"),
    (b'{"a" 1}', "not_json"),
    (b"{a:1}", "not_json"),
    (b"{'a':1}", "not_json"),
    (b"[1,]", "not_json"),
    (b"[1 2]", "not_json"),
    (b"[1}", "not_json"),
    (b'{"a":1]', "not_json"),
    (b"[,1]", "not_json"),
    (b"]", "not_json"),
    (b"01", "not_json"),
    (b"1.", "not_json"),
    (b".5", "not_json"),
    (b"+1", "not_json"),
    (b"-", "not_json"),
    (b"1e", "not_json"),
    (b"0x10", "not_json"),
    (b"NaN", "not_json"),
    (b"Infinity", "not_json"),
    (b"True", "not_json"),
    (b"nul", "not_json"),
    (b"truex", "not_json"),
    (b'"a', "not_json"),
    (b'"\n"', "not_json"),
    (b'"\x00"', "not_json"),
    (b'"\\x41"', "not_json"),
    (b'"\\u12"', "not_json"),
    (b"1 1", "not_json"),
    (b"{}{}", "not_json"),
    (b'{"a":1}\n{"a":2}', "not_json"),
    (b"\x0b1", "not_json"),
    (b"1\x00", "not_json"),
    (b"1 // note", "not_json"),
    (b")]}',\n{}", "not_json"),
    (b"\xef\xbb\xbf{}", "not_json"),
    ("\u00a01".encode(), "not_json"),
    ("\u0661".encode(), "not_json"),
    (b'"\xff"', "not_utf8"),
    (b'"\xc0\xaf"', "not_utf8"),
    (b'"\xed\xa0\x80"', "not_utf8"),
    ('{"a":1}'.encode("utf-16"), "not_utf8"),
    (b'"\\ud800"', "not_utf8"),
    (b'"\\udc00\\ud800"', "not_utf8"),
    (b'{"\\uD83D":1}', "not_utf8"),
    (b'{"a":1,"a":2}', "duplicate_name"),
    (b'{"a":1,"\\u0061":2}', "duplicate_name"),
    (b'[{"b":{"a":1,"c":2,"a":2}}]', "duplicate_name"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "too_deep"),
    (b'{"a":' * 100_000, "too_deep"),
    (b"[" * 1_000_000, "too_deep"),
    (b"[" + b"0," * MAX_VALUES + b"0]", "too_complex"),
]


@pytest.mark.parametrize(("body", "reason"), SHUT, ids=range(len(SHUT)))
def test_what_cannot_be_looked_through(body: bytes, reason: str) -> None:
    with pytest.raises(Uninspectable) as caught:
        redact(body, [drop("$.a")])
    assert caught.value.reason == reason


@pytest.mark.parametrize("query", ["$..a", "$..*", "$..[?@.a]", "$..*..*"])
def test_the_deepest_text(query: str) -> None:
    deepest = b'{"b":' * (MAX_DEPTH - 1) + b'{"a":1}' + b"}" * (MAX_DEPTH - 1)
    assert b'"a"' not in redact(deepest, [drop(query)])


@pytest.mark.parametrize(
    "query",
    [
        "$[?count($..*)>1]",
        "$..[?$..[?$..x]]",
        "$[?$[?$[?@==1]]]",
        "$..*..*..*..*..*..*..*..*..*",
        "$[" + "*,*," * 200 + "*]",
        "$..[" + "'x'," * 200 + "0]",
    ],
)
def test_a_query_that_reads_for_ever_is_given_up(query: str) -> None:
    body = b"[" + b'[[[[[[["a"]]]]]]],' * 3000 + b"0]"
    with pytest.raises(Uninspectable, match="too_complex"):
        redact(body, [drop(query)])


def test_patterns_cost_what_the_text_is_long() -> None:
    body = json.dumps(["a" * 200_000 + "b"]).encode()
    assert redact(body, [drop("$[?match(@,'(a|aa)+')]")]) == body
    assert redact(body, [drop("$[?search(@,'(a*)*c')]")]) == body


BAD = [
    ("", "expected"),
    ("ssn", "expected"),
    ("$.", "unexpected|expected|bald"),
    ("$..", "bald"),
    ("$.a | $.b", "expected"),
    ("$ ", "whitespace"),
    ("$['a", "."),
    ("$[99999999999999999999]", "out of range"),
    ("$[?@.a=1]", "unexpected"),
    ("$[?foo(@)]", "not defined"),
    ("$[?length(@.a)]", "compared"),
    ("$[?@.a==1e400]", "beyond"),
    ("$[?@.a==9007199254740993]", "beyond"),
    ("$[?@.a=='\\uD800']", "escape"),
    ("$[?@]", "alone"),
    ("$[?!@]", "alone"),
    ("$[?@.a && (@ || @.b)]", "alone"),
    ("$.a[?@[?@]]", "alone"),
    ("$[?match(@.a, @.b)]", "literal"),
    ("$[?match(@.a, 1)]", "literal"),
    ("$[?search(@.a, '\\\\d')]", "I-Regexp"),
    ("$[?search(@.a, '[a')]", "I-Regexp"),
    ("$[?search(@.a, '^a')]", "anchor"),
    ("$[?search(@.a, 'a$')]", "anchor"),
    ("$[?search(@.a, '\\\\p{Cn}')]", "supported"),
    ("$[?" + "!" * 900 + "@.a]", "deep"),
    ("$[?" + "@.a||" * 150 + "@.a]", "deep"),
    ("$" + "[?@" * 40 + ".a" + "]" * 40, "deep"),
    ("$." + "a" * LONGEST, "longer"),
]


@pytest.mark.parametrize(("query", "why"), BAD, ids=range(len(BAD)))
def test_queries_that_could_select_nothing_unseen_are_refused(query: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        drop(query)


def test_exactly_one_of_drop_and_keep() -> None:
    for both in ((), ("$.a",)):
        with pytest.raises(ValueError, match="exactly one"):
            parse_redaction(drop=both, keep=both)


def test_redactions_written_the_same_are_equal() -> None:
    assert drop("$.a") == drop("$.a")
    assert hash(drop("$.a")) == hash(drop("$.a"))
    assert drop("$.a") != keep("$.a")
    assert drop("$.a") != drop("$['a']")


# -- any text, any query

NAMES = st.sampled_from(["a", "b", "ssn", "é", "a b", ""])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "x", 'quo"te', "back\\slash", "\n", "😀", "é"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=30,
)
SPACES = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n  "])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A JSON text with spaces, escapes and spellings of its own."""

    def scalar(value: Any) -> str:
        if isinstance(value, str):
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
        if isinstance(value, int) and not isinstance(value, bool) and draw(st.booleans()):
            return f"{value}e0" if abs(value) < 2**53 else str(value)
        return json.dumps(value)

    def write(value: Any) -> str:
        before, behind = draw(SPACES), draw(SPACES)
        if isinstance(value, list):
            inside = ",".join(write(each) for each in value)
            return f"{before}[{inside or draw(SPACES)}]{behind}"
        if isinstance(value, dict):
            inside = ",".join(
                f"{draw(SPACES)}{scalar(name)}{draw(SPACES)}:{write(each)}"
                for name, each in value.items()
            )
            return f"{before}{{{inside or draw(SPACES)}}}{behind}"
        return f"{before}{scalar(value)}{behind}"

    return write(draw(VALUES))


NAMED = NAMES.map(lambda name: f"[{json.dumps(name)}]")
SEGMENTS = st.one_of(
    NAMED,
    st.sampled_from(["[*]", "[0]", "[-1]", "[1:]", "[::-2]", "..a", "..*", '..["ssn"]', "..[0]"]),
    st.sampled_from(["[?@.a]", "[?@.a==@.b]", "[?@>0]", "[?@.a!=null]", "[?search(@.a,'x')]"]),
)
QUERIES = st.lists(SEGMENTS, max_size=3).map(lambda parts: "$" + "".join(parts))
BY_NAME = st.lists(
    st.one_of(NAMED, st.sampled_from(["[*]", "..a", '..["ssn"]'])), min_size=1, max_size=3
).map(lambda parts: "$" + "".join(parts))
REDACTIONS = st.tuples(st.booleans(), st.lists(QUERIES, min_size=1, max_size=3))


def cut_by(keeps: bool, queries: list[str], value: Any) -> set[tuple[int | str, ...]]:
    """The locations to cut, found out with plain values."""
    selected = {n.location for q in queries for n in jsonpath_rfc9535.find(q, value)}
    if not keeps:
        return selected
    everything = {n.location for n in jsonpath_rfc9535.find("$..*", value)} | {()}

    def stays(location: tuple[int | str, ...]) -> bool:
        return any(
            location[: len(each)] == each or each[: len(location)] == location for each in selected
        )

    cut = {location for location in everything if not stays(location)}
    if isinstance(value, dict | list):
        cut.discard(())
    return cut


def without(value: Any, cut: set[tuple[int | str, ...]], at: tuple[int | str, ...] = ()) -> Any:
    if at in cut:
        return None
    if isinstance(value, dict):
        return {
            name: without(each, cut, (*at, name))
            for name, each in value.items()
            if (*at, name) not in cut
        }
    if isinstance(value, list):
        return [
            without(each, cut, (*at, place))
            for place, each in enumerate(value)
            if (*at, place) not in cut
        ]
    return value


def tokens(text: str) -> list[str]:
    return re.findall(r'"(?:[^"\\]|\\.)*"|[-+.\w]+|[\[\]{}:]', text)


def is_within(part: list[str], whole: list[str]) -> bool:
    """Whether `part` is what is left of `whole` when something is taken out."""
    rest = iter(whole)
    return all(each in rest for each in part)


@given(texts(), st.lists(REDACTIONS, min_size=1, max_size=3))
@example("[1]", [(False, ["$[?@>0]"])])
def test_it_is_what_deleting_would_leave(text: str, specs: list[tuple[bool, list[str]]]) -> None:
    value = json.loads(text)
    cut: set[tuple[int | str, ...]] = set()
    for keeps, queries in specs:
        cut |= cut_by(keeps, queries, value)
    redactions = [keep(*queries) if keeps else drop(*queries) for keeps, queries in specs]
    left = redact(text.encode(), redactions).decode()
    expected = without(copy.deepcopy(value), cut)
    assert json.dumps(json.loads(left)) == json.dumps(expected)
    if () not in cut:
        assert is_within(tokens(left), tokens(text))
        assert is_within(list(left), list(text))
    if not cut:
        assert left == text


@given(texts(), st.booleans(), st.lists(BY_NAME, min_size=1, max_size=2))
def test_by_names_a_second_time_cuts_nothing(text: str, keeps: bool, queries: list[str]) -> None:
    redactions = [keep(*queries) if keeps else drop(*queries)]
    once = redact(text.encode(), redactions)
    assert redact(once, redactions) == once


@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet='{}[]",:\\u0aeE+-.1 tfn', max_size=40).map(str.encode),
        st.tuples(texts().map(str.encode), st.integers(0, 200), st.binary(max_size=2)).map(
            lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
        ),
    ),
    st.lists(QUERIES, min_size=1, max_size=3),
)
def test_any_bytes_are_redacted_or_uninspectable(body: bytes, queries: list[str]) -> None:
    try:
        left = redact(body, [drop(*queries), keep(*queries)])
    except Uninspectable:
        return
    json.loads(left)
    json.loads(body)
