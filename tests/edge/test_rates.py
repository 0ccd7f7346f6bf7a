"""The table of rates: bounded, shared, and right for everyone who finds a slot."""

from __future__ import annotations

import pytest

from sidecar.decide.rates import Rate
from sidecar.edge.rates import ALL, FAILED, RateTable

RATE = Rate.parse("2/s")


def takes(table: RateTable, address: str, count: int, kind: bytes = ALL) -> int:
    return sum(table.take(kind, address, RATE, 50.0) <= 0 for _ in range(count))


def test_each_address_and_kind_counts_by_itself() -> None:
    table = RateTable()
    assert takes(table, "192.0.2.1", 5) == 2
    assert takes(table, "192.0.2.2", 5) == 2
    assert takes(table, "192.0.2.1", 5, FAILED) == 2


def test_asking_counts_nothing() -> None:
    table = RateTable()
    assert table.wait(ALL, "192.0.2.1", RATE, 50.0) == 0.0
    takes(table, "192.0.2.1", 2)
    for _ in range(3):
        assert table.wait(ALL, "192.0.2.1", RATE, 50.0) == pytest.approx(0.5)
    assert table.wait(ALL, "192.0.2.1", RATE, 50.5) <= 0


def test_an_ipv6_address_counts_with_its_network() -> None:
    table = RateTable()
    assert takes(table, "2001:db8::1", 5) == 2
    assert takes(table, "2001:db8:0:0:ffff::2", 5) == 0
    assert takes(table, "2001:db8:0:1::1", 5) == 2


def test_what_is_no_address_counts_as_it_is_written() -> None:
    table = RateTable()
    assert takes(table, "", 5) == 2
    assert takes(table, "no:address", 5) == 2


def test_shared_memory_is_one_count() -> None:
    memory = bytearray(1024)
    one, other = RateTable(memory, b"k" * 16), RateTable(memory, b"k" * 16)
    assert takes(one, "192.0.2.1", 1) == 1
    assert takes(other, "192.0.2.1", 5) == 1


def test_at_the_bound_who_was_quiet_longest_is_forgotten() -> None:
    table = RateTable(bytearray(128))  # one set of eight
    for n in range(8):
        table.take(ALL, f"192.0.2.{n}", RATE, 50.0 + n)
    table.take(ALL, "192.0.2.0", RATE, 60.0)
    table.take(ALL, "192.0.2.0", RATE, 60.0)
    table.take(ALL, "198.51.100.1", RATE, 60.0)
    assert table.wait(ALL, "192.0.2.0", RATE, 60.0) > 0  # busy, so kept
    assert table.wait(ALL, "192.0.2.1", RATE, 51.0) == 0.0  # forgotten


def test_a_flood_of_addresses_takes_no_memory() -> None:
    table = RateTable(bytearray(4096))
    for n in range(10_000):
        assert table.take(ALL, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", RATE, 50.0) <= 0
