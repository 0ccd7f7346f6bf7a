"""Client certificates as a decision sees them: a thumbprint, and perhaps the workload they name.

Who verifies a chain and reads the certificate is the door; what its SPIFFE id must look like, and
which ids a rule admits, is settled here. Sources: SPIFFE-ID and X509-SVID of the SPIFFE project,
RFC 8705 section 3.1 for the thumbprint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, final

import msgspec

from sidecar.decide.outcomes import Identity

SCHEME: Final = "spiffe://"
LONGEST_ID: Final = 2048  # bytes, SPIFFE-ID section 2.3
_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
# How Kubernetes and Istio name a service account.
_ACCOUNT: Final = re.compile(r"/ns/([^/]+)/sa/([^/]+)")


@final
class Workload(msgspec.Struct, frozen=True):
    """A verified SPIFFE id: who calls, from `since` until `expires` (seconds since the epoch).

    `namespace` and `service_account` are there where the path is `/ns/.../sa/...`, else empty.
    """

    spiffe: str
    identity: Identity
    namespace: str
    service_account: str
    expires: float
    since: float = 0.0


class Certificate:
    """What a caller has shown that it holds the key of. Equal to itself only.

    `thumbprint` is base64url of the SHA-256 of its DER form; `workload` is whom it names, if it
    names somebody and a trust bundle of that trust domain vouches for it. A door that takes that
    away again makes all forget what they remember of decisions. `standing` belongs to `bindings`:
    the workload as a credential.
    """

    __slots__ = ("standing", "thumbprint", "workload")

    def __init__(self, thumbprint: str, workload: Workload | None = None) -> None:
        self.thumbprint = thumbprint
        self.workload = workload
        self.standing: Any = None


def trust_domain(text: str) -> bool:
    """Whether it is the name of one (SPIFFE-ID section 2.1)."""
    return _DOMAIN.fullmatch(text) is not None


def parse_id(text: str) -> tuple[str, str]:
    """A workload's SPIFFE id as trust domain and path. Raises ValueError.

    One spelling only: no port, query, fragment, escape, dot segment, empty or trailing segment; and
    a path, since an id without one names a trust domain (X509-SVID section 4.1).
    """
    if len(text) > LONGEST_ID or not text.startswith(SCHEME):
        raise ValueError("not a SPIFFE id")
    domain, slash, path = text[len(SCHEME) :].partition("/")
    if not trust_domain(domain):
        raise ValueError("not the name of a trust domain")
    if not slash or not all(_is_segment(part) for part in path.split("/")):
        raise ValueError("not the path of a workload")
    return domain, "/" + path


def _is_segment(part: str) -> bool:
    return _SEGMENT.fullmatch(part) is not None and part not in (".", "..")


def workload(text: str, expires: float, since: float = 0.0) -> Workload:
    """Who a SPIFFE id says it is. Raises ValueError."""
    domain, path = parse_id(text)
    account = _ACCOUNT.fullmatch(path)
    return Workload(
        text,
        Identity(SCHEME + domain, text),
        account.group(1) if account else "",
        account.group(2) if account else "",
        expires,
        since,
    )


class Workloads:
    """The ids that a rule admits: exact ones, and patterns with `*` (one segment) and a last `**`
    (one and more). A trust domain is always exact."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises ValueError."""
        exact: set[str] = set()
        patterns: list[re.Pattern[str]] = []
        for text in texts:
            if "*" in text:
                patterns.append(_pattern(text))
            else:
                parse_id(text)
                exact.add(text)
        self._exact = frozenset(exact)
        self._patterns = tuple(patterns)

    def admit(self, spiffe: str) -> bool:
        """Whether it is one of them."""
        return spiffe in self._exact or any(each.fullmatch(spiffe) for each in self._patterns)


def _pattern(text: str) -> re.Pattern[str]:
    parts = text.removeprefix(SCHEME).split("/")
    last = len(parts) - 1
    for place, part in enumerate(parts):
        whole = part == "*" or (part == "**" and place == last)
        if "*" in part and (place == 0 or not whole):
            raise ValueError("* stands for a whole segment of the path, ** for all that follow")
    parse_id("/".join(["x" if part in ("*", "**") else part for part in text.split("/")]))
    written = [
        "[^/]+" if part == "*" else "[^/]+(?:/[^/]+)*" if part == "**" else re.escape(part)
        for part in parts
    ]
    return re.compile(re.escape(SCHEME) + "/".join(written))
