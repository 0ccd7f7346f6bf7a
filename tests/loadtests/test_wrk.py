"""What wrk says is read, and a failure never becomes a figure."""

from __future__ import annotations

import pytest

from loadtests.bench.wrk import LoadFailed, parse

GOOD = (
    "Running 1s test @ http://127.0.0.1:1\n  1 threads and 32 connections\n"
    'RESULT {"requests": 4000, "bytes": 1000000, "duration_us": 2000000, "p50_us": 310, '
    '"p99_us": 1200, "mean_us": 350.5, "connect": 0, "read": 0, "write": 0, "timeout": 0, '
    '"status": 0}\n'
)


def test_a_result() -> None:
    load = parse(GOOD)
    assert (load.requests, load.seconds, load.rate) == (4000, 2.0, 2000.0)
    assert (load.p50, load.p99, load.received) == (310.0, 1200.0, 1_000_000)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "timeout", "status"])
def test_any_error_is_a_failure(kind: str) -> None:
    with pytest.raises(LoadFailed, match=f"3 {kind} errors in 4000 requests") as caught:
        parse(GOOD.replace(f'"{kind}": 0', f'"{kind}": 3'))
    assert (caught.value.requests, caught.value.unexpected) == (4000, 3)


def test_nothing_answered_is_a_failure() -> None:
    with pytest.raises(LoadFailed, match="no request"):
        parse(GOOD.replace('"requests": 4000', '"requests": 0'))


def test_no_result_is_a_failure_with_what_was_said() -> None:
    with pytest.raises(LoadFailed, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")
