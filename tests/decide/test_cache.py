"""The cache: expiry by argument, bounds in entries and in bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.cache import ExpiringCache


def test_until_its_time_has_come() -> None:
    cache: ExpiringCache[bytes, str] = ExpiringCache(10)
    cache.put(b"k", "v", 100.0)
    assert cache.get(b"k", 99.9) == "v"
    assert cache.get(b"k", 100.0) is None
    assert len(cache) == 0
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_oldest_goes_at_either_bound() -> None:
    cache: ExpiringCache[bytes, int] = ExpiringCache(3, heaviest=100)
    for number in range(4):
        cache.put(b"%d" % number, number, 10.0, 10)
    assert [cache.get(b"%d" % number, 0.0) for number in range(4)] == [None, 1, 2, 3]
    cache.put(b"big", 9, 10.0, 85)
    assert [cache.get(key, 0.0) for key in (b"1", b"2", b"3", b"big")] == [None, None, 3, 9]
    assert cache.weight == 95
    cache.put(b"too big", 9, 10.0, 101)
    assert cache.get(b"too big", 0.0) is None
    assert cache.get(b"big", 0.0) == 9


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 60)), max_size=60))
def test_bounds_hold_whatever_comes(puts: list[tuple[int, int, int]]) -> None:
    cache: ExpiringCache[bytes, int] = ExpiringCache(5, heaviest=100)
    for key, expires, weight in puts:
        cache.put(b"%d" % key, key, float(expires), weight)
        cache.get(b"%d" % (key // 2), 20.0)
        assert len(cache) <= 5
        assert cache.weight == sum(entry[2] for entry in cache._entries.values()) <= 100


def test_what_is_not_retained_is_forgotten() -> None:
    cache: ExpiringCache[str, int] = ExpiringCache(9)
    for name, weight in (("a1", 10), ("b1", 20), ("a2", 5)):
        cache.put(name, 1, 100, weight)
    cache.retain(lambda key: key.startswith("a"))
    assert (len(cache), cache.weight) == (2, 15)
    assert cache.get("b1", 1) is None
