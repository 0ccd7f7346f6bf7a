"""Security schemes and requirements -> what a rule can ask for, or why none can ask for it.

Source: OpenAPI 3.1.1, Security Scheme Object and Security Requirement Object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import yaml

from sidecar.cli.openapi.tree import Tree
from sidecar.decide.compile import validate
from sidecar.decide.compile_rule import SCOPE
from sidecar.decide.parse import API_VERSION, Source, parse

DISCOVERY: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A scheme as it is here: a token, an API key at a place, a client certificate; or `why` it is
    nothing. `remark` is what people must add or know; `scoped`: it has scopes, not roles."""

    name: str
    kind: Literal["token", "key", "certificate", "none"]
    issuer: str = ""
    header: str = ""
    cookie: str = ""
    why: str = ""
    remark: str = ""
    scoped: bool = False


@dataclass(frozen=True, slots=True)
class Alternative:
    """What one rule asks for. `source` is what may carry it, `issuer` whose token it must be;
    `certificate`: a workload's certificate besides."""

    auth: Literal["token", "workload", "optional", "none"]
    source: Literal["token", "key", "any"] = "any"
    scopes: tuple[str, ...] = ()
    issuer: str = ""
    certificate: bool = False

    def implies(self, other: Alternative) -> bool:
        """Whether whoever satisfies this one satisfies the other as well."""
        match other.auth:
            case "none":
                return True
            case "optional":
                return self.auth in ("token", "optional")
            case "workload":
                return self.auth == "workload" or (self.auth == "token" and self.certificate)
        return (
            self.auth == "token"
            and other.source in ("any", self.source)
            and set(other.scopes) <= set(self.scopes)
            and other.issuer in ("", self.issuer)
            and (self.certificate or not other.certificate)
        )


UNDECLARED: Final = Alternative("token")


def scheme(tree: Tree, name: str, node: yaml.Node) -> Scheme:
    """One of `components.securitySchemes`."""
    what = f"security scheme {name!r}"
    fields = tree.followed(node, what)
    kind = tree.optional(fields, "type")
    match kind:
        case "oauth2":
            return Scheme(
                name, "token", scoped=True,
                remark="oauth2 names no issuer; see that `issuer` is the `iss` of its tokens",
            )  # fmt: skip
        case "openIdConnect":
            return _openid(name, tree.optional(fields, "openIdConnectUrl"))
        case "mutualTLS":
            return Scheme(
                name, "certificate",
                remark="any workload whose certificate a --trust-bundle vouches for is admitted; "
                "name those that may call in `require.workloads`",
            )  # fmt: skip
        case "apiKey":
            return _key(name, tree.optional(fields, "in"), tree.optional(fields, "name"))
        case "http":
            named = tree.optional(fields, "scheme").lower()
            if named == "bearer":
                return Scheme(
                    name, "token",
                    remark="bearer tokens are expected to be of the issuer in issuer.yaml",
                )  # fmt: skip
            return Scheme(name, "none", why=f"http {named or 'without a scheme'} is not supported")
    return Scheme(name, "none", why=f"a scheme of the type {kind!r} is not supported")


def _openid(name: str, url: str) -> Scheme:
    issuer = url.removesuffix(DISCOVERY)
    if issuer == url:
        remark = f"{url!r} does not end in {DISCOVERY}, so it names no issuer"
    elif mistake := _mistake("TokenIssuer", {"issuer": issuer, "audiences": ["any"]}):
        remark = f"{url!r} names no issuer: {mistake}"
    else:
        return Scheme(
            name, "token", issuer, scoped=True,
            remark=f"see that the `iss` of its tokens is {issuer} to the letter; some end in /",
        )  # fmt: skip
    return Scheme(name, "token", remark=remark, scoped=True)


def _key(name: str, where: str, field: str) -> Scheme:
    if where not in ("header", "cookie"):
        return Scheme(name, "none", why=f"an API key in the {where} is not supported")
    if where == "header" and "_" in field:
        return Scheme(name, "none", why=f"the header {field!r} is never read, as any with _ in it")
    if mistake := _mistake("ProtectedService", {"credentials": [{where: field}]}):
        return Scheme(name, "none", why=f"an API key in the {where} {field!r}: {mistake}")
    remark = "each caller needs an ApiKey document, and sends `id.secret`"
    if where == "header" and field.lower() == "authorization":
        remark += " as a Bearer token"
    return Scheme(
        name, "key", remark=remark,
        header=field if where == "header" else "", cookie=field if where == "cookie" else "",
    )  # fmt: skip


def _mistake(kind: str, spec: dict[str, Any]) -> str:
    """What a document that says so would be refused for."""
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    documents, problems = parse([Source("", json.dumps(body, ensure_ascii=False))])
    return next((each.message for each in problems or validate(documents)), "")


def combine(parts: Sequence[tuple[Scheme, tuple[str, ...]]]) -> Alternative | str:
    """All that one requirement asks for at once, or why no rule can."""
    if not parts:
        return Alternative("optional")
    for one, _ in parts:
        if one.kind == "none":
            return f"{one.why} ({one.name!r})"
    carried = [one for one, _ in parts if one.kind != "certificate"]
    certificate = len(carried) < len(parts)
    scopes = tuple(dict.fromkeys(scope for _, each in parts for scope in each))
    unfit = next((scope for scope in scopes if not SCOPE.fullmatch(scope)), None)
    if unfit is not None:
        return f"{unfit!r} is not a scope, so no token can carry it"
    if not carried:
        lost = "roles of a client certificate are not known here"
        return lost if scopes else Alternative("workload")
    keys = [one for one in carried if one.kind == "key"]
    if keys and len(carried) > 1:
        names = " and ".join(repr(one.name) for one in carried)
        return f"a request carries one credential, never {names} at once"
    issuers = {one.issuer for one in carried if one.issuer}
    if len(issuers) > 1:
        return f"no token is of two issuers ({' and '.join(sorted(issuers))})"
    return Alternative("token", "key" if keys else "token", scopes, "".join(issuers), certificate)
