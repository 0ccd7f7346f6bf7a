"""Documents -> Snapshot, or every mistake with file, line and column.

`validate` looks at all documents of a namespace together; `compile_snapshot` takes what one sidecar
sees of them (its namespace and `platform`, selected by its labels) and builds what it decides with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.cache import footprints
from sidecar.decide.compile_credentials import (
    check_issuers_unique,
    check_keys_unique,
    compile_issuer,
    compile_key,
)
from sidecar.decide.compile_facts import compile_facts
from sidecar.decide.compile_introspection import check_disjoint, compile_introspection
from sidecar.decide.compile_journey import compile_journey
from sidecar.decide.compile_policy import RoutedRule, compile_policy, redacting
from sidecar.decide.compile_service import compile_service
from sidecar.decide.documents import (
    PLATFORM,
    AccessPolicy,
    ApiKey,
    Document,
    IdentityPolicy,
    ProtectedService,
    Spec,
    TokenIssuer,
    order_key,
    selects,
)
from sidecar.decide.enrichment import CompiledEnricher
from sidecar.decide.introspection import Introspector
from sidecar.decide.journey import Journey
from sidecar.decide.pace import pause
from sidecar.decide.problems import problem_at, report
from sidecar.decide.routes import Route, RouteIndex
from sidecar.decide.snapshot import NO_SERVICE, CompiledRule, Service, Snapshot
from sidecar.errors import DocumentsInvalid, Problem

S = TypeVar("S", bound=Spec)


def validate(documents: Sequence[Document]) -> list[Problem]:
    """Problems and warnings of one namespace's documents (with `platform`'s) as a whole."""
    problems: list[Problem] = []
    policies = [(document, _check_alone(document, problems)) for document in documents]
    issuers = _of(documents, TokenIssuer)
    services = _of(documents, ProtectedService)
    keys = _of(documents, ApiKey)
    check_issuers_unique(issuers, problems)
    check_keys_unique(keys, problems)
    check_disjoint(_introspectors(issuers, frozenset(), []), keys, problems)
    _check_audiences(issuers, services, problems)
    _check_first(documents, ProtectedService, problems)
    ruled = [(each, rules) for each, rules in policies if rules]
    compile_facts(documents, ruled, problems)
    compile_journey(documents, ruled, "", problems)
    _check_first(documents, IdentityPolicy, problems)
    return problems


def check_each(documents: Sequence[Document]) -> list[Problem]:
    """Problems of documents by themselves, whatever others there are."""
    problems: list[Problem] = []
    for document in documents:
        _check_alone(document, problems)
    return problems


def compile_snapshot(
    documents: Sequence[Document],
    *,
    namespace: str,
    labels: Mapping[str, str],
    version: str = "",
) -> Snapshot:
    """What a sidecar of `namespace` with `labels` decides with. Raises DocumentsInvalid."""
    seen = sorted(
        (
            document
            for document in documents
            if document.namespace in (PLATFORM, namespace) and selects(document.selector, labels)
        ),
        key=order_key,
    )
    problems: list[Problem] = []
    policies = []
    for document in seen:
        pause()
        policies.append((document, compile_policy(document, problems)))
    routed = [rule for _, rules in policies for rule in rules]
    services = _of(seen, ProtectedService)
    service, audiences = NO_SERVICE, frozenset[str]()
    if services:
        document, spec = services[0]
        service, audiences = compile_service(document, spec, problems), frozenset(spec.audiences)
    issuer_specs, key_specs = _of(seen, TokenIssuer), _of(seen, ApiKey)
    check_issuers_unique(issuer_specs, problems)
    check_keys_unique(key_specs, problems)
    issuers = [compile_issuer(*each, audiences, problems) for each in issuer_specs]
    keys = [compile_key(*each, problems) for each in key_specs]
    introspectors = _introspectors(issuer_specs, audiences, problems)
    check_disjoint(introspectors, key_specs, problems)
    pause()
    facts = compile_facts(seen, policies, problems)
    customers = compile_journey(seen, policies, namespace, problems)
    if customers.redact:
        routed.insert(0, redacting(namespace, customers.redact))
    errors = [problem for problem in problems if not problem.warning]
    if errors:
        raise DocumentsInvalid(errors)
    routes: list[Route[CompiledRule]] = []
    rule_headers: set[str] = set()
    for order, each in enumerate(routed):
        pause()
        rule = each.rule
        routes.append(
            Route(order, rule, each.patterns, each.methods, each.hosts, rule.effect != "allow")
        )
        if not rule.shadow:
            rule_headers.update([name for name, _ in rule.set_headers])
    digest = hashlib.sha256("\n".join(f"{d.ref} {d.digest}" for d in seen).encode())
    trust = hashlib.sha256(
        "\n".join(f"{d.ref} {d.digest}" for d, _ in issuer_specs).encode()
        + b"|"
        + "\n".join(sorted(audiences)).encode()
    )
    return Snapshot(
        version=version or digest.hexdigest()[:12],
        namespace=namespace,
        labels=dict(labels),
        digest=digest.hexdigest(),
        trust=trust.digest()[:8],
        service=service,
        issuers={issuer.issuer: issuer for issuer in issuers if issuer is not None},
        api_keys=dict(key for key in keys if key is not None),
        introspectors=tuple(introspector for _, introspector in introspectors),
        routes=RouteIndex.build(routes),
        rule_headers=frozenset(rule_headers),
        headers_read=_headers_read(routed, service, facts.enrichers, customers.journey),
        documents=len(seen),
        rules=len(routes),
        segments=facts.segments,
        enrichers=facts.enrichers,
        journey=customers.journey,
        vouchers={
            **{(spec.issuer, ""): document.labels for document, spec in issuer_specs},
            **{(API_KEYS, spec.id): document.labels for document, spec in key_specs},
        },
    )


def _headers_read(
    rules: Iterable[RoutedRule],
    service: Service,
    enrichers: Mapping[str, CompiledEnricher],
    journey: Journey,
) -> frozenset[str] | None:
    """Of the request: by an expression of some rule, or as the place of a credential."""
    read = {location.name.decode("ascii") for location in service.credentials}
    if journey.identity is not None:
        read.add("cookie")  # of visitors
    for each in rules:
        pause()
        for footprint in footprints(each.rule, enrichers):
            if "request.headers" not in footprint:
                continue
            keys = footprint["request.headers"]
            if keys is None:
                return None
            read |= keys
    return frozenset(read)


_SECOND: Final = {"ProtectedService": "second-service", "IdentityPolicy": "second-identity"}


# One document.


def _check_alone(document: Document, problems: list[Problem]) -> list[RoutedRule]:
    pause()
    match document.spec:
        case AccessPolicy():
            return compile_policy(document, problems)
        case TokenIssuer() as spec:
            issuer = compile_issuer(document, spec, frozenset(), problems)
            if issuer is not None:
                compile_introspection(document, spec, issuer, problems)
        case ApiKey() as spec:
            compile_key(document, spec, problems)
        case ProtectedService() as spec:
            compile_service(document, spec, problems)
    return []


# Documents together.


def _of(documents: Iterable[Document], kind: type[S]) -> list[tuple[Document, S]]:
    """Those of one kind, each with what it says."""
    return [(each, each.spec) for each in documents if isinstance(each.spec, kind)]


def _introspectors(
    issuers: Sequence[tuple[Document, TokenIssuer]],
    audiences: frozenset[str],
    problems: list[Problem],
) -> list[tuple[Document, Introspector]]:
    """Those who are asked about opaque tokens. What else is wrong with them is reported already."""
    found = []
    for document, spec in issuers:
        if spec.introspection is None:
            continue
        issuer = compile_issuer(document, spec, audiences, [])
        if issuer is None:
            continue
        introspector = compile_introspection(document, spec, issuer, problems)
        if introspector is not None:
            found.append((document, introspector))
    return found


def _check_audiences(
    issuers: Sequence[tuple[Document, TokenIssuer]],
    services: Sequence[tuple[Document, ProtectedService]],
    problems: list[Problem],
) -> None:
    lacking = [document for document, spec in services if not spec.audiences]
    if services and not lacking:
        return
    for document, spec in issuers:
        if not spec.audiences:
            who = f"{lacking[0].ref} names none either" if lacking else "no service names any"
            report(
                problems, document, "spec", f"no audience: {who}",
                hint="a token must name an audience; set audiences here or on the service",
            )  # fmt: skip


def _check_first(
    documents: Sequence[Document],
    kind: type[ProtectedService] | type[IdentityPolicy],
    problems: list[Problem],
) -> None:
    """Of these a sidecar goes by the first one."""
    ordered = sorted([each for each in documents if isinstance(each.spec, kind)], key=order_key)
    for place, document in enumerate(ordered):
        for earlier in ordered[:place]:
            if _overlap(earlier.selector, document.selector):
                problems.append(
                    problem_at(
                        document,
                        "spec.selector",
                        f"{earlier.ref} comes first for sidecars that both select",
                        hint="make the selectors disjoint",
                        warning=True,
                        code=_SECOND[document.kind],
                    )
                )
                break


def _overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(other.get(key, value) == value for key, value in one.items())
