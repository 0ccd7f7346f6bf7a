"""The file of `--publishers`: whose credentials count, and what each of their holders may do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, inspect

from sidecar.control.authority import Permission, Role
from sidecar.control.issuers import issuer_keys
from sidecar.control.peer_certificate import PeerCertificate
from sidecar.decide import workloads
from sidecar.decide.documents import ALGORITHMS, KINDS, Algorithm, JwksSource, Text
from sidecar.decide.kinds.values import Name
from sidecar.decide.nodes import NodeReader, TooMuch, closest
from sidecar.decide.parse import NAME, Source, compose
from sidecar.decide.tokens import Issuer, claim
from sidecar.errors import DocumentsInvalid, Misuse, Problem

LONGEST: Final = 1024 * 1024  # characters of the file
MOST_ISSUERS: Final = 100
MOST_PERMISSIONS: Final = 1000
SKEW: Final = 30.0
_TYPES: Final = frozenset(("jwt", "at+jwt"))

_DNS: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class _IssuerEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    issuer: Text
    audience: Text
    jwks: JwksSource | None = None
    algorithms: Annotated[list[Algorithm], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: list(ALGORITHMS)
    )
    subject: Text = "sub"


class _Who(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    issuer: Text | None = None
    subject: Text | None = None
    claims: dict[str, Any] | None = None
    spiffe: Text | None = None
    certificate: Text | None = None


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    who: _Who
    role: Role
    namespaces: Annotated[list[Name], Meta(min_length=1)] | None = None
    kinds: Annotated[list[Name], Meta(min_length=1)] | None = None
    customers: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    permissions: Annotated[list[_Entry], Meta(min_length=1)]
    issuers: list[_IssuerEntry] = []


@dataclass(frozen=True, slots=True)
class Grant:
    """A permission, and whose it is: of an issuer's tokens with this subject (where one is named)
    and these claims, or of certificates with this SPIFFE id or this DNS name."""

    permission: Permission
    issuer: str = ""
    subject: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)
    spiffe: str = ""
    dns: str = ""

    def is_of_token(self, issuer: str, subject: str, claims: Mapping[str, Any]) -> bool:
        """Whether a verified token's holder has it."""
        return (
            bool(self.issuer)
            and issuer == self.issuer
            and self.subject in ("", subject)
            and all(_says(claim(claims, name), each) for name, each in self.claims.items())
        )

    def is_of_certificate(self, certificate: PeerCertificate) -> bool:
        """Whether a verified certificate's holder has it."""
        if self.spiffe:
            return certificate.spiffe == self.spiffe
        return bool(self.dns) and self.dns in certificate.dns


@dataclass(frozen=True, slots=True)
class Publishers:
    """What the file says. `files` are the others that were read for it."""

    issuers: Mapping[str, Issuer]
    grants: tuple[Grant, ...]
    files: tuple[Path, ...] = ()

    def of_token(
        self, issuer: str, subject: str, claims: Mapping[str, Any]
    ) -> tuple[Permission, ...]:
        """All that its holder may do; none: nobody named it."""
        return tuple(
            grant.permission for grant in self.grants if grant.is_of_token(issuer, subject, claims)
        )

    def of_certificate(self, certificate: PeerCertificate) -> tuple[Permission, ...]:
        """The same of a certificate."""
        return tuple(
            grant.permission for grant in self.grants if grant.is_of_certificate(certificate)
        )


def load(path: Path) -> Publishers:
    """Raises Misuse with every mistake and its place; paths in it are relative to it."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        raise Misuse(f"--publishers {path}: {error.strerror}") from None
    except ValueError:
        raise Misuse(f"--publishers {path}: it is not UTF-8") from None
    if len(text) > LONGEST:
        raise Misuse(f"--publishers {path}: it is longer than {LONGEST} characters")
    try:
        return parse(str(path), text, path.parent)
    except DocumentsInvalid as error:
        raise Misuse([f"--publishers {_line(problem)}" for problem in error.problems]) from None


def parse(name: str, text: str, folder: Path) -> Publishers:
    """Raises DocumentsInvalid with every mistake."""
    problems: list[Problem] = []
    reader = NodeReader(name, text, problems)
    try:
        nodes = list(compose(Source(name, text)))
        if len(nodes) != 1:
            raise DocumentsInvalid(
                [Problem("one mapping with permissions: is expected", name, 1, 1)]
            )
        reader.begin(nodes[0])
        plain = reader.value(nodes[0], inspect.type_info(_File), "", 1)
    except TooMuch as error:
        mark = error.problem_mark
        problems.append(Problem(str(error), name, mark.line + 1, mark.column + 1))
    if problems:
        raise DocumentsInvalid(problems)
    found = _Checked(name, reader, folder, msgspec.convert(plain, _File)).publishers()
    if problems:
        raise DocumentsInvalid(problems)
    return found


class _Checked:
    """What the shape of the file does not say."""

    def __init__(self, name: str, reader: NodeReader, folder: Path, file: _File) -> None:
        self._name = name
        self._reader = reader
        self._folder = folder
        self._file = file
        self._issuers: dict[str, Issuer] = {}

    def publishers(self) -> Publishers:
        """What is sound of it; the rest has become problems."""
        file = self._file
        for what, found, most in (
            (".issuers", file.issuers, MOST_ISSUERS),
            (".permissions", file.permissions, MOST_PERMISSIONS),
        ):
            if len(found) > most:
                self._fail(what, f"more than {most}")
        for place, entry in enumerate(file.issuers):
            self._issuer(entry, f".issuers[{place}]")
        grants = [
            self._grant(entry, f".permissions[{place}]")
            for place, entry in enumerate(file.permissions)
        ]
        return Publishers(
            self._issuers,
            tuple(grants),
            tuple(
                self._folder / entry.jwks.file
                for entry in file.issuers
                if entry.jwks is not None and entry.jwks.file
            ),
        )

    def _issuer(self, entry: _IssuerEntry, at: str) -> None:
        if entry.issuer in self._issuers:
            self._fail(f"{at}.issuer", f"{entry.issuer} is there twice")
        if "#" in entry.issuer or not entry.issuer.isascii() or not entry.issuer.isprintable():
            # In the names of callers the first `#` ends the issuer.
            self._fail(f"{at}.issuer", "an issuer is an address without # (OpenID Connect Core)")
        keys, uri = None, None
        try:
            keys, uri = issuer_keys(entry.issuer, entry.jwks, self._folder)
        except ValueError as error:
            self._fail(at, str(error))
        self._issuers[entry.issuer] = Issuer(
            name=entry.issuer, issuer=entry.issuer, audiences=frozenset([entry.audience]),
            algorithms=frozenset(entry.algorithms), token_types=_TYPES, skew=SKEW,
            subject=entry.subject, scopes="scope", keys=keys, jwks_uri=uri,
        )  # fmt: skip

    def _grant(self, entry: _Entry, at: str) -> Grant:
        for place, kind in enumerate(entry.kinds or ()):
            if kind not in KINDS:
                hint = closest(kind, list(KINDS)) or f"known: {', '.join(KINDS)}"
                self._fail(f"{at}.kinds[{place}]", f"there is no kind {kind!r}", hint)
        for place, name in enumerate(entry.namespaces or ()):
            if not NAME.fullmatch(name):
                hint = "for all of them, leave the field out"
                self._fail(f"{at}.namespaces[{place}]", f"{name!r} is no namespace's name", hint)
        if entry.customers and (entry.namespaces or entry.kinds):
            self._fail(
                f"{at}.customers",
                "customers are of no namespace and kind: it cannot be limited to some",
                "give it in a permission of its own, without namespaces and kinds",
            )
        permission = Permission(
            entry.role,
            frozenset(entry.namespaces or ()),
            frozenset(entry.kinds or ()),
            entry.customers,
        )
        return self._whose(entry.who, permission, f"{at}.who")

    def _whose(self, who: _Who, permission: Permission, at: str) -> Grant:
        ways = [each for each in (who.issuer, who.spiffe, who.certificate) if each is not None]
        if len(ways) != 1:
            self._fail(at, "exactly one of issuer, spiffe and certificate is expected")
        if who.issuer is None and (who.subject is not None or who.claims is not None):
            self._fail(at, "subject and claims are of tokens: name their issuer")
        if who.issuer is not None:
            if who.issuer not in self._issuers:
                known = list(self._issuers)
                self._fail(
                    f"{at}.issuer", f"{who.issuer} is not among issuers", closest(who.issuer, known)
                )
            if who.subject is None and not who.claims:
                self._fail(
                    at, "it would be everybody with a token of this issuer: give subject or claims"
                )
        for name, value in (who.claims or {}).items():
            if not isinstance(value, str | bool | int) or value == "":
                self._fail(
                    f"{at}.claims.{name}", "a text, a whole number, true or false is expected"
                )
        if who.spiffe is not None:
            try:
                workloads.parse_id(who.spiffe)
            except ValueError as error:
                self._fail(f"{at}.spiffe", str(error), "such as spiffe://prod.example/ns/ci/sa/x")
        dns = (who.certificate or "").lower()
        if who.certificate is not None and not _DNS.fullmatch(dns):
            self._fail(
                f"{at}.certificate",
                "a DNS name is expected, one that is a subject alternative name of the certificate",
            )
        return Grant(
            permission, who.issuer or "", who.subject or "", who.claims or {}, who.spiffe or "", dns
        )

    def _fail(self, pointer: str, message: str, hint: str = "") -> None:
        marks = self._reader.marks
        line, column = marks.get(pointer) or marks.get(pointer.rpartition(".")[0]) or (1, 1)
        self._reader.problems.append(
            Problem(message, self._name, line, column, pointer=pointer, hint=hint)
        )


def _says(value: Any, wanted: str | bool | int) -> bool:
    """Whether a claim is this, or a list with it; `1` is not `true`."""
    found: Iterable[Any] = value if isinstance(value, list) else (value,)
    return any(type(each) is type(wanted) and each == wanted for each in found)


def _line(problem: Problem) -> str:
    where = f" ({problem.pointer.lstrip('.')})" if problem.pointer else ""
    hint = f"; {problem.hint}" if problem.hint else ""
    return f"{problem.file}:{problem.line}:{problem.column}: {problem.message}{where}{hint}"
