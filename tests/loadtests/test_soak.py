"""What a soak says of the connections that it kept is what was measured."""

from __future__ import annotations

from loadtests.bench.wrk import Load, LoadFailed
from loadtests.soak.__main__ import Soak


def test_failed_segments_count() -> None:
    soak = Soak()
    soak.loads.append(Load(1000, 20.0, 300.0, 900.0, 1_000_000))
    assert soak.kept() == (1000, 0)
    soak.failed += [LoadFailed("3 status errors in 500 requests", 500, 3), LoadFailed("nothing")]
    assert soak.kept() == (1500, 4)
