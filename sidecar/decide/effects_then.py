"""What becomes of requests that a rule admitted, and what a change of that means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sidecar.decide.disclosed import is_secret
from sidecar.decide.documents import Limit, Redact, Rule, SubjectTerms, Then, seconds
from sidecar.decide.effects_words import NOT_SHOWN, Change, Said, apart, listed, pair, shown
from sidecar.decide.rates import Rate


def terms(rule: Rule) -> list[str]:
    """What a rule does beyond admitting and asking."""
    then = rule.then
    found = []
    if rule.limit is not None:
        found.append(f"limited to {_limit(rule.limit)}")
    found += [f"{_redaction(each)}" for each in then.redact]
    if then.set_headers:
        found.append(f"sets {listed(_headers(then.set_headers))} for the service")
    if then.remove_headers:
        found.append(f"keeps {listed(then.remove_headers)} from the service")
    if then.set_response_headers:
        found.append(f"sets {listed(_headers(then.set_response_headers))} in responses")
    if then.remove_response_headers:
        found.append(f"keeps {listed(then.remove_response_headers)} from the caller")
    if rule.subject.visitor:
        found.append("visitors get a cookie")
    if rule.subject.cut_if_error:
        found.append("cuts where it cannot be known whether to")
    if rule.subject.stale_if_error != SubjectTerms().stale_if_error:
        found.append(
            f"believes the subject's record for {rule.subject.stale_if_error} in an outage"
        )
    if rule.effect == "allow" and not rule.offer:
        found.append("never proposed")
    return found


def limit_changes(before: Limit | None, after: Limit | None) -> Iterator[Said]:
    """`now limited to 10/m for each token.sub`."""
    if before is None or after is None:
        if after is not None:
            yield Said("stricter", f"now limited to {_limit(after)}")
        elif before is not None:
            yield Said("wider", f"no longer limited; before: {_limit(before)}")
        return
    was, now = Rate.parse(before.rate), Rate.parse(after.rate)
    slower, faster = now.interval > was.interval, now.interval < was.interval
    bursts = _burst(before), _burst(after)
    if before.per != after.per or before.scope != after.scope:
        change: Change = "check"
    elif faster or bursts[1] > bursts[0]:
        change = "wider"
    else:
        change = "stricter" if slower or bursts[1] < bursts[0] else "neutral"
    old, new = pair(_limit(before), _limit(after))
    yield Said(change, f"now limited to {new}; before: {old}")


def _burst(limit: Limit) -> float:
    return Rate.parse(limit.rate).burst if limit.burst is None else limit.burst


def _limit(limit: Limit) -> str:
    burst = f", {limit.burst} at once" if limit.burst is not None else ""
    whose = f" for each {shown(limit.per)}" if limit.per is not None else " for all together"
    return f"{limit.rate}{burst}{whose}"


def subject_changes(before: SubjectTerms, after: SubjectTerms) -> Iterator[Said]:
    """How it goes about what is known of the subject."""
    if before.stale_if_error != after.stale_if_error:
        was, now = before.stale_if_error, after.stale_if_error
        longer = seconds(now) > seconds(was)
        yield Said(
            "wider" if longer else "stricter",
            f"while the control plane is away, what is known of the subject is believed for {now}; "
            f"before: {was}",
        )
    if before.cut_if_error != after.cut_if_error:
        now = "is cut out" if after.cut_if_error else "makes it 503"
        yield Said("neutral", f"what may have to be cut and cannot be known now {now}")
    if before.visitor != after.visitor:
        now = "now get" if after.visitor else "no longer get"
        yield Said("neutral", f"anonymous visitors {now} a cookie by which they are known again")


def then_changes(before: Then, after: Then) -> Iterator[Said]:
    """Headers and redactions."""
    yield from _header_changes(
        before.set_headers, after.set_headers, "the service",
        "wider", " any more: unless another rule sets it, callers can send it themselves",
    )  # fmt: skip
    yield from _list_changes(
        before.remove_headers, after.remove_headers, "request header", "from the service"
    )
    yield from _header_changes(
        before.set_response_headers,
        after.set_response_headers,
        "the caller",
        "neutral",
        " any more",
    )
    yield from _list_changes(
        before.remove_response_headers, after.remove_response_headers,
        "response header", "from the caller",
    )  # fmt: skip
    yield from _redactions(before.redact, after.redact)


def _headers(headers: Mapping[str, str]) -> list[str]:
    return [f"{name} to {_expression(name, source)}" for name, source in sorted(headers.items())]


def _expression(name: str, source: str) -> str:
    """An expression may be a text, and a text in such a header a credential."""
    return NOT_SHOWN if is_secret(name) else shown(source)


def _header_changes(
    before: Mapping[str, str], after: Mapping[str, str], whom: str, gone: Change, so: str
) -> Iterator[Said]:
    for name in sorted(before.keys() - after.keys()):
        yield Said(gone, f"header {shown(name)} is not set for {whom}{so}")
    for name in sorted(after.keys()):
        source = after[name]
        if name not in before:
            yield Said("neutral", f"header {shown(name)} is now set for {whom} to "
                                  f"{_expression(name, source)}")  # fmt: skip
        elif before[name] != source:
            was, now = pair(before[name], source)
            if is_secret(name):
                was = now = NOT_SHOWN
            yield Said("check", f"header {shown(name)} is now set for {whom} to {now}; before: "
                                f"{was}")  # fmt: skip


def _list_changes(
    before: Sequence[str], after: Sequence[str], what: str, whom: str
) -> Iterator[Said]:
    gained, lost = apart(before, after)
    if lost:
        yield Said("wider", f"{what} {listed(lost)} is no longer kept {whom}")
    if gained:
        yield Said("stricter", f"{what} {listed(gained)} is now kept {whom}")
    if not lost and not gained and before != after:
        yield Said("neutral", f"{what}s kept {whom} are written in another order")


def _redaction(redact: Redact) -> str:
    unless = f" unless {shown(redact.unless)}" if redact.unless is not None else ""
    if redact.keep:
        return f"responses have only {listed(redact.keep)}{unless}"
    return f"responses lack {listed(redact.drop)}{unless}"


def _redactions(before: Sequence[Redact], after: Sequence[Redact]) -> Iterator[Said]:
    if before == after:
        return
    gained, left = apart(before, after)
    if len(left) == len(gained) == 1:
        yield _redaction_changed(left[0], gained[0])
        return
    for each in left:
        yield Said("wider", f"no longer so: {_redaction(each)}")
    for each in gained:
        yield Said("stricter", f"now so: {_redaction(each)}")
    if not left and not gained:
        yield Said("neutral", "redactions stand in another order")


def _redaction_changed(before: Redact, after: Redact) -> Said:
    change: Change = "check"
    if before.unless == after.unless and bool(before.keep) == bool(after.keep):
        drops, keeps = set(before.drop), set(before.keep)
        if not drops <= set(after.drop) or not set(after.keep) <= keeps:
            change = "wider"
        else:
            change = "stricter"
    elif before.drop == after.drop and before.keep == after.keep and before.unless is None:
        change = "wider"
    elif before.drop == after.drop and before.keep == after.keep and after.unless is None:
        change = "stricter"
    was, now = pair(_redaction(before), _redaction(after))
    return Said(change, f"{now}; before: {was}")
