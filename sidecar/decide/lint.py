"""Documents -> warnings: rules that are no mistake to the compiler and hardly what was meant.

Certain or silent: nothing is warned of on a guess, for nothing silences a warning. Not part of
`validate`, which the data plane runs at every reload: `review` is for who writes and publishes.
`lint_pairs` holds rules against each other. Codes are for programs, and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.compile import validate
from sidecar.decide.compile_policy import compile_policy
from sidecar.decide.documents import (
    PLATFORM,
    AccessPolicy,
    Document,
    Require,
    TokenIssuer,
    order_key,
)
from sidecar.decide.expression_hints import as_number
from sidecar.decide.expression_lint import Traits, spelled, traits
from sidecar.decide.lint_pairs import compare
from sidecar.decide.lint_rules import Placed
from sidecar.decide.problems import problem_at
from sidecar.decide.routes import REST
from sidecar.decide.snapshot import CompiledRule
from sidecar.decide.workloads import SCHEME
from sidecar.errors import Problem

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))  # RFC 9110 section 9.2.1; TRACE is refused
_LACKS: Final = {
    "token": "claim", "subject.profile": "attribute", "request.headers": "header",
    "request.query": "parameter",
}  # fmt: skip


def review(documents: Sequence[Document]) -> list[Problem]:
    """What `validate` says of one namespace's documents (with `platform`'s), and all warnings."""
    return validate(documents) + lint(documents)


def lint(documents: Sequence[Document]) -> list[Problem]:
    """The warnings alone. Rules with mistakes are not compared with others."""
    rules: list[Placed] = []
    found: list[Problem] = []
    for document in sorted(documents, key=order_key):
        if isinstance(document.spec, AccessPolicy):
            placed = _placed(document, document.spec)
            rules += placed
            found += _alone(document, placed)
    found += _headers_set_by_rules(rules)
    found += _unknown_issuers(documents, rules)
    found += compare(rules)
    return found


def _placed(document: Document, spec: AccessPolicy) -> list[Placed]:
    problems: list[Problem] = []
    compiled = compile_policy(document, problems)
    wrong = {each.pointer.partition("]")[0] for each in problems if not each.warning}
    return [
        Placed(document, place, rule, routed, f"spec.rules[{place}" not in wrong)
        for place, (rule, routed) in enumerate(zip(spec.rules, compiled, strict=True))
    ]


# One rule by itself.


def _alone(document: Document, rules: Sequence[Placed]) -> list[Problem]:
    """Found once for a document: it depends on nothing else."""
    known: list[Problem] | None = document.memo.get("lint")
    if known is None:
        known = document.memo["lint"] = []
        for each in rules:
            _expressions(each, known)
            if each.sound and _is_open(each):
                known.append(_open(each))
    return known


def _expressions(at: Placed, found: list[Problem]) -> None:
    rule = at.routed.rule
    for pointer, program in at.programs():
        of = traits(program)
        for text, operator, number in of.numbers:
            hint = (
                f"it is text: write {text} in ['{number}']"
                if operator == "in"
                else as_number(text, operator, number)
            )
            found.append(
                at.warning(
                    pointer, "string-number",
                    f"{text} is text and never equals the number {number}", hint,
                )
            )  # fmt: skip
        for call, what in of.broken:
            hint = "mend it: where it fails a deny fires, a guard is selected, an allow passes by"
            found.append(
                at.warning(pointer, "always-fails", f"{call} always fails: it is no {what}", hint)
            )
        headers = program.footprint.get("request.headers") or frozenset()
        found.extend(
            at.warning(
                pointer, "header-case", f"request.headers[{name!r}] is never there",
                f"names of headers are lower case: request.headers[{name.lower()!r}]",
            )
            for name in sorted(headers)
            if name != name.lower()
        )  # fmt: skip
        if program is rule.when and pointer.endswith(".when"):
            _when(at, of, found)


def _when(at: Placed, of: Traits, found: list[Problem]) -> None:
    rule = at.routed.rule
    allow = rule.effect == "allow"
    never = of.never if allow or of.certainly else ""
    methods = at.routed.methods
    asked = dict(of.equal).get("request.method")
    if not never and asked is not None and methods and asked not in methods:
        never = f"request.method cannot be '{asked}', for match has {', '.join(sorted(methods))}"
        if not allow and of.unguarded:
            never = ""
    if never:
        does = {"allow": "admits nothing", "guard": "selects nothing", "deny": "refuses nothing"}
        found.append(
            at.warning(
                ".when", "never-matches", f"the rule {does[rule.effect]}: {never}",
                "mend the condition, or remove the rule",
            )
        )  # fmt: skip
    elif not allow:
        found.extend(_unguarded(at, rule, variable, keys) for variable, keys in of.unguarded)


def _unguarded(at: Placed, rule: CompiledRule, variable: str, keys: tuple[str, ...]) -> Problem:
    read = spelled(variable, keys)
    does = "fires" if rule.effect == "deny" else "is selected"
    asked = f"has({read})" if "[" not in read else f"'{keys[-1]}' in {spelled(variable, keys[:-1])}"
    return at.warning(
        ".when", "unguarded",
        f"{read} is read unguarded: without that {_LACKS[variable]} the {rule.effect} {does}",
        f"{spelled(variable, keys, optional=True)}.orValue('') or {asked} if that is not meant",
    )  # fmt: skip


def _is_open(at: Placed) -> bool:
    """Whether it admits anybody to everything, or to change something without a bound.

    Not: reading at paths that are named, writing within a limit (a login, a webhook), or whatever
    has a condition.
    """
    rule = at.rule
    if rule.auth not in ("none", "optional") or rule.effect != "allow":
        return False
    if rule.when is not None or rule.require != Require():
        return False
    return _everything(at) or (rule.limit is None and not _only_reads(at))


def _everything(at: Placed) -> bool:
    return any(parts == (REST,) for parts in at.parts)


def _only_reads(at: Placed) -> bool:
    return bool(at.routed.methods) and at.routed.methods <= _SAFE


def _open(at: Placed) -> Problem:
    what = "every path" if _everything(at) else "any method" if not at.routed.methods else (
        ", ".join(sorted(at.routed.methods - _SAFE))
    )  # fmt: skip
    hint = (
        "name the paths that are for everybody in match.paths"
        if _everything(at)
        else "match.methods: [GET] if it is for reading; else require a credential, "
        "or say how often: limit: {rate: 10/m, per: request.address}"
    )
    return at.warning(".auth", "open", f"admits {what} without a credential", hint)


# Rules among documents.


def _headers_set_by_rules(rules: Iterable[Placed]) -> list[Problem]:
    """Such a header is never forwarded as the caller sent it, and yet a rule would go by that."""
    rules = list(rules)
    set_by_rules = {name for at in rules for name, _ in at.routed.rule.set_headers}
    return [
        at.warning(
            ".when", "set-by-rule",
            f"request.headers[{name!r}] is set by a rule: this reads what callers claim",
            "decide on what the setting rule decided on",
        )
        for at in rules
        if (when := at.routed.rule.when) is not None
        for name in sorted((when.footprint.get("request.headers") or frozenset()) & set_by_rules)
    ]  # fmt: skip


def _unknown_issuers(documents: Sequence[Document], rules: Iterable[Placed]) -> list[Problem]:
    """Where any are given: who checks some of the documents may not have the one that is meant."""
    known = {each.spec.issuer for each in documents if isinstance(each.spec, TokenIssuer)}
    if not known:
        return []
    return [
        problem_at(
            at.document, f"{at.pointer}.require.issuers[{place}]",
            f"there is no TokenIssuer for {issuer!r}",
            hint=f"known: {', '.join(sorted(known))}", warning=True, code="unknown-issuer",
        )
        for at in rules
        if at.document.namespace != PLATFORM  # those may be anywhere
        for place, issuer in enumerate(at.rule.require.issuers)
        if issuer not in known and issuer != API_KEYS and not issuer.startswith(SCHEME)
    ]  # fmt: skip
