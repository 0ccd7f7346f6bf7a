"""Operations -> the rules that admit to exactly them, grouped as a person would keep them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.cli.openapi.read import METHODS, Api, Operation
from sidecar.cli.openapi.security import Alternative
from sidecar.cli.openapi.templates import Index, Template, conditions, goes_first, quoted

LONGEST_WHEN: Final = 16384  # characters, as documents have it
_ORDER: Final = {method.upper(): place for place, method in enumerate(METHODS)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An operation at one of its paths; `when` keeps it apart from others that match there."""

    operation: Operation
    template: Template
    when: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One allow rule. It is about every one of its methods on every one of its paths."""

    name: str
    alternative: Alternative
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    when: str
    operations: tuple[Operation, ...]


def rules(api: Api) -> list[Rule]:
    """The rules, in the order of the description."""
    groups: dict[tuple[object, ...], dict[str, list[Endpoint]]] = {}
    for each in apart(api):
        of = each.operation
        # What is kept apart by its own variables shares its rule with no other path.
        own = each.template.pattern if each.when else ""
        key = (of.alternatives, of.undeclared, _topic(of), each.when, own)
        groups.setdefault(key, {}).setdefault(each.template.pattern, []).append(each)
    found: list[Rule] = []
    for paths in groups.values():
        # One rule is the product of its methods and paths, so those with the same methods only.
        alike: dict[tuple[str, ...], list[list[Endpoint]]] = {}
        for endpoints in paths.values():
            methods = sorted({each.operation.method for each in endpoints}, key=_ORDER.__getitem__)
            alike.setdefault(tuple(methods), []).append(endpoints)
        for same in alike.values():
            found += _rules([each for endpoints in same for each in endpoints])
    return _named(found)


def _rules(endpoints: Sequence[Endpoint]) -> list[Rule]:
    """One for each alternative."""
    operations = tuple(dict.fromkeys(each.operation for each in endpoints))
    first = operations[0]
    methods = tuple(sorted({each.method for each in operations}, key=_ORDER.__getitem__))
    paths = tuple(dict.fromkeys(each.template.pattern for each in endpoints))
    single = len(operations) == 1
    subject = (first.name or str(first)) if single else f"{_topic(first)} {', '.join(methods)}"
    plain = single and len(first.alternatives) == 1
    return [
        Rule(
            subject if plain else f"{subject} {_described(each, first.undeclared)}",
            each, methods, paths, endpoints[0].when, operations,
        )
        for each in first.alternatives
    ]  # fmt: skip


def _topic(operation: Operation) -> str:
    """The tag, or what the path begins with."""
    return operation.tag or next((part for part in operation.path.split("/") if part), "/")


def _described(alternative: Alternative, undeclared: bool) -> str:
    if undeclared:
        return "declares no security"
    match alternative.auth:
        case "none":
            return "open to everybody"
        case "optional":
            return "with a token or without"
        case "workload":
            return "with a certificate"
    what = "an API key" if alternative.source == "key" else "a token"
    more = " and a certificate" if alternative.certificate else ""
    scopes = f" for {' '.join(alternative.scopes)}" if alternative.scopes else ""
    return f"with {what}{more}{scopes}"


def _named(found: Iterable[Rule]) -> list[Rule]:
    """Each with a name of its own, of a length that a log can bear."""
    taken: Counter[str] = Counter()
    named = []
    for rule in found:
        name = rule.name if len(rule.name) <= 120 else rule.name[:117] + "..."
        fresh = name
        while taken[fresh]:
            taken[name] += 1
            fresh = f"{name} ({taken[name]})"
        taken[fresh] += 1
        named.append(replace(rule, name=fresh))
    return named


# Where several operations match one path.


def apart(api: Api) -> list[Endpoint]:
    """All endpoints that somebody can be admitted to, none of which reaches into another."""
    every = [
        Endpoint(operation, each) for operation in api.operations for each in operation.templates
    ]
    index = Index(((each.template, each) for each in every), api.spend)
    found = []
    for each in every:
        if not each.operation.alternatives or not each.template.pattern:
            continue
        when = _when(api, each, [other for _, other in index.meeting(each.template)])
        if when is not None:
            found.append(replace(each, when=when))
    return found


def _when(api: Api, mine: Endpoint, others: Iterable[Endpoint]) -> str | None:
    """What holds where no other operation is meant; None if that is nowhere."""
    values: dict[str, dict[str, None]] = {}  # by equality, of single variables
    terms: dict[str, None] = {}
    for other in others:
        if not _reaches(mine, other):
            continue
        found = conditions(mine.template, other.template)
        if not goes_first(other.template, mine.template):
            api.remark(
                "which of these two a path that matches both is for, OpenAPI does not say; "
                "it stays refused",
                " | ".join(sorted((str(mine.operation), str(other.operation)))),
            )
        if not _methods(mine.operation) <= _methods(other.operation):
            names = ", ".join(quoted(name) for name in sorted(_methods(other.operation)))
            found = (("request.method", f" in [{names}]"), *found)
        if not found:
            api.remark(
                "another operation of that method has the same path and asks for something else; "
                "it stays refused",
                " | ".join(sorted((str(mine.operation), str(other.operation)))),
            )
            return None
        name, test = found[0]
        if len(found) == 1 and test.startswith(" == "):
            values.setdefault(name, {})[test.removeprefix(" == ")] = None
        else:
            told = " && ".join("".join(each) for each in found)
            terms[f"!{told}" if len(found) == 1 and test.startswith(".") else f"!({told})"] = None
    when = " && ".join(
        [
            *(
                f"{name} != {next(iter(known))}"
                if len(known) == 1
                else f"!({name} in [{', '.join(known)}])"
                for name, known in values.items()
            ),
            *terms,
        ]
    )
    if len(when) > LONGEST_WHEN:
        api.remark("too many other operations match its paths; it stays refused", mine.operation)
        return None
    return when


def _methods(operation: Operation) -> frozenset[str]:
    """Those that its rule admits: GET includes HEAD."""
    return frozenset(("GET", "HEAD") if operation.method == "GET" else (operation.method,))


def _reaches(mine: Endpoint, other: Endpoint) -> bool:
    """Whether a request that the rule for `mine` admits could be one for `other`, and `other` asks
    for what `mine` does not."""
    if other.operation is mine.operation:
        return False
    if not _methods(mine.operation) & _methods(other.operation):
        return False
    if goes_first(mine.template, other.template):
        if not goes_first(other.template, mine.template):
            return False  # the more concrete one is meant
        if mine.operation.method == "HEAD" and other.operation.method == "GET":
            return False  # as it says of HEAD itself what GET would include
    theirs = other.operation.alternatives
    return not all(
        any(each.implies(another) for another in theirs) for each in mine.operation.alternatives
    )
