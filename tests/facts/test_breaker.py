"""A server that fails is left alone and tried again; what fails together counts once."""

from __future__ import annotations

from sidecar.facts.breaker import BREAKS_AFTER, OPEN, Breaker

NOW = 1_700_000_000.0


def test_a_breaker_opens_tries_and_waits_longer_each_time() -> None:
    breaker = Breaker()
    for _ in range(BREAKS_AFTER):
        breaker.failed(breaker.admits(NOW), NOW)
    assert not breaker.admits(NOW + OPEN - 0.1)
    ticket = breaker.admits(NOW + OPEN)
    assert ticket
    assert not breaker.admits(NOW + OPEN)  # one, and no other until it is known
    breaker.failed(ticket, NOW + OPEN)
    assert not breaker.admits(NOW + OPEN + 2 * OPEN - 0.1)
    breaker.succeeded(breaker.admits(NOW + 3 * OPEN))
    assert not breaker.open
    for _ in range(BREAKS_AFTER):
        breaker.failed(breaker.admits(NOW), NOW)
    assert breaker.admits(NOW + OPEN)


def test_many_that_fail_together_open_it_once() -> None:
    breaker = Breaker()
    tickets = [breaker.admits(NOW) for _ in range(64)]
    for ticket in tickets[:-2]:
        breaker.failed(ticket, NOW)
    breaker.succeeded(tickets[-1])  # asked before it opened
    assert breaker.open
    assert not breaker.admits(NOW + OPEN - 0.1)
    trial = breaker.admits(NOW + OPEN)
    assert trial
    breaker.failed(tickets[-2], NOW + OPEN)  # late, and not the one that is tried
    assert not breaker.admits(NOW + OPEN)
    breaker.succeeded(trial)
    assert breaker.admits(NOW + OPEN)
