"""An OpenAPI 3.0 or 3.1 file -> its operations, each with its paths and what it asks for.

What cannot be said in documents becomes a remark; what is no OpenAPI at all raises Misuse.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import yaml

from sidecar.cli.openapi.security import UNDECLARED, Alternative, Scheme, combine, scheme
from sidecar.cli.openapi.templates import Template, template
from sidecar.cli.openapi.tree import Fields, Tree
from sidecar.decide.parse import Source

METHODS: Final = ("get", "head", "post", "put", "patch", "delete", "options", "trace")
MAX_SERVERS: Final = 100  # and so many addresses of one server, by its variables
MAX_ALTERNATIVES: Final = 100  # of one operation
LONGEST: Final = 200  # characters of a name or title that is shown

_Asked = tuple[tuple[Alternative, ...], tuple[str, ...]]
"""The alternatives, and why others are missing."""
_VERSION: Final = re.compile(r"3\.[01](\.|\Z)")
_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. Without `alternatives` nobody can be admitted to it; with `undeclared`, the
    description does not say what it asks for."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    templates: tuple[Template, ...]
    alternatives: tuple[Alternative, ...]
    undeclared: bool = False

    def __str__(self) -> str:
        return line(f"{self.method} {self.path}")


@dataclass(slots=True)
class Api:
    """What was read. `remarks`: what was not carried over or needs a look, each with where.
    `used`: the schemes that some rule can ask for. `spend`: what is yet done with it, in steps,
    comes out of the same purse."""

    spend: Callable[[int], None]
    title: str = ""
    operations: list[Operation] = field(default_factory=list)
    schemes: dict[str, Scheme] = field(default_factory=dict)
    used: dict[str, Scheme] = field(default_factory=dict)
    remarks: dict[str, dict[str, None]] = field(default_factory=dict)

    def remark(self, text: str, *places: object) -> None:
        """The same thing said of several places is one remark."""
        known = self.remarks.setdefault(line(text, 1000), {})
        known.update((line(str(place)), None) for place in places)


def line(text: str, most: int = LONGEST) -> str:
    """Text of the file as one harmless line: for terminals, comments and names."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def read(source: Source) -> Api:
    """The description. Raises Misuse."""
    return _Reader(Tree(source)).api


class _Reader:
    """One file; each part that aliases share is read once."""

    def __init__(self, tree: Tree) -> None:
        self.api = Api(
            lambda steps: tree.spend(steps, tree.root, "too many paths match the same requests")
        )
        self._tree = tree
        self._bases: dict[int, tuple[str, ...]] = {}
        self._asked: dict[int, _Asked] = {}
        self._hosts: dict[str, None] = {}
        root = tree.fields(tree.root, "OpenAPI")
        self._check_version(root)
        if "info" in root:
            self.api.title = line(tree.optional(tree.fields(root["info"], "info"), "title"))
        self._schemes(root)
        self._security = root.get("security")
        if self._security is not None and not tree.entries(self._security, "security"):
            self._security = None  # as generators write it by default: it opens nothing
        self._servers(root)
        self._paths(root)
        if "webhooks" in root:
            self.api.remark("webhooks are calls that the service makes, so no rules are about them")
        if self._hosts:
            told = "hosts of `servers`: the rules are about every host; add `match.hosts`"
            self.api.remark(told, *self._hosts)

    def _check_version(self, root: Fields) -> None:
        tree = self._tree
        if "swagger" in root:
            raise tree.mistake(
                root["swagger"], "Swagger 2.0 is not supported; convert it to OpenAPI 3 first"
            )
        if "openapi" not in root:
            raise tree.mistake(tree.root, "not an OpenAPI description: `openapi: 3...` is missing")
        version = tree.text(root["openapi"], "openapi")
        if not _VERSION.match(version):
            raise tree.mistake(
                root["openapi"], f"OpenAPI {version!r} is not supported; 3.0 and 3.1 are"
            )

    def _schemes(self, root: Fields) -> None:
        tree = self._tree
        components = tree.fields(root["components"], "components") if "components" in root else {}
        if "securitySchemes" in components:
            what = "components.securitySchemes"
            for name, node in tree.fields(components["securitySchemes"], what).items():
                self.api.schemes[name] = scheme(tree, name, node)

    # Paths.

    def _paths(self, root: Fields) -> None:
        tree, api = self._tree, self.api
        for path, node in tree.fields(root["paths"], "paths").items() if "paths" in root else ():
            if path.startswith("x-"):
                continue
            if not path.startswith("/"):
                raise tree.mistake(node, f"paths: {path!r} does not start with /")
            item = tree.followed(node, f"path {path!r}")
            servers = self._servers(item) if "servers" in item else self._servers(root)
            for name in METHODS:
                if name in item:
                    self._operation(name.upper(), path, item[name], servers)
        if not api.operations:
            raise tree.mistake(tree.root, "there is no operation in `paths`")

    def _operation(self, method: str, path: str, node: yaml.Node, servers: tuple[str, ...]) -> None:
        tree, api = self._tree, self.api
        fields = tree.fields(node, f"{method} {path!r}")
        if "servers" in fields:
            servers = self._servers(fields)
        tags = tree.texts(fields["tags"], "tags") if "tags" in fields else ()
        security = fields.get("security", self._security)
        asked: _Asked = ((UNDECLARED,), ()) if security is None else self._alternatives(security)
        alternatives, lost = asked
        tree.spend(1 + len(servers) + sum(1 + len(each.scopes) for each in alternatives), node)
        operation = Operation(
            method,
            path,
            line(tree.optional(fields, "operationId")),
            line(tags[0]) if tags else "",
            line(tree.optional(fields, "summary")),
            tuple(template(base + path) for base in servers),
            () if method == "TRACE" else alternatives,
            security is None,
        )
        api.operations.append(operation)
        refused = "" if operation.alternatives else "; it stays refused"
        for why in lost:
            api.remark(why + refused, operation)
        if method == "TRACE":
            api.remark("TRACE is always refused", operation)
        elif security is None:
            api.remark("declares no security: a token is needed until you say otherwise", operation)
        for each in operation.templates:
            if each.why:
                api.remark(f"{each.why}; no rule is made for it", operation)
            for variable in each.odd:
                api.remark(f"{variable!r} is read as one segment of the path", operation)
        if "callbacks" in fields:
            api.remark("callbacks are calls that the service makes, so no rules are about them")

    # Security.

    def _alternatives(self, security: yaml.Node) -> tuple[tuple[Alternative, ...], tuple[str, ...]]:
        """What is asked for, each alternative once, and why others are missing."""
        known = self._asked.get(id(security))
        if known is not None:
            return known
        entries = self._tree.entries(security, "security")
        if len(entries) > MAX_ALTERNATIVES:
            raise self._tree.mistake(security, f"more than {MAX_ALTERNATIVES} alternatives")
        found: dict[Alternative, None] = {} if entries else {Alternative("none"): None}
        lost: dict[str, None] = {}
        for entry in entries:
            combined = self._requirement(self._tree.fields(entry, "security"))
            if isinstance(combined, Alternative):
                found[combined] = None
            else:
                lost[combined] = None
        # A weaker alternative beside it makes a stronger one empty words.
        weakest = tuple(
            each
            for place, each in enumerate(found)
            if not any(
                each.implies(other) and (not other.implies(each) or at < place)
                for at, other in enumerate(found)
                if at != place
            )
        )
        self._asked[id(security)] = weakest, tuple(lost)
        return self._asked[id(security)]

    def _requirement(self, fields: Fields) -> Alternative | str:
        parts = []
        for name, node in fields.items():
            known = self.api.schemes.get(name)
            if known is None:
                return f"{name!r} is not among components.securitySchemes"
            scopes = self._tree.texts(node, f"security {name!r}")
            parts.append((known, scopes))
        combined = combine(parts)
        if isinstance(combined, Alternative):
            for known, scopes in parts:
                self.api.used[known.name] = known
                if known.remark:
                    self.api.remark(f"{known.name!r}: {known.remark}")
                if scopes and not known.scoped:
                    self.api.remark(
                        f"{known.name!r} is no oauth2 scheme, so its roles became scopes", *scopes
                    )
        return combined

    # Servers.

    def _servers(self, fields: Fields) -> tuple[str, ...]:
        """The base paths, without a slash at their ends."""
        node = fields.get("servers")
        if node is None:
            return ("",)
        if id(node) not in self._bases:
            entries = self._tree.entries(node, "servers")
            if len(entries) > MAX_SERVERS:
                raise self._tree.mistake(node, f"more than {MAX_SERVERS} servers")
            bases: dict[str, None] = {}
            for entry in entries:
                bases.update(dict.fromkeys(self._server(self._tree.fields(entry, "server"))))
            if entries and not bases:
                raise self._tree.mistake(node, "no server here has an address that can be read")
            self._bases[id(node)] = tuple(bases) or ("",)
        return self._bases[id(node)]

    def _server(self, fields: Fields) -> Sequence[str]:
        tree, api = self._tree, self.api
        url = tree.optional(fields, "url")
        values: list[tuple[str, ...]] = []
        variables = tree.fields(fields["variables"], "variables") if "variables" in fields else {}
        names = tuple(dict.fromkeys(_VARIABLE.findall(url)))
        for name in names:
            if name not in variables:
                api.remark(f"the server {url!r} has no variable {name!r}, so it was left out")
                return ()
            known = tree.fields(variables[name], "variable")
            default = tree.optional(known, "default")
            values.append(tree.texts(known["enum"], "enum") if "enum" in known else (default,))
            if "enum" not in known:
                api.remark(f"the server {url!r}: {name!r} was taken to be {default!r}")
        found: list[str] = []
        for count, chosen in enumerate(itertools.product(*values)):
            if count == MAX_SERVERS:
                api.remark(f"the server {url!r} has too many addresses; not all were taken")
                break
            base = self._base(_filled(url, dict(zip(names, chosen, strict=True))))
            found += [] if base is None else [base]
        return found

    def _base(self, address: str) -> str | None:
        try:
            parts = None if "?" in address or "#" in address else urlsplit(address)
            host = parts.hostname if parts else None
        except ValueError:
            parts = host = None
        if parts is None or not address:
            self.api.remark(f"the server {address!r} has no address to read, so it was left out")
            return None
        if host:
            self._hosts[host] = None
        path = parts.path
        if path and not path.startswith("/"):
            path = "/" + path.removeprefix("./").removeprefix(".")
            self.api.remark(
                f"the server {address!r} is relative to where the description is served; "
                f"{path!r} was taken"
            )
        return path.rstrip("/")


def _filled(url: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values[match.group(1)], url)
