"""Documents -> Snapshot, or every mistake with file, line and column.

`validate` looks at all documents of a namespace together; `compile_snapshot` takes what one sidecar
sees of them (its namespace and `platform`, selected by its labels) and builds what it decides with.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from sidecar.decide import api_keys
from sidecar.decide.compile_policy import RoutedRule, compile_policy
from sidecar.decide.cors import ANY, Cors
from sidecar.decide.credentials import Location
from sidecar.decide.documents import (
    PLATFORM,
    AccessPolicy,
    ApiKey,
    Document,
    ProtectedService,
    TokenIssuer,
    seconds,
    selects,
)
from sidecar.decide.documents import Cors as CorsSpec
from sidecar.decide.keys import KeySet, parse_jwks, private_members
from sidecar.decide.parse import problem_at, report
from sidecar.decide.rates import Rate
from sidecar.decide.routes import Route, RouteIndex
from sidecar.decide.snapshot import NO_SERVICE, Service, Snapshot
from sidecar.decide.tokens import Issuer
from sidecar.errors import DocumentsInvalid, Problem

MAX_SKEW: Final = 600.0
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)
_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
# Doors remove or read these before anybody decides.
_NEVER_SEEN: Final = ("x-sidecar-", "x-forwarded-")
_FRAMING: Final = frozenset(
    ("cookie", "host", "connection", "content-length", "transfer-encoding", "expect", "forwarded")
)
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{4,64}")
_KEY_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


def order_key(document: Document) -> tuple[bool, str, str]:
    """Order wherever order matters: `platform` first, then namespace and name."""
    return document.namespace != PLATFORM, document.namespace, document.name


def validate(documents: Sequence[Document]) -> list[Problem]:
    """Problems and warnings of one namespace's documents (with `platform`'s) as a whole."""
    problems: list[Problem] = []
    policies = [(document, _check_alone(document, problems)) for document in documents]
    _warn_of_headers_set_by_rules(policies, problems)
    issuers = [d for d in documents if isinstance(d.spec, TokenIssuer)]
    services = [d for d in documents if isinstance(d.spec, ProtectedService)]
    _check_issuers_unique(issuers, problems)
    _check_audiences(issuers, services, problems)
    _check_keys_unique([d for d in documents if isinstance(d.spec, ApiKey)], problems)
    _check_services(services, problems)
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
    routed = [rule for document in seen for rule in compile_policy(document, problems)]
    issuer_documents = [d for d in seen if isinstance(d.spec, TokenIssuer)]
    _check_issuers_unique(issuer_documents, problems)
    services = [d for d in seen if isinstance(d.spec, ProtectedService)]
    service = _service(services[0], problems) if services else NO_SERVICE
    audiences = _audiences(services)
    issuers = {
        issuer.issuer: issuer
        for document in issuer_documents
        if (issuer := _issuer(document, audiences, problems)) is not None
    }
    key_documents = [d for d in seen if isinstance(d.spec, ApiKey)]
    _check_keys_unique(key_documents, problems)
    keys = dict(entry for d in key_documents if (entry := _api_key(d, problems)) is not None)
    errors = [problem for problem in problems if not problem.warning]
    if errors:
        raise DocumentsInvalid(errors)
    routes = [
        Route(
            order, each.rule, each.patterns, each.methods, each.hosts, each.rule.effect != "allow"
        )
        for order, each in enumerate(routed)
    ]
    digest = hashlib.sha256("\n".join(f"{d.ref} {d.digest}" for d in seen).encode())
    trust = hashlib.sha256(
        "\n".join(f"{d.ref} {d.digest}" for d in issuer_documents).encode()
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
        issuers=issuers,
        api_keys=keys,
        routes=RouteIndex.build(routes),
        rule_headers=frozenset(name for route in routes for name, _ in route.rule.set_headers),
        headers_read=_headers_read(routed, service),
        documents=len(seen),
        rules=len(routes),
    )


def _headers_read(rules: Iterable[RoutedRule], service: Service) -> frozenset[str] | None:
    """Of the request: by an expression of some rule, or as the place of a credential."""
    read = {location.name.decode("ascii") for location in service.credentials}
    for each in rules:
        rule = each.rule
        for program in (rule.when, *(program for _, program in rule.set_headers)):
            if program is None or "request.headers" not in program.footprint:
                continue
            keys = program.footprint["request.headers"]
            if keys is None:
                return None
            read |= keys
    return frozenset(read)


# One document.


def _check_alone(document: Document, problems: list[Problem]) -> list[RoutedRule]:
    match document.spec:
        case AccessPolicy():
            return compile_policy(document, problems)
        case TokenIssuer():
            _issuer(document, frozenset(), problems)
        case ApiKey():
            _api_key(document, problems)
        case ProtectedService():
            _service(document, problems)
    return []


def _issuer(
    document: Document, audiences: frozenset[str], problems: list[Problem]
) -> Issuer | None:
    spec = document.spec
    assert isinstance(spec, TokenIssuer)  # noqa: S101
    before = len(problems)
    if spec.issuer == api_keys.ISSUER:
        report(
            problems, document, "spec.issuer", f"{spec.issuer!r} is what stands for API keys",
            hint="no token can be of it; write the `iss` of your tokens",
        )  # fmt: skip
    skew = seconds(spec.clock_skew)
    if skew > MAX_SKEW:
        report(problems, document, "spec.clockSkew", "more than 10m of clock skew")
    keys: KeySet | None = None
    uri: str | None = None
    source = spec.jwks
    if source is not None:
        given = [name for name in ("uri", "file", "inline") if getattr(source, name) is not None]
        if len(given) != 1:
            report(
                problems, document, "spec.jwks", "exactly one of uri, file and inline is expected"
            )
        elif source.file is not None:
            report(
                problems, document, "spec.jwks.file", "the file was not read",
                hint="files are read by the client that applies; send `inline` instead",
            )  # fmt: skip
        elif source.inline is not None:
            private = private_members(source.inline)
            if private:
                report(
                    problems, document, "spec.jwks.inline",
                    f"holds private key material ({private})",
                    hint="publish public keys only: whoever reads a private one can sign tokens",
                )  # fmt: skip
            try:
                keys = parse_jwks(source.inline)
            except ValueError as error:
                report(problems, document, "spec.jwks.inline", str(error))
        else:
            uri = source.uri
            _check_address(document, "spec.jwks.uri", source.uri or "", problems)
    else:
        _check_address(
            document, "spec.issuer", spec.issuer, problems, why=" for discovery; or give `jwks`"
        )
    if len(problems) > before:
        return None
    return Issuer(
        name=f"{document.namespace}/{document.name}",
        issuer=spec.issuer,
        audiences=audiences or frozenset(spec.audiences),
        algorithms=frozenset(spec.algorithms),
        token_types=frozenset(
            kind.lower().removeprefix("application/") for kind in spec.token_types
        ),
        skew=skew,
        subject=spec.claims.subject,
        scopes=spec.claims.scopes,
        keys=keys,
        jwks_uri=uri,
    )


def _api_key(document: Document, problems: list[Problem]) -> tuple[bytes, api_keys.ApiKey] | None:
    """The key by its id."""
    spec = document.spec
    assert isinstance(spec, ApiKey)  # noqa: S101
    before = len(problems)
    if not _KEY_ID.fullmatch(spec.id):
        report(
            problems, document, "spec.id", f"{spec.id!r} is not an id",
            hint="4 to 64 letters, digits, - and _",
        )  # fmt: skip
    if not _KEY_HASH.fullmatch(spec.hash):  # never quoted: it may be the secret itself
        report(
            problems, document, "spec.hash", "not the hash of a secret",
            hint="write sha256: and the SHA-256 of the secret in 64 lower-case digits",
        )  # fmt: skip
    expires = math.inf
    if spec.expires is not None:
        try:
            expires = api_keys.expiry(spec.expires)
        except ValueError:
            report(
                problems, document, "spec.expires", f"{spec.expires!r} is not a moment",
                hint="write 2027-01-31T00:00:00Z",
            )  # fmt: skip
    for place, scope in enumerate(spec.scopes):
        if " " in scope:
            report(problems, document, f"spec.scopes[{place}]", f"{scope!r} holds a space")
    for name in spec.attributes:
        if name in api_keys.RESERVED:
            report(
                problems, document, f"spec.attributes.{name}", f"{name!r} is said elsewhere",
                hint="sub is spec.subject, scope is spec.scopes, exp is spec.expires",
            )  # fmt: skip
    if len(problems) > before:
        return None
    digest = bytes.fromhex(spec.hash.removeprefix("sha256:"))
    subject = spec.id if spec.subject is None else spec.subject
    scopes = tuple(dict.fromkeys(spec.scopes))
    key = api_keys.ApiKey(digest, subject, scopes, spec.attributes, expires)
    return spec.id.encode("ascii"), key


def _check_address(
    document: Document, pointer: str, address: str, problems: list[Problem], why: str = ""
) -> None:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or port == 0 or parts.username is not None or parts.fragment:
        report(problems, document, pointer, f"{address!r} is not an https address{why}")
    elif parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        report(
            problems, document, pointer, f"an https address is expected{why}",
            hint="http is admitted on loopback only: keys fetched over it can be forged on the way",
        )  # fmt: skip


def _service(document: Document, problems: list[Problem]) -> Service:
    spec = document.spec
    assert isinstance(spec, ProtectedService)  # noqa: S101
    locations: list[Location] = []
    for place, location in enumerate(spec.credentials):
        pointer = f"spec.credentials[{place}]"
        if (location.header is None) == (location.cookie is None):
            report(problems, document, pointer, "exactly one of header and cookie is expected")
        elif location.header is not None:
            lower = location.header.lower()
            if not _HEADER.fullmatch(lower) or lower.startswith(_NEVER_SEEN) or lower in _FRAMING:
                report(problems, document, pointer, f"{location.header!r} cannot be used here")
            locations.append(Location(location.header.lower().encode("ascii", "replace")))
        elif location.cookie is not None:
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+", location.cookie):
                report(problems, document, pointer, f"{location.cookie!r} is not a cookie name")
            locations.append(Location(location.cookie.encode("ascii", "replace"), cookie=True))
    limits = spec.limits
    return Service(
        name=document.name,
        observe=spec.mode == "observe",
        credentials=tuple(locations),
        cors=_cors(document, spec.cors, problems) if spec.cors is not None else None,
        per_address=Rate.parse(limits.per_address) if limits.per_address is not None else None,
        failed_credentials=Rate.parse(limits.failed_credentials, units=20),
    )


def _cors(document: Document, spec: CorsSpec, problems: list[Problem]) -> Cors:
    for place, origin in enumerate(spec.origins):
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            report(
                problems, document, f"spec.cors.origins[{place}]", f"{origin!r} is not an origin",
                hint="scheme and host as browsers send them: https://app.example, no path",
            )  # fmt: skip
    if spec.credentials and ANY in spec.origins:
        report(
            problems, document, "spec.cors.credentials", "not with the origin *",
            hint="any page could then act as its visitor; name the origins",
        )  # fmt: skip
    for field in ("headers", "expose_headers"):
        for place, name in enumerate(getattr(spec, field)):
            if not _HEADER.fullmatch(name):
                pointer = f"spec.cors.{'headers' if field == 'headers' else 'exposeHeaders'}"
                report(problems, document, f"{pointer}[{place}]", f"{name!r} is not a header name")
    for place, method in enumerate(spec.methods):
        if not _METHOD.fullmatch(method):
            report(problems, document, f"spec.cors.methods[{place}]", f"{method!r} is no method")
    return Cors(
        frozenset(spec.origins),
        tuple(spec.methods),
        frozenset(name.lower() for name in spec.headers),
        tuple(name.lower() for name in spec.expose_headers),
        spec.credentials,
        int(seconds(spec.max_age)),
    )


# Documents together.


def _audiences(services: Sequence[Document]) -> frozenset[str]:
    if not services:
        return frozenset()
    spec = services[0].spec
    assert isinstance(spec, ProtectedService)  # noqa: S101
    return frozenset(spec.audiences)


def _check_issuers_unique(issuers: Iterable[Document], problems: list[Problem]) -> None:
    first: dict[str, Document] = {}
    for document in sorted(issuers, key=order_key):
        spec = document.spec
        assert isinstance(spec, TokenIssuer)  # noqa: S101
        other = first.setdefault(spec.issuer, document)
        if other is not document:
            report(
                problems, document, "spec.issuer",
                f"{other.ref} already stands for the issuer {spec.issuer}",
                hint="one TokenIssuer for each `iss` that a sidecar sees",
            )  # fmt: skip


def _check_keys_unique(keys: Iterable[Document], problems: list[Problem]) -> None:
    first: dict[str, Document] = {}
    for document in sorted(keys, key=order_key):
        spec = document.spec
        assert isinstance(spec, ApiKey)  # noqa: S101
        other = first.setdefault(spec.id, document)
        if other is not document:
            report(
                problems, document, "spec.id", f"{other.ref} already has the id {spec.id!r}",
                hint="to let two secrets stand for one caller, give two ids one subject",
            )  # fmt: skip


def _check_audiences(
    issuers: Sequence[Document], services: Sequence[Document], problems: list[Problem]
) -> None:
    lacking = [d for d in services if isinstance(d.spec, ProtectedService) and not d.spec.audiences]
    if services and not lacking:
        return
    for document in issuers:
        if isinstance(document.spec, TokenIssuer) and not document.spec.audiences:
            who = f"{lacking[0].ref} names none either" if lacking else "no service names any"
            report(
                problems, document, "spec", f"no audience: {who}",
                hint="a token must name an audience; set audiences here or on the service",
            )  # fmt: skip


def _warn_of_headers_set_by_rules(
    policies: Sequence[tuple[Document, list[RoutedRule]]], problems: list[Problem]
) -> None:
    """Such a header is never forwarded as the caller sent it, and yet a rule would go by that."""
    set_by_rules = {
        name for _, rules in policies for at in rules for name, _ in at.rule.set_headers
    }
    for document, rules in policies:
        for place, at in enumerate(rules):
            reads = at.rule.when.footprint.get("request.headers") if at.rule.when else None
            problems.extend(
                problem_at(
                    document,
                    f"spec.rules[{place}].when",
                    f"request.headers[{name!r}] is set by a rule: this reads what callers claim",
                    hint="decide on what the setting rule decided on",
                    warning=True,
                )
                for name in sorted((reads or frozenset()) & set_by_rules)
            )


def _check_services(services: Sequence[Document], problems: list[Problem]) -> None:
    ordered = sorted(services, key=order_key)
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
                    )
                )
                break


def _overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(other.get(key, value) == value for key, value in one.items())
