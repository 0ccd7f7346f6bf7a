"""`TokenIssuer.introspection` -> who is asked about opaque tokens, or every mistake.

Of the issuers that a sidecar sees at most one may be asked about any credential: two that could
both be would each see the other's tokens, and which of them is believed would be an accident.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from sidecar.decide.compile_credentials import check_address
from sidecar.decide.credentials import Location
from sidecar.decide.documents import (
    ApiKey,
    Document,
    Introspection,
    SecretSource,
    TokenIssuer,
    order_key,
    seconds,
)
from sidecar.decide.introspection import Introspector, Secret, overlap
from sidecar.decide.problems import report
from sidecar.decide.tokens import Issuer
from sidecar.errors import Problem

MAX_CACHE: Final = 3600.0
SECRET_VARIABLE: Final = re.compile(r"SIDECAR_SECRET_[A-Z0-9_]{1,100}")
_PREFIX: Final = re.compile(r"[!-~]{1,64}")
# A header's base64url, and all that one may begin with: `{"`, `{ `, `{` and a line end.
_OF_A_JWT: Final = ("ey", "ew")
_NOWHERE: Final = Secret()

Method = Literal["client_secret_basic", "private_key_jwt", "tls_client_auth"]


def compile_introspection(
    document: Document, spec: TokenIssuer, issuer: Issuer, problems: list[Problem]
) -> Introspector | None:
    """None where the issuer is not asked about opaque tokens, or for a mistake."""
    wanted = spec.introspection
    if wanted is None:
        return None
    before = len(problems)
    where = "spec.introspection"
    check_address(document, f"{where}.endpoint", wanted.endpoint, problems)
    method = _method(document, wanted, problems)
    name = "privateKey" if wanted.client_secret is None else "clientSecret"
    secret = compile_secret(
        document, f"{where}.{name}", wanted.client_secret or wanted.private_key, problems,
        files_only=wanted.certificate is not None,
    )  # fmt: skip
    certificate = compile_secret(
        document, f"{where}.certificate", wanted.certificate, problems, files_only=True
    )
    ca = compile_secret(document, f"{where}.ca", wanted.ca, problems, files_only=True)
    if wanted.token_prefix is not None and not _PREFIX.fullmatch(wanted.token_prefix):
        report(
            problems, document, f"{where}.tokenPrefix", f"{wanted.token_prefix!r} is not a prefix",
            hint="1 to 64 visible ASCII characters",
        )  # fmt: skip
    elif wanted.token_prefix is not None and _of_a_jwt(wanted.token_prefix):
        report(
            problems, document, f"{where}.tokenPrefix",
            f"{wanted.token_prefix!r} is how JWTs begin, of whatever issuer",
            hint="they are checked here and sent to nobody",
        )  # fmt: skip
    cache, negative = seconds(wanted.cache), seconds(wanted.negative_cache)
    for name, value in (("cache", cache), ("negativeCache", negative)):
        if value > MAX_CACHE:
            report(
                problems, document, f"{where}.{name}", "more than 1h",
                hint="what is revoked at the issuer stands for so long",
            )  # fmt: skip
    if len(problems) > before or method is None:
        return None
    mark = hashlib.sha256(f"{document.digest} {sorted(issuer.audiences)}".encode()).digest()[:8]
    return Introspector(
        issuer=issuer,
        endpoint=wanted.endpoint,
        client_id=wanted.client_id,
        method=method,
        secret=secret,
        certificate=certificate,
        ca=ca,
        key_id=wanted.key_id or "",
        prefix=(wanted.token_prefix or "").encode("ascii"),
        location=_location(document, wanted, problems),
        cache=cache,
        negative_cache=negative,
        audience_optional=wanted.audience == "insecureIfPresent",
        mark=mark,
    )


def _of_a_jwt(prefix: str) -> bool:
    return any(prefix.startswith(each) or each.startswith(prefix) for each in _OF_A_JWT)


def check_disjoint(
    found: Iterable[tuple[Document, Introspector]],
    keys: Sequence[tuple[Document, ApiKey]],
    problems: list[Problem],
) -> None:
    """No credential may be of two: of two issuers, or of an issuer and an API key."""
    ordered = sorted(found, key=lambda each: order_key(each[0]))
    for place, (document, one) in enumerate(ordered):
        for earlier, other in ordered[:place]:
            if overlap(one, other):
                report(
                    problems, document, "spec.introspection",
                    f"{earlier.ref} could be asked about the same tokens",
                    hint="give both a tokenPrefix that the other's does not begin with, or "
                    "different locations",
                )  # fmt: skip
                break
        for key_document, key in keys:
            if key.id.encode().startswith(one.prefix):
                report(
                    problems, document, "spec.introspection",
                    f"{key_document.ref} could be taken for one of its tokens",
                    hint="give a tokenPrefix that no ApiKey's id begins with",
                )  # fmt: skip
                break


def _method(document: Document, spec: Introspection, problems: list[Problem]) -> Method | None:
    """What the client authenticates with follows from what it is given."""
    given = (
        spec.client_secret is not None,
        spec.private_key is not None,
        spec.certificate is not None,
    )
    match given:
        case (True, False, False):
            return "client_secret_basic"
        case (False, True, False):
            return "private_key_jwt"
        case (False, True, True):
            return "tls_client_auth"
    report(
        problems, document, "spec.introspection", "one way to authenticate is expected",
        hint="clientSecret; or privateKey, for private_key_jwt; or certificate and privateKey, "
        "for mutual TLS",
    )  # fmt: skip
    return None


def compile_secret(
    document: Document,
    pointer: str,
    source: SecretSource | None,
    problems: list[Problem],
    *,
    files_only: bool,
) -> Secret:
    if source is None:
        return _NOWHERE
    if (source.from_file is None) == (source.from_env is None):
        report(
            problems, document, pointer, "exactly one of fromFile and fromEnv is expected"
        )  # fmt: skip
    elif source.from_file is not None:
        path = source.from_file
        if not posixpath.isabs(path) or posixpath.normpath(path) != path:
            report(
                problems, document, f"{pointer}.fromFile", f"{path!r} is not an absolute path",
                hint="it is read beside the service, below its --secrets folder: "
                "/run/secrets/idp",
            )  # fmt: skip
        return Secret(file=path)
    elif source.from_env is not None:
        if files_only:
            report(problems, document, f"{pointer}.fromEnv", "this is read from a file only")
        if not SECRET_VARIABLE.fullmatch(source.from_env):
            report(
                problems, document, f"{pointer}.fromEnv",
                f"{source.from_env!r} is not the name of a secret",
                hint="only variables SIDECAR_SECRET_... are read, so that no document can have "
                "another one sent to its endpoint",
            )  # fmt: skip
        return Secret(variable=source.from_env)
    return _NOWHERE


def _location(document: Document, spec: Introspection, problems: list[Problem]) -> Location | None:
    place = spec.location
    if place is None:
        return None
    if place.header is not None and place.cookie is None:
        return Location(place.header.lower().encode("ascii", "replace"))
    if place.cookie is not None and place.header is None:
        return Location(place.cookie.encode("ascii", "replace"), cookie=True)
    report(
        problems, document, "spec.introspection.location",
        "exactly one of header and cookie is expected",
    )  # fmt: skip
    return None
