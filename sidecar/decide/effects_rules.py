"""What a change of one rule means for requests, by their routes. Pure.

An allow rule widens, a guard and a deny narrow: whatever makes an allow rule hold more often, or a
guard or a deny less often, is `wider`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from sidecar.decide.documents import Match, Rule
from sidecar.decide.effects_require import needs, require_changes
from sidecar.decide.effects_then import limit_changes, subject_changes, terms, then_changes
from sidecar.decide.effects_words import (
    Change,
    Said,
    fallback,
    listed,
    opposite,
    pair,
    shown,
)

_PARAMETER: Final = re.compile(r"\{[^/{}]*\}")
_WITH: Final = {
    "token": "a token",
    "workload": "a client certificate",
    "either": "a token or a client certificate",
    "optional": "or without a credential",
    "none": "no credential looked at",
}


@dataclass(frozen=True, slots=True)
class Routes:
    """What a rule is about, as the subject of a sentence."""

    text: str
    many: bool

    @property
    def be(self) -> str:
        return "are" if self.many else "is"

    @property
    def need(self) -> str:
        return "need" if self.many else "needs"

    @property
    def do(self) -> str:
        return "do" if self.many else "does"


def routes(match: Match) -> Routes:
    """`GET and POST api.example.com/accounts/{id}`, `every request`."""
    methods, paths, hosts = match.methods, match.paths, match.hosts
    if not paths:
        what = f"every {listed(methods, 'or')} request" if methods else "every request"
        where = f" to {listed(hosts, 'or')}" if hosts else ""
        return Routes(what + where, many=False)
    if len(hosts) == 1:
        paths, hosts = [hosts[0] + path for path in paths], []
    verb = f"{listed(methods)} " if methods else ""
    where = f" of {listed(hosts, 'or')}" if hosts else ""
    many = len(methods) > 1 or len(paths) > 1 or len(hosts) > 1 or not methods
    everything = "" if methods else "all requests to "
    return Routes(f"{everything}{verb}{listed(paths)}{where}", many)


def _when(rule: Rule) -> str:
    return f" when {shown(rule.when)}" if rule.when is not None else ""


def _with(rule: Rule) -> str:
    """`with a token, scope a and step-up (acr b)`."""
    return "with " + listed([_WITH[rule.auth or "token"], *needs(rule.require)])


def _and_terms(rule: Rule) -> str:
    return "".join(f"; {term}" for term in terms(rule))


def rule_added(rule: Rule) -> Said:
    """What holds with it."""
    at = routes(rule.match)
    if rule.effect == "allow":
        text = f"{at.text} {at.be} now admitted {_with(rule)}{_when(rule)}{_and_terms(rule)}"
        return Said("wider", text)
    if rule.effect == "deny":
        return Said("stricter", f"{at.text} {at.be} now refused{_when(rule)}")
    asked = needs(rule.require)
    if asked:
        return Said(
            "stricter", f"{at.text} now {at.need} {listed(asked)}{_when(rule)}{_and_terms(rule)}"
        )
    held = "; ".join(terms(rule)) or "asks for nothing"
    return Said("stricter", f"a guard now holds for {at.text}{_when(rule)}: {held}")


def rule_removed(rule: Rule) -> Said:
    """What no longer holds."""
    at = routes(rule.match)
    if rule.effect == "allow":
        return Said("stricter", f"{at.text} {at.be} no longer admitted {_with(rule)}{_when(rule)}")
    if rule.effect == "deny":
        return Said("wider", f"{at.text} {at.be} no longer refused{_when(rule)}")
    asked = needs(rule.require)
    if asked:
        text = f"{at.text} no longer {at.need} {listed(asked)}{_when(rule)}{_and_terms(rule)}"
        return Said("wider", text)
    held = "; ".join(terms(rule)) or "asked for nothing"
    return Said("wider", f"a guard no longer holds for {at.text}{_when(rule)}: {held}")


def rule_changed(before: Rule, after: Rule) -> Iterator[Said]:
    """Of a rule that kept its name; whatever differs is said."""
    if before.effect != after.effect:
        yield rule_removed(before)
        yield rule_added(after)
        return
    for field in Rule.__struct_fields__:
        was, now = getattr(before, field), getattr(after, field)
        if was == now:
            continue
        spoken = list(_SAYINGS[field](before, after)) if field in _SAYINGS else []
        yield from spoken or fallback(f"its {field}", was, now)


def _match(before: Rule, after: Rule) -> Iterator[Said]:
    was, now = before.match, after.match
    parts = {
        field: (_spread(field, getattr(was, field)), _spread(field, getattr(now, field)))
        for field in Match.__struct_fields__
    }
    apart = {field: each for field, each in parts.items() if each[0].keys() != each[1].keys()}
    if not apart:
        text = f"{routes(now).text}: its match is written differently, and means the same"
        yield Said("neutral", text)
        return
    field, (old, new) = next(iter(apart.items()))
    if len(apart) == 1 and old and new:
        yield from _one_part(before, after, field, old, new)
        return
    if after.effect == "allow":
        wider = any(_beyond(new, old) for old, new in apart.values())
    else:
        wider = any(_beyond(old, new) for old, new in apart.values())
    yield Said(
        "wider" if wider else "stricter",
        f"{_verb(after)} {routes(now).text} now; before: {routes(was).text}",
    )


def _beyond(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether one part of a match has what the other has not; nothing written is everything."""
    return bool(other) and (not one or not one.keys() <= other.keys())


def _verb(rule: Rule) -> str:
    if rule.effect == "allow":
        return f"admitted {_with(rule)}{_when(rule)}:"
    if rule.effect == "deny":
        return f"refused{_when(rule)}:"
    return f"held to {listed(needs(rule.require)) or 'a guard'}{_when(rule)}:"


def _spread(field: str, values: Sequence[str]) -> dict[str, str]:
    """What is written, by what it means: GET includes HEAD, and parameters go by any name."""
    if field == "methods" and "GET" in values:
        values = [*values, "HEAD"]
    return {_PARAMETER.sub("*", value) if field == "paths" else value: value for value in values}


def _one_part(
    before: Rule, after: Rule, field: str, old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[Said]:
    """`POST /b is now admitted …`: the very routes that came or went."""
    gained = [written for each, written in new.items() if each not in old]
    lost = [written for each, written in old.items() if each not in new]
    for values, rule, sentence in ((gained, after, rule_added), (lost, before, rule_removed)):
        if values:
            kept = [each for each in values if each != "HEAD" or "GET" not in values]
            match = msgspec.structs.replace(rule.match, **{field: kept})
            yield sentence(msgspec.structs.replace(rule, match=match))


_OPEN: Final = {"none": 3, "optional": 2, "either": 1, "token": 0, "workload": 0}


def _auth(before: Rule, after: Rule) -> Iterator[Said]:
    at = routes(after.match)
    was, now = before.auth or "token", after.auth or "token"
    if was == now:
        yield Said("neutral", f"{at.text}: that it takes a token is written out, and was so before")
        return
    change: Change = "wider" if _OPEN[now] >= _OPEN[was] else "stricter"
    tail = f"{_when(after)}; before: {_WAS[was]}"
    if now == "none":
        text = f"{at.text} no longer {at.need} a credential, and none is looked at{tail}"
    elif now == "optional" and was == "none":
        text = f"{at.text} still {at.need} no credential, but a bad one is refused now{tail}"
    elif now == "optional":
        text = f"{at.text} no longer {at.need} a credential{tail}"
    elif _OPEN[was] > 1:
        text = f"{at.text} now {at.need} {_WITH[now]}{tail}"
    else:
        text = f"{at.text} now {at.be} admitted with {_WITH[now]}{tail}"
    yield Said(change, text)


_WAS: Final = {
    "token": "a token",
    "workload": "a client certificate",
    "either": "a token or a client certificate",
    "optional": "a credential or none",
    "none": "none was looked at",
}


def _condition(before: Rule, after: Rule) -> Iterator[Said]:
    at = routes(after.match)
    if after.effect == "allow":
        done = f"{at.be} now admitted"
    elif after.effect == "deny":
        done = f"{at.be} now refused"
    else:
        asked = listed(needs(after.require))
        done = f"now {at.need} {asked}" if asked else f"{at.be} now held to a guard"
    if before.when is None or after.when is None:
        fewer: Change = "stricter" if after.effect == "allow" else "wider"
        if after.when is not None:
            yield Said(fewer, f"{at.text} {done} only when {shown(after.when)}; before: always")
        else:
            was = shown(before.when or "")
            yield Said(opposite(fewer), f"{at.text} {done} always; before: only when {was}")
        return
    was, now = pair(before.when, after.when)
    yield Said("check", f"{at.text} {done} when {now}; before: when {was}")


def _require(before: Rule, after: Rule) -> Iterator[Said]:
    at = routes(after.match)
    for asked in require_changes(before.require, after.require):
        verb = {"need": at.need, "take": "take" if at.many else "takes"}.get(asked.verb)
        text = f" {'now' if asked.more else 'no longer'} {verb} {asked.text}"
        yield Said(asked.change, f"{at.text}{text if verb else ': ' + asked.text}{_when(after)}")


def _about(after: Rule, found: Iterator[Said]) -> Iterator[Said]:
    at = routes(after.match)
    for said in found:
        yield Said(said.change, f"{at.text}: {said.text}{_when(after)}")


def _then(before: Rule, after: Rule) -> Iterator[Said]:
    return _about(after, then_changes(before.then, after.then))


def _limit(before: Rule, after: Rule) -> Iterator[Said]:
    return _about(after, limit_changes(before.limit, after.limit))


def _subject(before: Rule, after: Rule) -> Iterator[Said]:
    return _about(after, subject_changes(before.subject, after.subject))


def _offer(before: Rule, after: Rule) -> Iterator[Said]:
    at = routes(after.match)
    what = (
        "callers who are refused are told of this way in again"
        if after.offer
        else "callers who are refused are no longer told of this way in"
    )
    yield Said("neutral", f"{at.text}: {what}")


_SAYINGS: dict[str, Callable[[Rule, Rule], Iterator[Said]]] = {
    "match": _match,
    "auth": _auth,
    "when": _condition,
    "require": _require,
    "then": _then,
    "limit": _limit,
    "subject": _subject,
    "offer": _offer,
}
