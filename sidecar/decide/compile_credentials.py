"""TokenIssuer and ApiKey documents -> what credentials are verified with, or every mistake."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from sidecar.decide import api_keys
from sidecar.decide.documents import ApiKey, Document, TokenIssuer, order_key, seconds
from sidecar.decide.keys import KeySet, parse_jwks, private_members
from sidecar.decide.problems import report
from sidecar.decide.tokens import Issuer
from sidecar.errors import Problem

MAX_SKEW: Final = 600.0
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{4,64}")
_KEY_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ADDRESS: Final = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # RFC 3986: no space, quote, `<`, `\\` or `{`
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


def compile_issuer(
    document: Document, spec: TokenIssuer, audiences: frozenset[str], problems: list[Problem]
) -> Issuer | None:
    """The issuer; `audiences` are those of the service, empty where it names none."""
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
                # Once for a document: reading an RSA key takes a tenth of a millisecond and more.
                keys = document.memo.get("keys")
                if keys is None:
                    keys = document.memo["keys"] = parse_jwks(source.inline)
            except ValueError as error:
                report(problems, document, "spec.jwks.inline", str(error))
        else:
            uri = source.uri
            check_address(document, "spec.jwks.uri", source.uri or "", problems)
    else:
        check_address(
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
            kind.lower().removeprefix("application/")
            for kind in (spec.token_types if spec.profile == "jwt" else ["at+jwt"])
        ),
        access_token_profile=spec.profile == "rfc9068",
        skew=skew,
        subject=spec.claims.subject,
        scopes=spec.claims.scopes,
        keys=keys,
        jwks_uri=uri,
    )


def compile_key(
    document: Document, spec: ApiKey, problems: list[Problem]
) -> tuple[bytes, api_keys.ApiKey] | None:
    """The key by its id."""
    before = len(problems)
    if not _KEY_ID.fullmatch(spec.id):  # never quoted: it may be id and secret
        report(
            problems, document, "spec.id", "not an id",
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
        if any(c.isspace() for c in scope):
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
    key = api_keys.ApiKey(spec.id, digest, subject, scopes, spec.attributes, expires)
    return spec.id.encode("ascii"), key


def check_address(
    document: Document, pointer: str, address: str, problems: list[Problem], why: str = ""
) -> None:
    """Reports what is not https, but for loopback: whatever is fetched over it could be forged."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    written = _ADDRESS.fullmatch(address)
    if not written or not host or port == 0 or parts.username is not None or parts.fragment:
        report(problems, document, pointer, f"{address!r} is not an https address{why}")
    elif parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        report(
            problems, document, pointer, f"an https address is expected{why}",
            hint="http is admitted on loopback only: keys fetched over it can be forged on the way",
        )  # fmt: skip


def check_issuers_unique(
    issuers: Iterable[tuple[Document, TokenIssuer]], problems: list[Problem]
) -> None:
    """One document for each `iss`."""
    for document, first, name in _again((each, spec.issuer) for each, spec in issuers):
        report(
            problems, document, "spec.issuer", f"{first.ref} already stands for the issuer {name}",
            hint="one TokenIssuer for each `iss` that a sidecar sees",
        )  # fmt: skip


def check_keys_unique(keys: Iterable[tuple[Document, ApiKey]], problems: list[Problem]) -> None:
    """One document for each id."""
    for document, first, name in _again((each, spec.id) for each, spec in keys):
        report(
            problems, document, "spec.id", f"{first.ref} already has the id {name!r}",
            hint="to let two secrets stand for one caller, give two ids one subject",
        )  # fmt: skip


def _again(named: Iterable[tuple[Document, str]]) -> list[tuple[Document, Document, str]]:
    """Each document whose name another one, earlier in order, has: with that one."""
    first: dict[str, Document] = {}
    return [
        (document, first[name], name)
        for document, name in sorted(named, key=lambda each: order_key(each[0]))
        if first.setdefault(name, document) is not document
    ]
