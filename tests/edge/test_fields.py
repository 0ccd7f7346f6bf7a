from __future__ import annotations

from sidecar.edge import fields
from sidecar.edge.fields import Memo, connection_options
from sidecar.edge.http1 import parse_request_head


def test_connection_options_are_folded_to_lower_case_members() -> None:
    assert connection_options(b" A ,, b\t,Close") == {b"a", b"b", b"close"}


def test_made_up_names_do_not_fill_the_memory() -> None:
    for number in range(3 * fields.NAMES_KEPT):
        parse_request_head(b"GET / HTTP/1.0\r\nX-%d: y\r\n\r\n" % number)
    parse_request_head(b"GET / HTTP/1.0\r\n" + b"X" * 1000 + b": y\r\n\r\n")
    assert len(fields.NAMES) <= fields.NAMES_KEPT
    assert b"X" * 1000 not in fields.NAMES
    assert b"Host" in fields.NAMES


def test_what_comes_once_is_not_remembered() -> None:
    memo: Memo[int] = Memo(100)
    for number in range(1000):
        memo.offer(b"%d" % number, number)
    assert not memo


def test_what_comes_twice_is_within_bounds() -> None:
    memo: Memo[int] = Memo(100)
    long = b"x" * (fields.LONGEST_BLOCK_KEPT + 1)
    for number in range(300):
        for _ in range(2):
            memo.offer(b"%d" % number, number)
            memo.offer(long, 0)
        assert len(memo) == min(number + 1, 100)
    assert long not in memo
    assert memo[b"299"] == 299


def test_at_the_bound_the_oldest_goes_and_what_is_offered_again_counts_once() -> None:
    memo: Memo[int] = Memo(2)
    for key in (b"a", b"a", b"b", b"b", b"a", b"a", b"c", b"c", b"c"):
        memo.offer(key, 1)
    assert set(memo) == {b"b", b"c"}


def test_long_keys_count_by_their_bytes() -> None:
    memo: Memo[int] = Memo(100, heaviest=100)
    for number in range(9):
        for _ in range(2):
            memo.offer(b"%d" % number * 30, number)
        assert memo.weight == sum(map(len, memo)) <= 100
    assert list(memo.values()) == [6, 7, 8]


def test_many_short_lines_weigh_more_than_their_bytes() -> None:
    memo: Memo[int] = Memo(100, heaviest=3 * fields.LINE)
    for key in (b"a\n", b"b\n", b"c\nc\n", b"\n" * 4):
        for _ in range(2):
            memo.offer(key, 1)
    assert set(memo) == set()
    for _ in range(2):
        memo.offer(b"d\n", 1)
    assert set(memo) == {b"d\n"}
