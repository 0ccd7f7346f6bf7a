"""Lead times, failures and times to restore, out of tables of what was released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.control.rollouts.history import Figures, _figures_of


def release(version: int, asked: float, settled: float | None, **more: Any) -> Any:
    """Created when it was asked for, unless told otherwise."""
    found = {
        "namespace": "default", "version": version, "parent": version - 1, "restores": None,
        "asked": asked, "created": asked, "settled": settled, "author": "alice", **more,
    }  # fmt: skip
    return SimpleNamespace(**found)


def ended(state: str, started: float, settled: float | None) -> Any:
    return SimpleNamespace(state=state, started=started, settled=settled)


def figures(
    releases: Sequence[Any],
    rollouts: Mapping[int, Any] | None = None,
    under_way: Sequence[int] = (),
) -> Figures:
    """As the store answers: newest first."""
    return _figures_of(
        list(reversed(releases)),
        {("default", version): each for version, each in (rollouts or {}).items()},
        {("default", version) for version in under_way},
    )


def test_of_nothing() -> None:
    found = figures([])
    assert (found.lead_times, found.restore_times, found.changes) == ([], [], {})
    assert found.failure_ratio == 0.0


CASES: list[tuple[str, Figures, list[float], list[float], dict[str, int], float]] = [
    (
        "each reached everybody",
        figures([release(1, 100, 103), release(2, 200, 201.5)]),
        [1.5, 3], [], {"completed": 2}, 0.0,
    ),
    (
        "one is not everywhere yet, or never was looked at",
        figures([release(1, 100, 103), release(2, 200, None)]),
        [3], [], {"completed": 2}, 0.0,
    ),
    (
        "somebody had to approve: it counts from the asking",
        figures([release(1, 100, 4000, created=3990)]),
        [3900], [], {"completed": 1}, 0.0,
    ),
    (
        "taken back by hand, and everybody was back",
        figures([release(1, 100, 101), release(2, 200, 202), release(3, 260, 263, restores=1)]),
        [2, 1], [63], {"completed": 1, "undone": 1}, 0.5,
    ),
    (
        "taken back, and not everybody is back",
        figures([release(1, 100, 101), release(2, 200, 202), release(3, 260, None, restores=1)]),
        [2, 1], [], {"completed": 1, "undone": 1}, 0.5,
    ),
    (
        "two taken back at once",
        figures([
            release(1, 100, 101), release(2, 200, 201), release(3, 300, 301),
            release(4, 350, 355, restores=1),
        ]),
        [1, 1, 1], [55, 155], {"completed": 1, "undone": 2}, 2 / 3,
    ),
    (
        "taken back twice: the first time counts",
        figures([
            release(1, 100, 101), release(2, 200, 201), release(3, 250, 251, restores=1),
            release(4, 300, 301), release(5, 900, 901, restores=1),
        ]),
        [1, 1, 1], [601, 51], {"completed": 1, "undone": 2}, 2 / 3,
    ),
    (
        "a rollout that rolled itself back, one that was aborted, and one that went well",
        figures(
            [release(version, 100 * version, None) for version in (1, 2, 3, 4)],
            {
                2: ended("rolled_back", 200, 207), 3: ended("aborted", 300, 330),
                4: ended("completed", 400, None),
            },
        ),
        [], [30, 7], {"completed": 2, "rolled_back": 1, "aborted": 1}, 0.5,
    ),
    (
        "not everybody is back yet",
        figures([release(1, 100, 101), release(2, 200, None)], {2: ended("aborted", 200, None)}),
        [1], [], {"completed": 1, "aborted": 1}, 0.5,
    ),
    (
        "one that is under way has no outcome",
        figures([release(1, 100, 101), release(2, 200, None)], under_way=[2]),
        [1], [], {"completed": 1}, 0.0,
    ),
    (
        "the empty platform that every store begins with is nobody's change",
        figures([release(0, 50, 50), release(1, 100, 101)]),
        [1], [], {"completed": 1}, 0.0,
    ),
    (
        "the end of a trial is nobody's change",
        figures([release(1, 100, 101), release(2, 200, 202, author="control-plane")]),
        [1], [], {"completed": 1}, 0.0,
    ),
    (
        "another namespace's rollback took nothing back here",
        figures([
            release(1, 100, 101), release(2, 200, 201),
            release(3, 300, 301, namespace="other", restores=1),
        ]),
        [1, 1], [], {"completed": 2}, 0.0,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "leads", "restores", "changes", "ratio"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_figures(
    found: Figures,
    leads: list[float],
    restores: list[float],
    changes: dict[str, int],
    ratio: float,
) -> None:
    assert list(found.lead_times) == pytest.approx(leads)
    assert list(found.restore_times) == pytest.approx(restores)
    assert dict(found.changes) == changes
    assert found.failure_ratio == pytest.approx(ratio)
