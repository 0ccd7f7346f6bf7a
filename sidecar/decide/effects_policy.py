"""What a change of an AccessPolicy means: which rules came, went, changed or moved. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from sidecar.decide.documents import AccessPolicy, Rule
from sidecar.decide.effects_rules import rule_added, rule_changed, rule_removed
from sidecar.decide.effects_words import Said, listed, shown
from sidecar.decide.pace import pause


def policy_added(policy: AccessPolicy, name: str) -> Iterator[Said]:
    """Each of its rules."""
    for rule in policy.rules:
        yield _settled(rule_added(rule), policy, name, rule)


def policy_removed(policy: AccessPolicy, name: str) -> Iterator[Said]:
    """Each of its rules."""
    for rule in policy.rules:
        yield _settled(rule_removed(rule), policy, name, rule)


def policy_changed(before: AccessPolicy, after: AccessPolicy, name: str) -> Iterator[Said]:
    """Mode and rules; selectors are said of every kind alike."""
    if before.mode != after.mode:
        yield _mode(after, name)
    old, new = _by_name(before.rules), _by_name(after.rules)
    gone = {key: rule for key, rule in old.items() if key not in new}
    come = {key: rule for key, rule in new.items() if key not in old}
    for key, successor in _renamed(gone, come).items():
        was, rule = gone.pop(key), come.pop(successor)
        yield Said(
            "neutral",
            f"rule {shown(was.name)} is called {shown(rule.name)} now and is otherwise the same "
            f"(policy {name})",
        )
    for rule in come.values():
        yield _settled(rule_added(rule), after, name, rule)
    for rule in gone.values():
        yield _settled(rule_removed(rule), before, name, rule)
    for key, rule in new.items():
        was = old.get(key, rule)
        if was != rule:
            pause()
            for said in rule_changed(was, rule):
                yield _settled(said, after, name, rule)
    yield from _order(old, new, after, name)


_Key = tuple[str, int]


def _by_name(rules: Sequence[Rule]) -> dict[_Key, Rule]:
    """Names are unique in what compiles; whoever looks at what does not misses none."""
    found: dict[_Key, Rule] = {}
    seen: dict[str, int] = {}
    for rule in rules:
        again = seen[rule.name] = seen.get(rule.name, 0) + 1
        found[rule.name, again] = rule
    return found


def _renamed(gone: dict[_Key, Rule], come: dict[_Key, Rule]) -> dict[_Key, _Key]:
    """Which became which, of those that are otherwise the same."""
    successors: dict[bytes, list[_Key]] = {}
    for key, rule in reversed(come.items()):
        successors.setdefault(_content(rule), []).append(key)
    found: dict[_Key, _Key] = {}
    for key, rule in gone.items():
        same = successors.get(_content(rule))
        if same:
            found[key] = same.pop()
    return found


def _content(rule: Rule) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(rule, name="-"))


def _settled(said: Said, policy: AccessPolicy, name: str, rule: Rule) -> Said:
    """With where it comes from. What is only logged admits and refuses nothing."""
    text = f"{said.text} (policy {name}, rule {shown(rule.name)})"
    if policy.mode == "shadow":
        return Said("neutral", f"{text}: in shadow, only logged")
    return Said(said.change, text)


def _mode(policy: AccessPolicy, name: str) -> Said:
    effects = [rule.effect for rule in policy.rules]
    counted = listed(
        f"{effects.count(effect)} {effect}"
        for effect in ("allow", "guard", "deny")
        if effect in effects
    )
    narrows = effects.count("allow") < len(effects)
    if policy.mode == "shadow":
        return Said(
            "wider" if narrows else "stricter",
            f"policy {name} is in shadow now: none of its rules ({counted}) is enforced any more, "
            "they are only logged",
        )
    return Said(
        "wider" if "allow" in effects else "stricter",
        f"policy {name} is enforced now: its rules ({counted}) were only logged before",
    )


def _order(
    old: dict[_Key, Rule], new: dict[_Key, Rule], policy: AccessPolicy, name: str
) -> Iterator[Said]:
    was = [key for key in old if key in new]
    now = [key for key in new if key in old]
    if was == now:
        return
    allows = [key for key in now if old[key].effect == new[key].effect == "allow"]
    before = [key for key in was if key in set(allows)]
    if allows == before:
        yield Said(
            "neutral", f"rules of policy {name} stand in another order; no decision depends on it"
        )
        return
    moved = next(place for place, key in enumerate(allows) if before[place] != key)
    yield Said(
        "neutral" if policy.mode == "shadow" else "check",
        f"allow rules of policy {name} stand in another order: "
        f"{shown(allows[moved][0])} goes before {shown(before[moved][0])} now; of those that admit "
        "a request the first gives headers, redactions and limit",
    )
