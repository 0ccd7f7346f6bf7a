"""Which path reviews are asked at, while it changes."""

from __future__ import annotations

from sidecar.inject.path import STILL, ReviewPath, review_path

OLD, NEW = b"a" * 43, b"b" * 43


def test_nothing_is_admitted_before_a_path_is_known() -> None:
    path = ReviewPath()
    assert not any(map(path.admits, ("", "/", "/inject", "/inject/", review_path(OLD))))


def test_only_the_whole_path_is_admitted() -> None:
    path = ReviewPath()
    path.expect(OLD)
    path.announced(OLD)
    known = review_path(OLD)
    assert path.admits(known)
    for other in (
        "",
        "/inject",
        known[:-1],
        f"{known}a",
        f"{known}/",
        f"/{known}",
        "/\u00e4\udc80",
    ):
        assert not path.admits(other), other


def test_a_new_path_is_admitted_before_and_the_old_one_for_a_while_after() -> None:
    now = [0.0]
    path = ReviewPath(clock=lambda: now[0])
    path.announced(OLD)
    path.expect(NEW)
    now[0] += 10 * STILL  # the API server could not be told
    assert path.admits(review_path(OLD))
    assert path.admits(review_path(NEW))
    path.announced(NEW)
    now[0] += STILL - 1
    assert path.admits(review_path(OLD))
    path.expect(NEW)
    now[0] += 1
    assert not path.admits(review_path(OLD))
    assert path.admits(review_path(NEW))


def test_a_path_that_comes_back_counts_again() -> None:
    now = [0.0]
    path = ReviewPath(clock=lambda: now[0])
    for secret in (OLD, NEW, OLD):
        path.expect(secret)
        path.announced(secret)
    now[0] += STILL
    assert path.admits(review_path(OLD))
    assert not path.admits(review_path(NEW))
