"""An explanation as a tree that people read: lines and branches, colour only on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from sidecar.cli.printable import printable
from sidecar.decide.disclosed import LONGEST
from sidecar.decide.explanation import Explanation, RuleSeen, Way, Who

_MARKS: Final = {True: "yes", False: "no ", None: "-  "}
_STYLES: Final = {True: "green", False: "red", None: "dim"}


@dataclass
class Branch:
    """A line and what hangs on it."""

    text: str
    style: str = ""
    below: list[Branch] = field(default_factory=list)

    def add(self, text: str, style: str = "") -> Branch:
        found = Branch(text, style)
        self.below.append(found)
        return found


def show(tree: Branch) -> None:
    """To standard output."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for stem, text, style in lines(tree):
        line = Text(stem, style="dim")
        line.append(text, style=style or "default")
        console.print(line)


def lines(tree: Branch, stem: str = "", below: str = "") -> Iterator[tuple[str, str, str]]:
    """Each line as its stem, its text and the style of that."""
    yield stem, printable(tree.text), tree.style
    for place, branch in enumerate(tree.below):
        last = place == len(tree.below) - 1
        mark, further = ("└─ ", "   ") if last else ("├─ ", "│  ")
        yield from lines(branch, below + mark, below + further)


def tree_of(seen: Explanation) -> Branch:
    """All of it."""
    tree = Branch(seen.request, "bold")
    _caller(tree, seen.caller)
    rules = tree.add(f"rules whose path matches: {len(seen.rules)}")
    for rule in seen.rules:
        _rule(rules, rule)
    for part, count in seen.passed_over.items():
        if count and part == "path":
            rules.add(f"{count} more are about other paths", "dim")
    _outcome(tree, seen)
    return tree


def _caller(tree: Branch, caller: Who) -> None:
    said = {
        "token": f"{caller.subject} of {caller.issuer}, by a token",
        "api key": f"{caller.subject}, by an API key",
        "workload": "a workload, without a token",
        "anonymous": "anonymous: no credential came",
        "bad": f"a credential that does not stand ({caller.why})",
        "not looked at": "no credential was looked at: no rule asks for one",
    }[caller.kind]
    branch = tree.add(f"caller: {said}", "red" if caller.kind == "bad" else "")
    if caller.scopes:
        branch.add(f"scopes: {' '.join(caller.scopes)}")
    if caller.proof:
        branch.add(f"proof shown: {', '.join(caller.proof)}")
    if caller.workload:
        branch.add(f"certificate: {caller.workload}")
    if caller.kind == "bad":
        branch.add("guards, denies and `auth: none` rules see an anonymous caller", "dim")


def _rule(tree: Branch, rule: RuleSeen) -> None:
    style = "bold" if rule.decisive else "dim" if not rule.selected else ""
    shadow = " (shadow: not enforced)" if rule.shadow else ""
    decisive = "  <- decisive" if rule.decisive else ""
    branch = tree.add(f"{rule.effect} {rule.rule}: {rule.verdict}{shadow}{decisive}", style)
    if rule.verdict.startswith("about others"):
        return
    if rule.pattern != "/**":
        branch.add(f"path {rule.pattern}", "dim")
    if rule.when is not None:
        styles = {"true": "green", "false": "red", "failed": "red", "unknown": "yellow"}
        condition = branch.add(f"when {rule.when.source}", "")
        condition.add(f"is {rule.when.value}", styles[rule.when.value])
        for name, value in rule.when.read.items():
            condition.add(f"{name} = {_value(value)}", "dim")
    for asked in rule.requires:
        late = "" if asked.met is not None else " (not looked at)"
        branch.add(f"{_MARKS[asked.met]} {asked.what}{late}", _STYLES[asked.met])


def _value(value: Any) -> str:
    if isinstance(value, str) and value.startswith("("):
        return value
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _outcome(tree: Branch, seen: Explanation) -> None:
    refused = seen.outcome == "refused"
    if seen.outcome == "undecided":
        tree.add("not decided again: the record does not say all that it takes", "yellow")
        return
    said = f"{seen.outcome} by {seen.rule or 'no rule'}"
    if seen.reason:
        said += f": {seen.code}, {seen.reason}"
    branch = tree.add(said, "bold red" if refused else "bold green")
    for name, value in seen.effects.items():
        branch.add(f"{name}: {_value(value)}")
    if seen.shadow is not None:
        said = ", ".join(f"{name} {value}" for name, value in seen.shadow.items())
        branch.add(f"were shadow policies enforced: {said}", "yellow")
    if seen.ways:
        _ways(branch, seen.ways)
    if seen.plan is not None:
        branch.add(f"asked for: {seen.plan['kind']} {_value(seen.plan['needs'])}")
    if seen.answer is not None:
        answer = branch.add(f"answered with {seen.answer.status}")
        if seen.answer.www_authenticate:
            answer.add(f"WWW-Authenticate: {seen.answer.www_authenticate}")
        if seen.answer.location:
            answer.add(f"Location: {seen.answer.location}")
        if seen.answer.body is not None:
            answer.add(json.dumps(seen.answer.body, ensure_ascii=False))


def _ways(tree: Branch, ways: Sequence[Way]) -> None:
    branch = tree.add("ways in, by what they cost the caller")
    for way in sorted(ways, key=lambda way: (bool(way.not_proposed), way.cost)):
        missing = ", ".join(way.missing) or "nothing of the caller"
        if way.not_proposed:
            branch.add(f"{way.rule}: not proposed, as {way.not_proposed}", "dim")
        elif way.chosen:
            branch.add(f"{way.rule}: {way.cost} for {missing}  <- the cheapest", "green")
        else:
            branch.add(f"{way.rule}: {way.cost} for {missing}")
