"""Who calls the control plane, and what they may do: values, and no I/O.

A caller has permissions, each a role for some namespaces and kinds; one that allows what is asked
is enough. Names tell one person from another, in the audit trail and where a second one is needed,
so no credential can spell somebody else's (`oidc_name`, `certificate_name`).

While a call is served its caller is `current()`. Nobody is where no door has set one: that is
refused, never taken for somebody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf
from typing import Final, Literal
from urllib.parse import quote

from sidecar.errors import SidecarError

Role = Literal["viewer", "publisher", "approver", "admin"]
Verb = Literal["view", "publish", "approve", "administer"]
VERBS: Final[Mapping[Role, frozenset[Verb]]] = {
    "viewer": frozenset(["view"]),
    "publisher": frozenset(["view", "publish"]),
    "approver": frozenset(["view", "approve"]),
    "admin": frozenset(["view", "publish", "approve", "administer"]),
}
_NEEDED: Final[Mapping[Verb, Role]] = {
    "view": "viewer", "publish": "publisher", "approve": "approver", "administer": "admin",
}  # fmt: skip
LONGEST_NAMES: Final = 512  # characters of all DNS names of a certificate
# Stays as it is in a name: what is printable ASCII, but for the space and the escape itself.
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


class Unauthenticated(SidecarError):
    """Nobody is known by what was presented; says what to present, and nothing of what was.

    `reason` is a metric label. Where `later`, nothing is wrong with it as far as can be told.
    """

    def __init__(self, message: str, reason: str = "credential", *, later: bool = False) -> None:
        self.reason = reason
        self.later = later
        super().__init__(message)


class Forbidden(SidecarError):
    """The caller is known, and may not do this; says which role would be needed for what."""


@dataclass(frozen=True, slots=True)
class Permission:
    """A role in some namespaces (none named: in all) and for some kinds (none named: for all)."""

    role: Role
    namespaces: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    customers: bool = False
    """Whether customers may be read and changed; who administers everything may, too."""

    def allows(self, verb: Verb, namespace: str, kind: str = "") -> bool:
        """See `Caller.may`."""
        if verb not in VERBS[self.role]:
            return False
        if self.namespaces and namespace not in self.namespaces:
            return False
        if not self.kinds:
            return True
        return verb == "view" if not kind else kind in self.kinds

    @property
    def unlimited(self) -> bool:
        """Whether it is about everything there is."""
        return not self.namespaces and not self.kinds


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose credential was checked. `expires` is when that ends, Unix time."""

    name: str
    permissions: tuple[Permission, ...]
    expires: float = inf

    def may(self, verb: Verb, namespace: str, kind: str = "") -> bool:
        """Whether documents of this kind in this namespace are theirs to `verb`.

        Without `kind` the namespace as a whole is meant: to do something with it, a permission for
        some kinds is too little; to see that it is there and how far it came, it is enough. An
        empty `namespace` is everything of all namespaces: only who is not limited to some may.
        """
        return any(each.allows(verb, namespace, kind) for each in self.permissions)

    def may_somewhere(self, *verbs: Verb) -> bool:
        """Whether any of these is theirs at all."""
        return any(verb in VERBS[each.role] for each in self.permissions for verb in verbs)

    def may_everywhere(self, verb: Verb) -> bool:
        """Whether it is theirs in every namespace, for every kind."""
        return any(each.unlimited and verb in VERBS[each.role] for each in self.permissions)

    def namespaces(self, verb: Verb) -> frozenset[str] | None:
        """Those outside of which nothing is theirs to `verb`; None: everywhere something may be."""
        found = [each.namespaces for each in self.permissions if verb in VERBS[each.role]]
        return None if not all(found) else frozenset().union(*found)

    @property
    def may_see_customers(self) -> bool:
        """Whether the Subjects service is theirs to use."""
        return any(each.customers for each in self.permissions) or self.may_everywhere("administer")

    def require(self, verb: Verb, namespaces: Iterable[str], kinds: Iterable[str] = ()) -> None:
        """Each of the kinds in each of the namespaces; without kinds these as a whole, and without
        namespaces all of everything. Raises Forbidden, which names what is missing."""
        kinds = frozenset(kinds) or frozenset([""])
        self.require_each(verb, [(name, kind) for name in namespaces for kind in kinds])

    def require_each(self, verb: Verb, pairs: Iterable[tuple[str, str]]) -> None:
        """The same for pairs of namespace and kind, as documents are. Raises Forbidden."""
        pairs = frozenset(pairs)
        if not pairs:  # nothing named is no way to be asked for nothing
            self.require_everywhere(verb)
        missing = [pair for pair in sorted(pairs) if not self.may(verb, *pair)]
        if missing:
            raise Forbidden(f"{self.name} lacks role {_NEEDED[verb]} for {_told(missing)}")

    def require_everywhere(self, verb: Verb) -> None:
        """Raises Forbidden."""
        if not self.may_everywhere(verb):
            raise Forbidden(
                f"{self.name} lacks role {_NEEDED[verb]} for every namespace and kind: it has to "
                "be a permission without `namespaces` and `kinds`"
            )


ANYBODY: Final = Caller("local", (Permission("admin", customers=True),))
"""Whoever calls where nobody has to show who they are."""

_current: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)


def current() -> Caller:
    """Who the call under way is from. Raises Unauthenticated outside of `acting`."""
    caller = _current.get()
    if caller is None:
        raise Unauthenticated("nobody has said who calls", "nobody")
    return caller


@contextmanager
def acting(caller: Caller) -> Iterator[None]:
    """`caller` is `current()` meanwhile, also in tasks that are made meanwhile."""
    token = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(token)


def oidc_name(issuer: str, subject: str) -> str:
    """ISSUER#SUBJECT. An issuer has no `#` (OpenID Connect Core 1.0 section 2), so the first one
    ends it whatever is in the subject; what is not plain ASCII in that is escaped, so that nothing
    looks like somebody else."""
    return f"{issuer}#{quote(subject, safe=_PLAIN)}"


def certificate_name(spiffe: str, dns: Iterable[str]) -> str:
    """The SPIFFE id, else `dns:` and the DNS names, in order: what permissions are given by. Not
    the subject's distinguished name: with two certificates that differ in it alone, one holder
    would be two people. Neither has a `#`. Of many names there is a digest."""
    if spiffe:
        return spiffe
    plain = _PLAIN.translate({ord(char): None for char in ",#:"})
    names = ",".join(quote(name, safe=plain) for name in sorted(dns))
    if len(names) <= LONGEST_NAMES:
        return f"dns:{names}"
    return f"dns:sha256:{hashlib.sha256(names.encode()).hexdigest()}"


def _told(missing: Iterable[tuple[str, str]]) -> str:
    told = [
        f"{kind or 'everything'} in {f'namespace {name}' if name else 'every namespace'}"
        for name, kind in missing
    ]
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    return ", ".join(told[:5]) + more
