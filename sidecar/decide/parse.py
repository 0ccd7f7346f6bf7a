"""YAML or JSON text -> documents, or every mistake in it with file, line and column.

`nodes` holds what is written against the types in `documents`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec
import orjson
import yaml
from msgspec import inspect
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.resolver import Resolver

from sidecar.decide.compile_rule import expression
from sidecar.decide.documents import KINDS, AccessPolicy, Document, Spec
from sidecar.decide.nodes import (
    MAX_DEPTH,
    Members,
    NodeReader,
    TooMuch,
    bound_depth,
    closest,
    is_nothing,
    kind_of,
)
from sidecar.decide.pace import pause
from sidecar.decide.problems import problem_at
from sidecar.decide.syntax import NOT_YAML, no_yaml
from sidecar.errors import DocumentsInvalid, Problem

API_VERSION: Final = "authz.sidecar/v1"
MAX_TEXT: Final = 64 * 1024 * 1024  # bytes of one source

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_SURROGATES: Final = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_SPEC_TYPES: Final[Mapping[str, inspect.StructType]] = {
    kind: info
    for kind, spec in KINDS.items()
    if isinstance(info := inspect.type_info(spec), inspect.StructType)
}
_AGAIN: Final = 20  # how often a text is read on after what is no YAML

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """A text to parse and the name that its problems carry."""

    name: str
    text: str


def parse(sources: Iterable[Source]) -> tuple[list[Document], list[Problem]]:
    """All documents that are well-formed, and all problems of those that are not."""
    return together(map(parse_one, sources))


def parse_one(source: Source) -> tuple[list[Document], list[Problem]]:
    """The same of one source, by itself."""
    problems: list[Problem] = []
    return list(_Parser(source, problems).documents()), problems


def together(
    parsed: Iterable[tuple[list[Document], list[Problem]]],
) -> tuple[list[Document], list[Problem]]:
    """What several sources hold: each document once, in order, and all problems."""
    documents: list[Document] = []
    problems: list[Problem] = []
    seen: dict[str, Document] = {}
    for found, wrong in parsed:
        problems += wrong
        pause()
        for document in found:
            first = seen.setdefault(document.ref, document)
            if first is document:
                documents.append(document)
                continue
            line, _ = first.marks.get("metadata.name", (0, 0))
            problems.append(
                problem_at(
                    document,
                    "metadata.name",
                    f"{document.ref} is already defined at {first.file}:{line}",
                    hint="names are unique within kind and namespace",
                )
            )
    return documents, problems


class _Composer(Composer, CParser, Resolver):
    """PyYAML's C parser with its Python composer: nearly as fast as with the one in C, which lets
    no other thread go on before a whole document, however large, is composed."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        pause()
        return super().compose_node(parent, index)


def compose(source: Source) -> Iterator[yaml.Node]:
    """The nodes of each document of YAML or JSON text that is not too long or too deep for that;
    empty ones are passed over. Raises DocumentsInvalid where it goes no further."""
    text = source.text.removeprefix("\ufeff")  # a mark of its encoding, not of its contents
    if len(text) > MAX_TEXT:
        raise DocumentsInvalid([Problem("file is larger than 64 MiB", file=source.name)])
    if text.lstrip()[:1] in ("{", "["):
        # JSON writes characters beyond the BMP as surrogate pairs, which YAML does not know.
        text = _SURROGATES.sub(_join_surrogates, text)
    try:
        pause()
        bound_depth(text)
        pause()
        composer = _Composer(text)
        try:
            while composer.check_node():
                node = composer.get_node()
                if node is not None and not is_nothing(node):
                    yield node
        finally:
            composer.dispose()
    except yaml.YAMLError as error:
        raise DocumentsInvalid([no_yaml(source.name, error, text)]) from None


def from_canonical(data: bytes) -> Document:
    """A document from its canonical JSON, as it travels. Raises DocumentsInvalid."""
    document = _quickly(data)
    if document is not None:
        return document
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise DocumentsInvalid([Problem("document is not UTF-8")]) from None
    documents, problems = parse([Source("", text)])
    if not problems and len(documents) != 1:
        problems = [Problem(f"expected one document, found {len(documents)}")]
    if problems:
        raise DocumentsInvalid(problems)
    return documents[0]


def _quickly(data: bytes) -> Document | None:
    """The document, if `data` is exactly its canonical form; None leaves it to `parse` to judge.

    Bytes that come out of JSON and go into it again unchanged name no member twice.
    """
    if b"null" in data:
        return None  # to msgspec a null is an absent member; to people a mistake
    try:
        body = orjson.loads(data)
        if orjson.dumps(body, option=orjson.OPT_SORT_KEYS) != data or _depth(body) > MAX_DEPTH:
            return None
        typed = msgspec.convert(body, _Envelope)
        spec: Spec = msgspec.convert(typed.spec, KINDS[typed.kind])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    metadata = typed.metadata
    if not NAME.fullmatch(metadata.name) or not NAME.fullmatch(metadata.namespace):
        return None
    return Document(
        kind=typed.kind,
        namespace=metadata.namespace,
        name=metadata.name,
        labels=metadata.labels,
        spec=spec,
        canonical=data,
        digest=hashlib.sha256(data).hexdigest(),
    )


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    labels: dict[str, str]
    name: str
    namespace: str


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    api_version: Literal["authz.sidecar/v1"]
    kind: str
    metadata: _Metadata
    spec: dict[str, Any]


def _depth(value: Any) -> int:
    """How deep lists and mappings are inside one another, up to one more than is allowed."""
    depth, layer = 0, [value]
    while depth <= MAX_DEPTH:
        inner: list[Any] = []
        found = False
        for item in layer:
            if isinstance(item, dict):
                found = True
                inner += item.values()
            elif isinstance(item, list):
                found = True
                inner += item
        if not found:
            break
        depth, layer = depth + 1, inner
    return depth


def with_spec(document: Document, spec: Mapping[str, Any]) -> Document:
    """The document with `spec` (plain JSON values) in place of its own; marks stay."""
    body = orjson.loads(document.canonical)
    body["spec"] = dict(spec)
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return Document(
        kind=document.kind,
        namespace=document.namespace,
        name=document.name,
        labels=document.labels,
        spec=msgspec.convert(body["spec"], KINDS[document.kind]),
        canonical=canonical,
        digest=hashlib.sha256(canonical).hexdigest(),
        file=document.file,
        marks=document.marks,
    )


def read_nodes(
    source: Source, problems: list[Problem], read: Callable[[yaml.Node], T | None]
) -> Iterator[T]:
    """What `read` makes of the node of each YAML document in a text. What is no YAML is a problem,
    and is read again from the next `---`; what is too much is one, and nothing is read after it."""
    begin = 0  # the line that reading begins with; those before it are left empty
    for _ in range(_AGAIN):
        try:
            for node in compose(source):
                found = read(node)
                _take_apart(node)
                if found is not None:
                    yield found
            return
        except DocumentsInvalid as error:
            problems += error.problems
            stumbled = error.problems[0]
        except TooMuch as error:
            problems.append(no_yaml(source.name, error, source.text))
            return
        if not stumbled.message.startswith(NOT_YAML):
            return
        lines = source.text.splitlines(keepends=True)
        following = range(max(stumbled.line - 1, begin + 1), len(lines))
        begin = next((each for each in following if lines[each].startswith("---")), 0)
        if not begin:
            return
        source = Source(source.name, "\n" * begin + "".join(lines[begin:]))


def _take_apart(root: yaml.Node) -> None:
    """Let go of nodes bit by bit; of thousands at once it would take a millisecond."""
    nodes = [root]
    while nodes:
        pause()
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]
            node.value = []
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
            node.value = []


_NO_SPEC: Final = AccessPolicy(rules=[])


class _Parser:
    """One source. Problems are collected; a document with any is not returned."""

    def __init__(self, source: Source, problems: list[Problem]) -> None:
        self._source = source
        self._problems = problems
        self._reader = NodeReader(source.name, source.text, problems)

    def documents(self) -> Iterator[Document]:
        return read_nodes(self._source, self._problems, self._read)

    def _read(self, node: yaml.Node) -> Document | None:
        before = len(self._problems)
        self._reader.begin(node)
        if not isinstance(node, yaml.MappingNode):
            self._reader.fail(node, "", f"expected a document, found {kind_of(node)}")
            return None
        fields = dict(self._reader.members(node, ""))
        self._reader.reject_unknown(fields, ("apiVersion", "kind", "metadata", "spec"), "")
        kind = self._header(fields, node)
        namespace, name, labels = self._metadata(fields, node)
        self._reader.document = f"{kind}/{namespace}/{name}"
        spec: Any = None
        if kind:
            entry = fields.get("spec")
            if entry is None:
                self._reader.fail(node, "", "spec is missing")
            else:
                spec = self._reader.value(entry[1], _SPEC_TYPES[kind], "spec", 1)
        if len(self._problems) > before or not kind:
            if kind:
                self._look_at_expressions(kind, namespace, name)
            return None
        return self._finish(kind, namespace, name, labels, spec, before)

    def _look_at_expressions(self, kind: str, namespace: str, name: str) -> None:
        """What is wrong with them is said along with what is wrong around them."""
        shell = Document(
            kind, namespace, name, {}, _NO_SPEC, b"", "", self._source.name, self._reader.marks
        )
        for pointer, source in self._reader.expressions:
            expression(shell, source, pointer, "any", None, self._problems)

    def _finish(
        self, kind: str, namespace: str, name: str, labels: dict[str, str], spec: Any, before: int
    ) -> Document | None:
        pause()
        try:
            typed: Spec = msgspec.convert(spec, KINDS[kind])
        except msgspec.ValidationError as error:  # a rule of the types that the walk does not know
            self._problems.append(
                Problem(str(error), self._source.name, *self._reader.marks["spec"])
            )
            return None
        body = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"labels": labels, "name": name, "namespace": namespace},
            "spec": spec,
        }
        canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
        return Document(
            kind=kind,
            namespace=namespace,
            name=name,
            labels=labels,
            spec=typed,
            canonical=canonical,
            digest=hashlib.sha256(canonical).hexdigest(),
            file=self._source.name,
            marks=self._reader.marks,
        )

    def _header(self, fields: Members, node: yaml.Node) -> str:
        version = self._reader.text(fields, "apiVersion", node)
        if version is not None and version != API_VERSION:
            place = fields["apiVersion"][1]
            self._reader.fail(
                place, "apiVersion", f"unknown apiVersion {version!r}", f"use {API_VERSION}"
            )
        kind = self._reader.text(fields, "kind", node)
        if kind is not None and kind not in KINDS:
            self._reader.fail(
                fields["kind"][1], "kind", f"unknown kind {kind!r}", closest(kind, list(KINDS))
            )
            return ""
        return kind or ""

    def _metadata(self, fields: Members, node: yaml.Node) -> tuple[str, str, dict[str, str]]:
        entry = fields.get("metadata")
        if entry is None:
            self._reader.fail(node, "", "metadata is missing", "add metadata: {name: ...}")
            return "default", "", {}
        if not isinstance(entry[1], yaml.MappingNode):
            self._reader.fail(entry[1], "metadata", f"expected fields, found {kind_of(entry[1])}")
            return "default", "", {}
        inner = dict(self._reader.members(entry[1], "metadata"))
        self._reader.reject_unknown(inner, ("name", "namespace", "labels"), "metadata")
        names = {"name": "", "namespace": "default"}
        for key in names:
            if key in inner or key == "name":
                value = self._reader.text(inner, key, entry[1], "metadata.")
                if value is not None:
                    names[key] = value
                    if not NAME.fullmatch(value):
                        self._reader.fail(
                            inner[key][1],
                            f"metadata.{key}",
                            f"{value!r} is not a name",
                            "lower-case letters, digits, '-' and '.', at most 253",
                        )
        labels: dict[str, str] = {}
        if "labels" in inner:
            found = self._reader.value(
                inner["labels"][1], inspect.type_info(dict[str, str]), "metadata.labels", 2
            )
            labels = found if isinstance(found, dict) else {}
        return names["namespace"], names["name"], labels


def _join_surrogates(match: re.Match[str]) -> str:
    high, low = (int(part, 16) for part in match.groups())
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
