"""IdentityPolicy, ConsentPurpose and ProfileAttribute -> what decisions go by, with every mistake.

Attributes that appear in responses are cut out of them by a guard of our own making, as if each
policy had one: whoever asks sees them once a purpose that covers them is granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

import re2

from sidecar.decide.compile_redact import compile_redact
from sidecar.decide.compile_rule import expression
from sidecar.decide.documents import (
    PLATFORM,
    ClaimSource,
    ConsentPurpose,
    Document,
    Enricher,
    IdentifierSource,
    IdentityPolicy,
    ProfileAttribute,
    TokenIssuer,
    order_key,
    seconds,
)
from sidecar.decide.journey import (
    Attribute,
    CompiledIdentity,
    FromClaim,
    IdentifierRule,
    Journey,
    Purpose,
    VisitorTerms,
    verified_by,
)
from sidecar.decide.kinds.journey import values_of
from sidecar.decide.kinds.policy import Redact
from sidecar.decide.problems import problem_at, report
from sidecar.decide.snapshot import RedactRule
from sidecar.errors import Problem

if TYPE_CHECKING:
    from sidecar.decide.compile_policy import RoutedRule

S = TypeVar("S", ConsentPurpose, ProfileAttribute)
LONGEST_COOKIE: Final = 400 * 86_400.0  # seconds that a browser keeps one (RFC 6265bis)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_TYPE: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*")
_COOKIE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,64}")
_OURS: Final = frozenset(("subject", "visitor"))


@dataclass(frozen=True, slots=True)
class Customers:
    """What all of these documents come to; `redact` is what every response is held against."""

    journey: Journey
    redact: tuple[RedactRule, ...]


def compile_journey(
    documents: Sequence[Document],
    policies: Iterable[tuple[Document, list[RoutedRule]]],
    namespace: str,
    problems: list[Problem],
) -> Customers:
    """Of the documents that one sidecar sees, or of a namespace's as a whole."""
    purposes: dict[str, tuple[Document, ConsentPurpose]] = {}
    attributes: dict[str, tuple[Document, ProfileAttribute]] = {}
    identity: CompiledIdentity | None = None
    for document in sorted(documents, key=order_key):
        spec = document.spec
        if isinstance(spec, ConsentPurpose):
            _check_purpose(document, spec, problems)
            _once(purposes, document.name, document, spec, "metadata.name", problems)
        elif isinstance(spec, ProfileAttribute):
            _check_attribute(document, spec, documents, problems)
            name = spec.attribute or document.name
            pointer = "spec.attribute" if spec.attribute else "metadata.name"
            _once(attributes, name, document, spec, pointer, problems)
        elif isinstance(spec, IdentityPolicy):
            compiled = compile_identity(document, spec, problems)
            identity = identity or compiled
            _check_believed(document, spec, documents, problems)
    for document, purpose in purposes.values():
        for place, name in enumerate(purpose.attributes):
            if name not in attributes:
                report(
                    problems, document, f"spec.attributes[{place}]",
                    f"there is no ProfileAttribute {name!r}",
                    hint=f"known: {', '.join(sorted(attributes)) or 'none'}",
                )  # fmt: skip
            elif attributes[name][0].namespace == PLATFORM != document.namespace:
                report(
                    problems, document, f"spec.attributes[{place}]",
                    f"{name} is platform's, so only platform says who may see it",
                )  # fmt: skip
    _check_uses(policies, purposes, attributes, problems)
    journey = Journey(
        namespace,
        {name: _purpose(document, spec) for name, (document, spec) in purposes.items()},
        {name: _attribute(name, document, spec) for name, (document, spec) in attributes.items()},
        identity,
    )
    return Customers(journey, _redactions(purposes, attributes, problems))


def _once(
    found: dict[str, tuple[Document, S]],
    name: str,
    document: Document,
    spec: S,
    pointer: str,
    problems: list[Problem],
) -> None:
    first, _ = found.setdefault(name, (document, spec))
    if first is not document:
        report(
            problems, document, pointer, f"{first.ref} already has this name",
            hint="rules name it without a namespace; choose another name",
        )  # fmt: skip


def _purpose(document: Document, spec: ConsentPurpose) -> Purpose:
    lives = [seconds(each) for each in (spec.expires, spec.review_every) if each is not None]
    return Purpose(
        document.name, ref_of(document), spec.version, min(lives, default=inf), spec.max_uses
    )


def ref_of(document: Document) -> str:
    """What the store of customers knows a purpose, or an attribute, by."""
    spec = document.spec
    name = spec.attribute if isinstance(spec, ProfileAttribute) else None
    return f"{document.namespace}/{name or document.name}"


def _attribute(name: str, document: Document, spec: ProfileAttribute) -> Attribute:
    enricher = ("", "") if spec.enricher is None else (spec.enricher.name, spec.enricher.member)
    return Attribute(
        name, ref_of(document), tuple([_from_claim(values_of(each)) for each in spec.claims]),
        enricher, inf if spec.retention is None else seconds(spec.retention),
    )  # fmt: skip


def _from_claim(source: ClaimSource) -> FromClaim:
    return FromClaim(
        tuple(source.claim.split(".")), frozenset(source.issuers),
        tuple(source.verified_by.split(".")) if source.verified_by else (),
    )  # fmt: skip


def compile_identity(
    document: Document, spec: IdentityPolicy, problems: list[Problem]
) -> CompiledIdentity:
    identifiers: list[IdentifierRule] = []
    for place, source in enumerate(spec.identifiers):
        pointer = f"spec.identifiers[{place}].type"
        if not _TYPE.fullmatch(source.type) or source.type in _OURS:
            report(
                problems, document, pointer, f"{source.type!r} is not a type of identifier",
                hint="issuer and subject always come first; name others: email, account, device",
            )  # fmt: skip
        if any(source.type == earlier.type for earlier in identifiers):
            report(problems, document, pointer, f"{source.type} is named twice")
        identifiers.append(IdentifierRule(source.type, _identifying(source), source.links))
    half_life = seconds(spec.risk.half_life)
    if not 1 <= half_life <= 3650 * 86_400:
        report(problems, document, "spec.risk.halfLife", f"{spec.risk.half_life} is not from 1s")
    return CompiledIdentity(
        f"{document.namespace}/{document.name}", f"{document.namespace}/{document.name}",
        tuple(identifiers), spec.anonymous == "merge", _visitor(document, spec, problems),
        half_life, dict(spec.risk.signals),
    )  # fmt: skip


def _check_believed(
    document: Document,
    spec: IdentityPolicy,
    documents: Sequence[Document],
    problems: list[Problem],
) -> None:
    """What joins customers is believed of each issuer, unless it is said of which."""
    issuers = [each for each in documents if isinstance(each.spec, TokenIssuer)]
    if len(issuers) < 2:
        return
    problems.extend(
        problem_at(
            document, f"spec.identifiers[{place}].issuers",
            f"{source.type} is believed of all {len(issuers)} issuers: whoever makes one of them "
            "say somebody's becomes that customer",
            hint="name those that check it: issuers: [...]", warning=True, code="any-issuer",
        )
        for place, source in enumerate(spec.identifiers)
        if source.links and not source.issuers
    )  # fmt: skip


def _identifying(source: IdentifierSource) -> FromClaim:
    true = verified_by(source.type, source.verified_by)
    return FromClaim(
        tuple(source.claim.split(".")), frozenset(source.issuers),
        tuple(true.split(".")) if true else (),
    )  # fmt: skip


def _visitor(document: Document, spec: IdentityPolicy, problems: list[Problem]) -> VisitorTerms:
    visitor = spec.visitor
    secure = not visitor.insecure_cookie
    if not _COOKIE.fullmatch(visitor.cookie):
        report(problems, document, "spec.visitor.cookie", f"{visitor.cookie!r} is no cookie name")
    if not secure and visitor.cookie.startswith(("__Host-", "__Secure-")):
        report(
            problems, document, "spec.visitor.cookie",
            f"browsers take {visitor.cookie} over TLS only", hint="name it without the prefix",
        )  # fmt: skip
    max_age = seconds(visitor.max_age)
    if not 60 <= max_age <= LONGEST_COOKIE:
        report(
            problems, document, "spec.visitor.maxAge", f"{visitor.max_age} is not from 1m to 400d"
        )
    return VisitorTerms(visitor.cookie, int(max_age), secure)


def _check_purpose(document: Document, spec: ConsentPurpose, problems: list[Problem]) -> None:
    _check_languages(document, spec.words, problems)
    for field, pointer in (("expires", "expires"), ("review_every", "reviewEvery")):
        text = getattr(spec, field)
        if text is not None and seconds(text) < 1:
            report(problems, document, f"spec.{pointer}", f"{text} is over at once")
    if spec.attributes and spec.max_uses is not None:
        report(
            problems, document, "spec.maxUses", "with attributes, every response would be a use",
            hint="two purposes: one for the attributes, one that is counted",
        )  # fmt: skip


def _check_languages(
    document: Document, words: Mapping[str, object], problems: list[Problem]
) -> None:
    for language in words:
        if not _LANGUAGE.fullmatch(language):
            report(
                problems, document, f"spec.words.{language}", f"{language!r} is no language tag",
                hint="BCP 47, such as en, de or pt-BR",
            )  # fmt: skip


def _check_attribute(
    document: Document,
    spec: ProfileAttribute,
    documents: Sequence[Document],
    problems: list[Problem],
) -> None:
    _check_languages(document, spec.words, problems)
    name = spec.attribute or document.name
    if not _NAME.fullmatch(name):
        report(problems, document, "spec.attribute", f"{name!r} is not an attribute's name")
    if (spec.type == "choice") != bool(spec.choices):
        report(
            problems, document, "spec.choices",
            "a choice has some, and nothing else has any", hint="type: choice, choices: [a, b]",
        )  # fmt: skip
    check = spec.validation
    textual = spec.type in ("text", "email", "phone")
    numeric = spec.type in ("number", "integer")
    for field, pointer, fits in (
        ("pattern", "pattern", textual), ("min_length", "minLength", textual),
        ("max_length", "maxLength", textual), ("minimum", "minimum", numeric),
        ("maximum", "maximum", numeric),
    ):  # fmt: skip
        if getattr(check, field) is not None and not fits:
            report(problems, document, f"spec.validation.{pointer}", f"says nothing of {spec.type}")
    for low, high, pointer in (
        (check.min_length, check.max_length, "maxLength"),
        (check.minimum, check.maximum, "maximum"),
    ):  # fmt: skip
        if low is not None and high is not None and low > high:
            report(
                problems, document, f"spec.validation.{pointer}", f"no answer is from {low:g} to "
                f"{high:g}, so nobody could go on",
            )  # fmt: skip
    if spec.retention is not None and seconds(spec.retention) < 1:
        report(problems, document, "spec.retention", f"{spec.retention} is over at once")
    for language, said in spec.words.items():
        for choice in said.choices.keys() - set(spec.choices):
            report(
                problems, document, f"spec.words.{language}.choices.{choice}",
                f"{choice!r} is not one of its choices",
                hint=f"known: {', '.join(spec.choices) or 'none'}",
            )  # fmt: skip
    if check.pattern is not None:
        try:
            re2.compile(check.pattern)
        except re2.error as error:
            report(problems, document, "spec.validation.pattern", f"is no RE2 expression: {error}")
    if spec.enricher is not None:
        asked = next(
            (each.spec for each in documents
             if isinstance(each.spec, Enricher) and each.name == spec.enricher.name), None,
        )  # fmt: skip
        if asked is None:
            report(
                problems, document, "spec.enricher.name",
                f"there is no Enricher {spec.enricher.name!r}",
            )  # fmt: skip
        elif any("request.params" in source for source in asked.parameters.values()):
            report(
                problems, document, "spec.enricher.name",
                f"{spec.enricher.name} is asked with parameters of a path: an attribute has none",
                hint="let it be asked with token.sub, or another claim",
            )  # fmt: skip
        elif spec.enricher.member not in asked.type:
            report(
                problems, document, "spec.enricher.member",
                f"{spec.enricher.member!r} is not in its type",
                hint=f"known: {', '.join(asked.type)}",
            )  # fmt: skip


def _check_uses(
    policies: Iterable[tuple[Document, list[RoutedRule]]],
    purposes: Mapping[str, object],
    attributes: Mapping[str, object],
    problems: list[Problem],
) -> None:
    """Once there are documents of a kind, a name without one is most likely a slip."""
    for document, rules in policies if purposes or attributes else ():
        for place, routed in enumerate(rules):
            require = routed.rule.require
            asked = [*require.consent, *[each.purpose for each in require.transactions]]
            for kind, field, names, known in (
                ("ConsentPurpose", "consent", asked, purposes),
                ("ProfileAttribute", "profile", require.profile, attributes),
            ):
                problems.extend(
                    problem_at(
                        document, f"spec.rules[{place}].require.{field}",
                        f"there is no {kind} {name!r}",
                        hint="nobody can be asked for it", warning=True,
                        code="unknown-purpose" if field == "consent" else "unknown-attribute",
                    )
                    for name in names
                    if known and name not in known
                )  # fmt: skip


def _redactions(
    purposes: Mapping[str, tuple[Document, ConsentPurpose]],
    attributes: Mapping[str, tuple[Document, ProfileAttribute]],
    problems: list[Problem],
) -> tuple[RedactRule, ...]:
    """What is cut out of responses for whom no purpose that covers it is granted."""
    found: list[RedactRule] = []
    for name, (document, spec) in attributes.items():
        if not spec.responses:
            continue
        covering = [purpose for purpose, (_, each) in purposes.items() if name in each.attributes]
        program = None  # covered by no purpose: there is nobody who has consented to see it
        if covering:
            unless = " || ".join([f"'{purpose}' in subject.consents" for purpose in covering])
            program = expression(document, unless, "spec.responses", "boolean", set(), problems)
        else:
            problems.append(
                problem_at(
                    document, "spec.responses",
                    "no ConsentPurpose covers it: it is cut out of all responses",
                    hint="name it in the attributes of a purpose, or leave `responses` out",
                    warning=True, code="never-shown",
                )
            )  # fmt: skip
        drop = [Redact(drop=spec.responses)]
        cut = compile_redact(document, drop, "spec.responses", problems, _no_expression)
        found += [RedactRule(each.redaction, program) for each in cut]
    return tuple(found)


def _no_expression(source: str, pointer: str) -> None:
    return None
