"""What sidecars report, added up by release and stage."""

from __future__ import annotations

from dataclasses import replace

from sidecar.control.rollouts.health import NOTHING, Tally
from sidecar.control.rollouts.plan import Plan, Rollout, Stage
from sidecar.control.rollouts.tallies import (
    REMEMBERED,
    Tallies,
    added,
    from_plain,
    read,
    to_plain,
)
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Report

ROLLOUT = Rollout("default", 2, 1, Plan((Stage(0.5), Stage(1.0))), "alice", 0.0)


def report(version: int, requests: int = 10, refused: int = 0, errors: int = 0) -> Report:
    enforced = convert.enforced_to_wire({"default": version, "platform": 0})
    return Report(enforced=enforced, requests=requests, refused=refused, errors=errors)


def take(tallies: Tallies, said: Report, rollouts: list[Rollout]) -> None:
    tally = read(said)
    if tally is not None:
        tallies.take(tally, convert.enforced_from_wire(said.enforced), rollouts)


def test_new_and_old_are_kept_apart_and_stages_too() -> None:
    tallies = Tallies()
    take(tallies, report(1, 5), [])
    take(tallies, report(2, refused=3), [ROLLOUT])
    take(tallies, report(1, errors=1), [ROLLOUT])
    new, old, usual = tallies.of(ROLLOUT)
    assert (new, old, usual) == (Tally(10, 3), Tally(10, 0, 1), Tally(5))
    second = replace(ROLLOUT, stage=1)
    assert tallies.of(second) == (NOTHING, Tally(10, 0, 1), Tally(5))
    take(tallies, report(2), [second])
    assert tallies.of(second)[0] == Tally(10)


def test_what_is_of_neither_counts_for_neither() -> None:
    tallies = Tallies()
    take(tallies, report(7), [ROLLOUT])
    assert tallies.of(ROLLOUT) == (NOTHING, NOTHING, NOTHING)


def test_what_cannot_be_true_is_left_out() -> None:
    assert read(report(1, 10, refused=11)) is None
    assert read(report(1, 1 << 50)) is None
    assert read(Report(requests=1, decision_buckets=[1, 2])) is None
    assert read(Report(requests=1, decision_buckets=[0] * 12 + [1 << 50])) is None
    many = convert.enforced_to_wire({f"n{n}": 1 for n in range(9)})
    assert read(Report(enforced=many, requests=1)) is None
    assert read(report(1, 10, refused=10)) == Tally(10, 10)
    tallies = Tallies()
    take(tallies, report(2, 10, refused=11), [ROLLOUT])
    assert tallies.of(ROLLOUT)[0] == NOTHING


def test_the_usual_is_what_is_usual_lately() -> None:
    tallies = Tallies()
    for _ in range(100):
        take(tallies, report(1, REMEMBERED // 10, refused=REMEMBERED // 10), [])
    for _ in range(100):
        take(tallies, report(1, REMEMBERED // 10), [])
    usual = tallies.of(ROLLOUT)[2]
    assert usual.requests <= REMEMBERED
    assert usual.refused / usual.requests < 0.01


def test_nothing_is_kept_of_what_is_over() -> None:
    tallies = Tallies()
    take(tallies, report(2), [ROLLOUT])
    take(tallies, report(1), [])
    tallies.keep(["default@1"])
    assert tallies.of(ROLLOUT) == (NOTHING, NOTHING, Tally(10))


def test_replicas_add_up() -> None:
    one = Tally(1, 1, 0, 0, (1,) * 13), Tally(2), NOTHING
    other = Tally(10, 0, 2, 1, (2,) * 13), NOTHING, Tally(5)
    sums = added([one, from_plain(to_plain(other))])
    assert sums == (Tally(11, 1, 2, 1, (3,) * 13), Tally(2), Tally(5))
