"""Rules held against each other: shadowed, repeated, narrowed by an allow, protecting nothing.

Not each with each: an index finds the few that could cover a rule. Where there are too many all the
same, the rest is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from sidecar.decide.documents import Require, StepUp, seconds
from sidecar.decide.inclusion import all_covered, hosts_cover, hosts_meet, methods_cover
from sidecar.decide.lint_rules import Placed, Rules, is_platform, overlap, selector, signature
from sidecar.decide.routes import REST
from sidecar.errors import Problem

_MOST: Final = 32  # rules of equal conditions that one rule is compared with
_OWN: Final = "/.well-known/sidecar/"  # customers get to their privacy page by it
_STEPS: Final = 500_000  # through patterns, in search of what denies and guards protect
_ADMITS: Final[Mapping[str, frozenset[str]]] = {
    "none": frozenset(("none", "optional", "token", "workload", "either")),
    "optional": frozenset(("optional", "token", "workload", "either")),
    "either": frozenset(("either", "token", "workload")),
    "token": frozenset(("token",)),
    "workload": frozenset(("workload",)),
}
"""By `auth` of an allow rule: those of others whose callers it takes too (evaluate._lacking)."""


def compare(rules: Sequence[Placed]) -> list[Problem]:
    """`rules` in order."""
    sound = [each for each in rules if each.sound]
    found: list[Problem] = []
    repeated = _repeated(sound, found)
    allows = [each for each in sound if each.rule.effect == "allow"]
    index = Rules.of(allows)
    for each in allows:
        if each not in repeated:
            _covered(each, index, found)
    _refused(sound, allows, found)
    if len(sound) == len(rules):  # else nobody knows what the others would admit
        _protecting_nothing(sound, allows, index, found)
    return found


# Repeated.


def _repeated(rules: Iterable[Placed], found: list[Problem]) -> set[Placed]:
    first: dict[tuple[object, ...], list[Placed]] = {}
    repeated: set[Placed] = set()
    for each in rules:
        texts = frozenset(pattern.text for pattern in each.routed.patterns)
        alike = first.setdefault(signature(each, match=texts), [])
        for other in alike[:_MOST]:
            if overlap(selector(other), selector(each)):
                repeated.add(each)
                found.append(
                    each.warning(
                        "", "repeated", f"says the same as {other.named()}", "remove one of them"
                    )
                )
                break
        else:
            alike.append(each)
    return repeated


# One allow rule and what else admits.


def _covered(at: Placed, index: Rules, found: list[Problem]) -> None:
    """Warn of at most one rule that makes this one, or its condition, idle."""
    conditions = (None,) if at.rule.when is None else (None, at.rule.when)
    for bucket in index.near(at.parts[0]):
        for when in conditions:
            for other in bucket.rules.get(when, [])[:_MOST]:
                if other is at or not _makes_idle(other, at):
                    continue
                problem = _idle(other, at)
                if problem is not None:
                    found.append(problem)
                    return


def _makes_idle(wide: Placed, narrow: Placed) -> bool:
    """Whether `wide` is satisfied by every request that `narrow` is satisfied by, and is what the
    plan proposes to whoever could be admitted by `narrow`; wherever `narrow` is seen."""
    one, other = wide.routed, narrow.routed
    return (
        wide.shadow == narrow.shadow
        and (is_platform(wide) or not is_platform(narrow))
        and selector(wide).items() <= selector(narrow).items()
        and other.rule.auth in _ADMITS[one.rule.auth]
        and (wide.rule.offer or not narrow.rule.offer)
        and _asks_no_more(wide.rule.require, narrow.rule.require)
        and methods_cover(one.methods, other.methods)
        and hosts_cover(one.hosts, other.hosts)
        and (wide.rule.when is None or _same_parameters(wide, narrow))
        and all_covered(wide.parts, narrow.parts)
    )


def _same_parameters(one: Placed, other: Placed) -> bool:
    """Whether equal conditions mean the same: parameters are those of the rule's own patterns."""
    when = other.routed.rule.when
    if when is None or "request.params" not in when.footprint:
        return True
    return one.routed.patterns == other.routed.patterns


def _asks_no_more(one: Require, other: Require) -> bool:
    """Whether who meets `other` meets `one`."""
    return (
        set(one.scopes) <= set(other.scopes)
        and set(one.consent) <= set(other.consent)
        and set(one.profile) <= set(other.profile)
        and all(
            not wanted or (given and set(given) <= set(wanted))
            for wanted, given in (
                (one.issuers, other.issuers),
                (one.audiences, other.audiences),
                (one.proof, other.proof),
                (one.segments, other.segments),
                (one.workloads, other.workloads),
            )
        )
        and _steps_no_higher(one.step_up, other.step_up)
    )


def _steps_no_higher(one: StepUp | None, other: StepUp | None) -> bool:
    if one is None:
        return True
    if other is None:
        return False
    if one.acr and not (other.acr and set(other.acr) <= set(one.acr)):
        return False
    if one.max_age is not None and (
        other.max_age is None or seconds(other.max_age) > seconds(one.max_age)
    ):
        return False
    return set(one.amr) <= set(other.amr)


def _idle(wide: Placed, narrow: Placed) -> Problem | None:
    """What to say of `narrow`, beside which `wide` admits all that it would.

    An earlier rule with its own `then` or `limit` is no mistake: whom it is about gets those. Nor
    is one that lets who has a credential be known where anybody is admitted.
    """
    rule, other = narrow.rule, wide.rule
    first = wide.order < narrow.order
    condition = (
        ".when" if rule.when != other.when
        else ".require" if not _asks_no_more(rule.require, other.require)
        else ".auth" if narrow.routed.rule.auth != wide.routed.rule.auth
        else ""
    )  # fmt: skip
    same = rule.then == other.then and rule.limit == other.limit
    obliges = narrow.routed.rule.obliges
    if not first and (not condition or not same or _only_known(wide, narrow, condition)):
        return None
    if not condition or (first and obliges and not same):
        then = "; its then and limit never apply" if obliges and not same else ""
        return narrow.warning(
            "", "shadowed",
            f"never the first satisfied: {wide.named()} comes before it and admits all it would"
            + then,
            "put it before that rule, or remove it"
            + ("; if it shall bind whatever admits, make it effect: guard" if condition else ""),
        )  # fmt: skip
    if condition == ".auth":
        lacks = "whoever calls" if other.auth in ("none", "optional") else "with other credentials"
    else:
        lacks = f"without {'this condition' if condition == '.when' else 'what is required here'}"
    return narrow.warning(
        condition, "narrowed-by-allow",
        f"narrows nothing: {wide.named()} admits the same requests {lacks}",
        f"exclude these requests from the match of {wide.routed.rule.ref}"
        if condition == ".auth"
        else "make it effect: guard, which binds whatever else admits; "
        f"or narrow the match of {wide.routed.rule.ref}",
    )  # fmt: skip


def _only_known(wide: Placed, narrow: Placed, condition: str) -> bool:
    """Whether all that the earlier rule adds is who calls."""
    pair = (wide.routed.rule.auth, narrow.routed.rule.auth)
    return condition == ".auth" and (pair[0] == "none" or pair == ("either", "workload"))


# What denies and guards are about.


def _refused(sound: Sequence[Placed], allows: Iterable[Placed], found: list[Problem]) -> None:
    """Allow rules that a deny without condition undoes. Only within a document: what is switched
    off by another one, or with everything, is switched off on purpose."""
    denies = [
        each
        for each in sound
        if each.rule.effect == "deny" and each.rule.when is None and (REST,) not in each.parts
    ]
    if not denies:
        return
    index = Rules.of(denies)
    for each in allows:
        for bucket in index.near(each.parts[0]):
            deny = next((d for d in bucket.all() if d.document is each.document), None)
            if (
                deny is not None
                and methods_cover(deny.routed.methods, each.routed.methods)
                and hosts_cover(deny.routed.hosts, each.routed.hosts)
                and all_covered(deny.all_parts, each.parts)
            ):
                found.append(
                    each.warning(
                        "", "never-matches",
                        f"the rule admits nothing: {deny.named()} refuses all that it would admit",
                        "give the deny a when, or remove this rule",
                    )
                )  # fmt: skip
                break


def _protecting_nothing(
    sound: Iterable[Placed], allows: Sequence[Placed], index: Rules, found: list[Problem]
) -> None:
    """Denies and guards for what no allow rule admits anyway. Not those of `platform`: it sees
    only its own; nor where no allow rule is given at all; nor of what the sidecar itself serves."""
    steps = 0
    for each in sound:
        if each.rule.effect == "allow" or is_platform(each) or (REST,) in each.parts:
            continue
        if any(path.startswith(_OWN) for path in each.rule.match.paths):
            continue
        if not any(_seen_together(allow, each) for allow in allows):
            continue
        for bucket in chain.from_iterable(index.meeting(parts) for parts in each.all_parts):
            steps += 1
            if steps > _STEPS:
                return
            if bucket and any(_admits_some(allow, each) for allow in bucket.all()):
                break
        else:
            found.append(
                each.warning(
                    ".match", "protects-nothing",
                    f"the {each.rule.effect} protects nothing: no allow rule admits any of it",
                    "compare its match with those of the allow rules; "
                    "what none of them admits is refused anyway",
                )
            )  # fmt: skip


def _admits_some(allow: Placed, narrow: Placed) -> bool:
    """Whether both may be about one request, as far as their paths allow."""
    one, other = allow.routed, narrow.routed
    return (
        _seen_together(allow, narrow)
        and (not one.methods or not other.methods or not one.methods.isdisjoint(other.methods))
        and hosts_meet(one.hosts, other.hosts)
    )


def _seen_together(one: Placed, other: Placed) -> bool:
    return overlap(selector(one), selector(other))
