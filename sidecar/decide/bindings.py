"""What expressions see of a request: only the footprint is converted, in the form CEL wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from sidecar.decide.expressions import FAILED, Footprint, Program, Truth, _Failed
from sidecar.decide.outcomes import NO_CLAIMS
from sidecar.decide.request import Request
from sidecar.decide.revocations import Revocations
from sidecar.decide.routes import Pattern
from sidecar.decide.tokens import WEIGHT, Verified
from sidecar.decide.workloads import Certificate, Workload


class Unreadable(Exception):
    """A value that cannot be read as one: the expression that reads it fails."""


class Bindings:
    """One request and caller, at one moment. Cheap to make; converts when asked."""

    __slots__ = ("_now", "_request", "_revocations", "_verified")

    def __init__(
        self,
        request: Request,
        verified: Verified | None,
        now: float,
        revocations: Revocations | None = None,
    ) -> None:
        self._request = request
        self._verified = verified
        self._now = now
        self._revocations = revocations

    def truth(self, program: Program, pattern: Pattern) -> Truth:
        """The value of a boolean expression for a rule that matched by `pattern`."""
        bound = self._activation(program, pattern)
        return FAILED if bound is None else program.truth(bound)

    def text(self, program: Program, pattern: Pattern) -> str | _Failed:
        """The value of a text expression, likewise."""
        bound = self._activation(program, pattern)
        return FAILED if bound is None else program.text(bound)

    def _activation(self, program: Program, pattern: Pattern) -> Any | None:
        try:
            return program.activation(
                {name: self.read(name, keys, pattern) for name, keys in program.footprint.items()}
            )
        except Unreadable:
            return None
        except Exception:  # noqa: BLE001  (the CEL library raises bare errors on odd values)
            return None

    def read(self, name: str, keys: frozenset[str] | None, pattern: Pattern) -> Any:
        """What `name` of a footprint is; of a map the `keys` that are there, None: all of them.

        Raises Unreadable. The CEL library's own errors come from elsewhere.
        """
        if name == "token":
            return self._claims(keys)
        if name == "request.params":
            params = pattern.params(self._request.segments)
            return params if keys is None else _subset(params, keys)
        if name in _OF_WORKLOAD:
            workload = self.workload()
            return "" if workload is None else getattr(workload, _OF_WORKLOAD[name])
        read = _READERS.get(name)
        if read is not None:
            return read(self._request, keys)
        if name == "request.time":
            return datetime.fromtimestamp(self._now, UTC)
        if name == "subject.id":
            return self._verified.identity.subject if self._verified else ""
        if name == "subject.anonymous":
            return self._verified is None
        return _EMPTY[name]

    def workload(self) -> Workload | None:
        """Whom the caller's certificate names, for as long as it holds and is not withdrawn."""
        certificate = self._request.certificate
        if certificate is None:
            return None
        workload = certificate.workload
        if workload is None or self._now >= workload.expires:
            return None
        if self._revocations is not None:
            known = standing(certificate, workload)
            if self._revocations.revokes(known, self._now):
                return None
        return workload

    def standing(self) -> Verified | None:
        """The same as a credential, which may be withdrawn: by subject, or thumbprint as a key."""
        workload, certificate = self.workload(), self._request.certificate
        if workload is None or certificate is None:
            return None
        return standing(certificate, workload)

    def _claims(self, keys: frozenset[str] | None) -> Mapping[str, Any]:
        if self._verified is None:
            return NO_CLAIMS
        claims, opaque = self._verified.claims, self._verified.opaque
        if keys is None:
            if opaque:
                raise Unreadable
            return claims
        if opaque and not opaque.isdisjoint(keys):
            raise Unreadable
        return _subset(claims, keys)


def standing(certificate: Certificate, workload: Workload) -> Verified:
    """A workload as a credential; the same object each time."""
    known: Verified | None = certificate.standing
    if known is None:
        claims = {"iat": workload.since, "cnf": {"x5t#S256": certificate.thumbprint}}
        known = Verified(workload.identity, claims, frozenset(), workload.expires, None, WEIGHT)
        certificate.standing = known
    return known


def _subset(values: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def _headers(request: Request, keys: frozenset[str] | None) -> dict[str, str]:
    """Header names are lower case; a repeated header fails when read as one."""
    found: dict[str, str] = {}
    for raw, value in request.headers:
        name = raw.decode("ascii")
        if keys is not None and name not in keys:
            continue
        if name in found:
            raise Unreadable
        try:
            found[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            raise Unreadable from None
    return found


def _query(request: Request, keys: frozenset[str] | None) -> dict[str, str]:
    """`application/x-www-form-urlencoded` pairs; a repeated or badly encoded one fails."""
    found: dict[str, str] = {}
    for pair in (request.query or b"").split(b"&"):
        if not pair:
            continue
        name, _, value = pair.partition(b"=")
        key = _decoded(name)
        if keys is not None and key not in keys:
            continue
        if key in found:
            raise Unreadable
        found[key] = _decoded(value)
    return found


def _decoded(part: bytes) -> str:
    text = part.replace(b"+", b" ")
    for place in range(len(text)):
        if text[place] == 0x25 and not _is_hex(text[place + 1 : place + 3]):
            raise Unreadable
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable from None


def _is_hex(digits: bytes) -> bool:
    return len(digits) == 2 and all(digit in b"0123456789abcdefABCDEF" for digit in digits)


def _size(request: Request, keys: frozenset[str] | None) -> int:
    """Declared body size in bytes; 0 without a body, -1 where it is chunked."""
    if request.values(b"transfer-encoding"):
        return -1
    lengths = request.values(b"content-length")
    return int(lengths[0]) if lengths else 0


def _content_type(request: Request, keys: frozenset[str] | None) -> str:
    values = request.values(b"content-type")
    if len(values) > 1:
        raise Unreadable
    return values[0].partition(b";")[0].strip().lower().decode("latin-1") if values else ""


_READERS: Final[Mapping[str, Callable[[Request, frozenset[str] | None], Any]]] = {
    "request.method": lambda request, _: request.method,
    "request.path": lambda request, _: request.path,
    "request.host": lambda request, _: request.host,
    "request.scheme": lambda request, _: request.scheme,
    "request.address": lambda request, _: request.address,
    "request.headers": _headers,
    "request.query": _query,
    "request.size": _size,
    "request.contentType": _content_type,
}
_OF_WORKLOAD: Final[Mapping[str, str]] = {
    "source.spiffe": "spiffe",
    "source.namespace": "namespace",
    "source.serviceAccount": "service_account",
}
# Declared from the first version, empty until something fills them (DESIGN section 5).
_EMPTY: Final[Mapping[str, Any]] = {
    "request.body": {},
    "subject.consents": [],
    "subject.profile": {},
    "subject.segments": [],
    "subject.risk": 0,
    "source.segments": [],
    "enriched": {},
}

__all__ = ["Bindings", "Footprint"]
