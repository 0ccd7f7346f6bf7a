"""How much the word of one sidecar counts."""

from __future__ import annotations

from sidecar.control.rollouts.health import NOTHING, Tally, breach
from sidecar.control.rollouts.plan import Limits
from sidecar.control.rollouts.weights import ALWAYS, TIMES, Weights


def test_what_is_little_counts_as_it_is() -> None:
    weights = Weights()
    said = Tally(ALWAYS, 10, 0, 0, (5, 5))
    assert weights.weigh("a", "s1", said, 1.0, 0.0) is said


def test_of_more_the_shares_count() -> None:
    weights = Weights()
    many = Tally(1 << 40, 1 << 39, 0, 0, (1 << 38, 0))
    assert weights.weigh("a", "s1", many, 1.0, 0.0) == Tally(
        ALWAYS, ALWAYS // 2, 0, 0, (ALWAYS // 4, 0)
    )


def test_who_reports_more_often_has_no_more_to_say() -> None:
    weights = Weights()
    counted = [weights.weigh("a", "s1", Tally(600), 1.0, at / 10).requests for at in range(20)]
    assert counted == [600, 400, *[0] * 8, 600, 400, *[0] * 8]
    assert weights.weigh("a", "s1", Tally(600), 15.0, 2.0).requests == 0


def test_where_all_have_much_to_do_all_count() -> None:
    weights = Weights()
    for second in range(4):
        for number in range(5):
            found = weights.weigh("a", f"s{number}", Tally(50_000), 1.0, float(second))
        assert found.requests == (ALWAYS if second < 2 else 50_000)
    liar = weights.weigh("a", "s0", Tally(1 << 40), 1.0, 9.0)
    assert liar.requests == TIMES * 50_000


def test_nobody_is_their_own_measure() -> None:
    """Nor is anybody that of another namespace."""
    weights = Weights()
    for second in range(5):
        weights.weigh("b", "s9", Tally(1 << 30), 1.0, float(second))
        assert weights.weigh("a", "liar", Tally(1 << 40), 1.0, float(second)).requests <= ALWAYS
        weights.weigh("a", "s1", Tally(10), 1.0, float(second))


def test_one_that_lies_hides_nothing() -> None:
    weights = Weights()
    new = NOTHING
    for second in range(3):
        for number in range(50):
            new += weights.weigh("a", f"s{number}", Tally(1000, 1000), 1.0, float(second))
        new += weights.weigh("a", "liar", Tally(1 << 40), 1.0, float(second))
    assert "refuses" in breach(new, Tally(20_000, 200), Limits())


def test_who_is_gone_is_forgotten() -> None:
    weights = Weights()
    weights.weigh("a", "s1", Tally(ALWAYS), 1.0, 0.0)
    weights.weigh("a", "s2", Tally(ALWAYS), 1.0, 0.0)
    weights.keep([("a", "s2")])
    assert weights.weigh("a", "s1", Tally(5), 1.0, 0.0).requests == 5
    assert weights.weigh("a", "s2", Tally(5), 1.0, 0.0).requests == 0
    weights.keep([])
    assert weights.weigh("a", "s2", Tally(5), 1.0, 0.0).requests == 5
