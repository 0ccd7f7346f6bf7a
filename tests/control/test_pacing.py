"""Few changes go at once; of many there are few pushes. Time is an argument."""

from __future__ import annotations

from sidecar.control.pacing import LONGEST, Pace


def pushes(every: float, seconds: float) -> tuple[int, float]:
    """How many pushes come of releases `every` so many seconds, acknowledged at once; and how long
    a release waited at most."""
    pace, now, waiting, sent, since, longest = Pace(), 0.0, 0, 0, 0.0, 0.0
    count = int(seconds / every)
    due = [number * every for number in range(count)]
    while due or waiting:
        if due and (not waiting or due[0] <= now):
            now = max(now, due.pop(0))
            since = since if waiting else now
            waiting += 1
        wait = pace.wait(now)
        if wait > 0:
            now = min(now + wait, due[0]) if due else now + wait
            continue
        pace.sent(now, waiting)
        longest = max(longest, now - since)
        sent, waiting = sent + 1, 0
    return sent, longest


def test_the_changes_of_every_day_wait_for_nothing() -> None:
    assert pushes(1.0, 100.0) == (100, 0.0)
    assert pushes(0.3, 30.0) == (100, 0.0)


def test_a_thousand_in_ten_seconds_are_a_dozen_pushes() -> None:
    sent, longest = pushes(0.01, 10.0)
    assert sent <= 20
    assert longest <= LONGEST


def test_four_go_at_once_and_a_pause_makes_good() -> None:
    pace = Pace()
    for _ in range(4):
        assert pace.wait(100.0) == 0
        pace.sent(100.0, 1)
    assert 0 < pace.wait(100.0) <= 0.25
    assert pace.wait(110.0) == 0
    pace.sent(110.0, 50)
    assert 0 < pace.wait(110.0) <= 0.25
    for _ in range(5):
        now = 111.0 + _ * 10
        pace.sent(now, 50)
    assert pace.wait(now) == LONGEST
    pace.sent(now + 1, 1)
    assert pace.wait(now + 2) == 0
