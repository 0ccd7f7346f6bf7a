"""A ProtectedService -> what holds for every request to it, with every mistake in it."""

from __future__ import annotations

import re
from typing import Final

from sidecar.decide.compile_credentials import check_address
from sidecar.decide.cors import ANY, Cors
from sidecar.decide.credentials import Location
from sidecar.decide.documents import (
    PLATFORM,
    Assertion,
    Document,
    Interaction,
    ProtectedService,
    seconds,
    size,
)
from sidecar.decide.documents import Cors as CorsSpec
from sidecar.decide.documents import Dpop as DpopSpec
from sidecar.decide.documents import Friction as FrictionSpec
from sidecar.decide.dpop import LONGEST_WINDOW, Dpop
from sidecar.decide.problems import report
from sidecar.decide.rates import Rate
from sidecar.decide.snapshot import NO_DPOP, AssertionTerms, Friction, Service
from sidecar.errors import Problem

MAX_BODY: Final = 1024 * 1024  # what is read of it is read in one go, while others wait
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)
_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
# Doors remove or read these before anybody decides.
_NEVER_SEEN: Final = ("x-sidecar-", "x-forwarded-")
_FRAMING: Final = frozenset(
    (
        "cookie", "host", "connection", "content-length", "transfer-encoding", "expect",
        "forwarded", "dpop",
    )
)  # fmt: skip


def compile_service(document: Document, spec: ProtectedService, problems: list[Problem]) -> Service:
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
    body = size(limits.body)
    if not 1 <= body <= MAX_BODY:
        report(problems, document, "spec.limits.body", f"{limits.body} is not from 1B to 1MiB")
    return Service(
        name=document.name,
        observe=spec.mode == "observe",
        observes_platform=document.namespace == PLATFORM,
        credentials=tuple(locations),
        cors=_cors(document, spec.cors, problems) if spec.cors is not None else None,
        per_address=Rate.parse(limits.per_address) if limits.per_address is not None else None,
        failed_credentials=Rate.parse(limits.failed_credentials, units=20),
        assertion=_assertion(document, spec.assertion, problems),
        remove_credential=spec.remove_credential,
        dpop=_dpop(document, spec.dpop, problems) if spec.dpop is not None else NO_DPOP,
        body=body,
        friction=_friction(spec.friction),
        logs_inputs=spec.decision_log.inputs == "read",
        interaction=_interaction(document, spec.interaction, problems),
        login=_login(document, spec.interaction, problems),
    )


def _friction(spec: FrictionSpec) -> Friction:
    return Friction(spec.scope, spec.proof, spec.consent, spec.profile, spec.step_up)


def _interaction(document: Document, spec: Interaction | None, problems: list[Problem]) -> str:
    if spec is None:
        return ""
    return _place(document, "spec.interaction.url", spec.url, problems)


def _login(document: Document, spec: Interaction | None, problems: list[Problem]) -> str:
    if spec is None or spec.login is None:
        return ""
    return _place(document, "spec.interaction.login", spec.login, problems)


def _place(document: Document, pointer: str, url: str, problems: list[Problem]) -> str:
    check_address(document, pointer, url, problems)
    if not url.isascii() or "?" in url:
        report(
            problems, document, pointer, "no query, and ASCII only",
            hint="what is asked for is said in the query",
        )  # fmt: skip
    return url


def _dpop(document: Document, spec: DpopSpec, problems: list[Problem]) -> Dpop:
    max_age = seconds(spec.max_age)
    if not 1 <= max_age <= LONGEST_WINDOW:
        report(
            problems, document, "spec.dpop.maxAge", f"{spec.max_age} is not from 1s to 5m",
            hint="a proof that was overheard may be tried for as long as this",
        )  # fmt: skip
    algorithms = dict.fromkeys(spec.algorithms)
    return Dpop(
        frozenset(algorithms), max_age, spec.nonce == "required", True, " ".join(algorithms)
    )


def _assertion(
    document: Document, spec: Assertion | None, problems: list[Problem]
) -> AssertionTerms | None:
    if spec is None:
        return None
    lifetime = seconds(spec.lifetime)
    if not 30 <= lifetime <= 3600:
        report(problems, document, "spec.assertion.lifetime", "30s to 1h is expected")
    issuer = spec.issuer or f"urn:sidecar:{document.namespace}:{document.name}"
    return AssertionTerms(issuer, spec.audience, spec.algorithm, lifetime)


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
