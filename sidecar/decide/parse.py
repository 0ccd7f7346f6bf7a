"""YAML or JSON text -> documents, or every mistake in it with file, line and column.

Works on PyYAML's node tree rather than on loaded values, because only nodes know where they stand;
the shape to hold them against is read from the types in `documents`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import msgspec
import orjson
import yaml
from msgspec import inspect

from sidecar.decide.documents import KINDS, Document, Mark, Spec
from sidecar.errors import DocumentsInvalid, Problem

API_VERSION: Final = "authz.sidecar/v1"
MAX_TEXT: Final = 64 * 1024 * 1024  # bytes of one source
MAX_NODES: Final = 2_000_000  # of one source, aliases counted each time: no "billion laughs"
MAX_DEPTH: Final = 40
TEXT: Final = "!"
"""Appended to a pointer: the mark of the text inside a quoted or block scalar."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_SURROGATES: Final = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_TAG: Final = "tag:yaml.org,2002:"
_SPEC_TYPES: Final[Mapping[str, inspect.StructType]] = {
    kind: info
    for kind, spec in KINDS.items()
    if isinstance(info := inspect.type_info(spec), inspect.StructType)
}


@dataclass(frozen=True, slots=True)
class Source:
    """A text to parse and the name that its problems carry."""

    name: str
    text: str


def parse(sources: Iterable[Source]) -> tuple[list[Document], list[Problem]]:
    """All documents that are well-formed, and all problems of those that are not."""
    documents: list[Document] = []
    problems: list[Problem] = []
    seen: dict[str, Document] = {}
    for source in sources:
        for document in _Parser(source, problems).documents():
            first = seen.setdefault(document.ref, document)
            if first is not document:
                line, _ = first.marks.get("metadata.name", (0, 0))
                problems.append(
                    problem_at(
                        document,
                        "metadata.name",
                        f"{document.ref} is already defined at {first.file}:{line}",
                        hint="names are unique within kind and namespace",
                    )
                )
            else:
                documents.append(document)
    return documents, problems


def problem_at(
    document: Document, pointer: str, message: str, *, hint: str = "", warning: bool = False
) -> Problem:
    """A problem at `pointer` of a document, or at the nearest enclosing place that is known."""
    place = pointer
    while place not in document.marks and place:
        place = re.sub(r"(?:^|\.|(?=\[))[^.\[]*$", "", place) if place else ""
    line, column = document.marks.get(place, (0, 0))
    return Problem(
        message=message,
        file=document.file,
        line=line,
        column=column,
        document=document.ref,
        pointer=pointer,
        hint=hint,
        warning=warning,
    )


def from_canonical(data: bytes) -> Document:
    """A document from its canonical JSON, as it travels. Raises DocumentsInvalid."""
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


class _Parser:
    """One source. Problems are collected; a document with any is not returned."""

    def __init__(self, source: Source, problems: list[Problem]) -> None:
        self._source = source
        self._problems = problems
        self._marks: dict[str, Mark] = {}
        self._nodes = 0
        self._document = ""

    def documents(self) -> Iterator[Document]:
        text = self._source.text
        if len(text) > MAX_TEXT:
            self._problems.append(Problem("file is larger than 64 MiB", file=self._source.name))
            return
        if text.lstrip()[:1] == "{":
            # JSON writes characters beyond the BMP as surrogate pairs, which YAML does not know.
            text = _SURROGATES.sub(_join_surrogates, text)
        loader = yaml.CSafeLoader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                if node is not None and not _is_empty(node):
                    document = self._read(node)
                    if document is not None:
                        yield document
        except yaml.YAMLError as error:
            self._problems.append(self._syntax(error))
        except RecursionError:
            self._problems.append(Problem("nested too deeply", file=self._source.name))
        finally:
            loader.dispose()

    def _syntax(self, error: yaml.YAMLError) -> Problem:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        what = str(getattr(error, "problem", None) or error).splitlines()[0]
        context = getattr(error, "context", None)
        hint = (
            "quote the whole value if it starts with one of ' \" [ ] { } & * ! | > % @ ` "
            "or holds ': ' or ' #', as in when: \"'admin' in token.groups\""
        )
        return Problem(
            message=f"not valid YAML: {what}" + (f" ({context})" if context else ""),
            file=self._source.name,
            line=mark.line + 1 if mark else 1,
            column=mark.column + 1 if mark else 1,
            hint=hint,
        )

    def _read(self, node: yaml.Node) -> Document | None:
        before = len(self._problems)
        self._marks = {"": _mark(node)}
        self._document = ""
        if not isinstance(node, yaml.MappingNode):
            self._fail(node, "", f"expected a document, found {_kind_of(node)}")
            return None
        fields = dict(self._members(node, ""))
        self._reject_unknown(fields, ("apiVersion", "kind", "metadata", "spec"), "")
        kind = self._header(fields, node)
        namespace, name, labels = self._metadata(fields, node)
        self._document = f"{kind}/{namespace}/{name}"
        spec: Any = None
        if kind:
            entry = fields.get("spec")
            if entry is None:
                self._fail(node, "", "spec is missing")
            else:
                spec = self._value(entry[1], _SPEC_TYPES[kind], "spec", 1)
        if len(self._problems) > before or not kind:
            return None
        return self._finish(kind, namespace, name, labels, spec, before)

    def _finish(
        self, kind: str, namespace: str, name: str, labels: dict[str, str], spec: Any, before: int
    ) -> Document | None:
        try:
            typed: Spec = msgspec.convert(spec, KINDS[kind])
        except msgspec.ValidationError as error:  # a rule of the types that the walk does not know
            self._problems.append(Problem(str(error), self._source.name, *self._marks["spec"]))
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
            marks=self._marks,
        )

    def _header(self, fields: dict[str, tuple[yaml.Node, yaml.Node]], node: yaml.Node) -> str:
        version = self._text(fields, "apiVersion", node)
        if version is not None and version != API_VERSION:
            place = fields["apiVersion"][1]
            self._fail(place, "apiVersion", f"unknown apiVersion {version!r}", f"use {API_VERSION}")
        kind = self._text(fields, "kind", node)
        if kind is not None and kind not in KINDS:
            self._fail(
                fields["kind"][1], "kind", f"unknown kind {kind!r}", _closest(kind, list(KINDS))
            )
            return ""
        return kind or ""

    def _metadata(
        self, fields: dict[str, tuple[yaml.Node, yaml.Node]], node: yaml.Node
    ) -> tuple[str, str, dict[str, str]]:
        entry = fields.get("metadata")
        if entry is None:
            self._fail(node, "", "metadata is missing", "add metadata: {name: ...}")
            return "default", "", {}
        if not isinstance(entry[1], yaml.MappingNode):
            self._fail(entry[1], "metadata", f"expected fields, found {_kind_of(entry[1])}")
            return "default", "", {}
        inner = dict(self._members(entry[1], "metadata"))
        self._reject_unknown(inner, ("name", "namespace", "labels"), "metadata")
        names = {"name": "", "namespace": "default"}
        for key in names:
            if key in inner or key == "name":
                value = self._text(inner, key, entry[1], "metadata.")
                if value is not None:
                    names[key] = value
                    if not _NAME.fullmatch(value):
                        self._fail(
                            inner[key][1],
                            f"metadata.{key}",
                            f"{value!r} is not a name",
                            "lower-case letters, digits, '-' and '.', at most 253",
                        )
        labels: dict[str, str] = {}
        if "labels" in inner:
            found = self._value(
                inner["labels"][1], inspect.type_info(dict[str, str]), "metadata.labels", 2
            )
            labels = found if isinstance(found, dict) else {}
        return names["namespace"], names["name"], labels

    def _text(
        self,
        fields: dict[str, tuple[yaml.Node, yaml.Node]],
        key: str,
        parent: yaml.Node,
        prefix: str = "",
    ) -> str | None:
        entry = fields.get(key)
        if entry is None:
            self._fail(parent, prefix.rstrip("."), f"{key} is missing")
            return None
        value = self._value(entry[1], inspect.StrType(), prefix + key, 1)
        return value if isinstance(value, str) else None

    # The walk: a node held against a type.

    def _value(self, node: yaml.Node, kind: inspect.Type, pointer: str, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(
                None, None, "too many or too deeply nested values", node.start_mark
            )
        self._marks.setdefault(pointer, _mark(node))
        match kind:
            case inspect.UnionType():
                inner = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
                return self._value(node, inner[0], pointer, depth)
            case inspect.StructType():
                return self._struct(node, kind, pointer, depth)
            case inspect.ListType():
                return self._list(node, kind, pointer, depth)
            case inspect.DictType():
                return self._dict(node, kind.value_type, pointer, depth)
            case inspect.LiteralType():
                return self._literal(node, kind, pointer)
            case inspect.StrType():
                return self._string(node, kind, pointer)
            case inspect.Metadata():
                return self._value(node, kind.type, pointer, depth)
            case _:
                return self._any(node, pointer, depth)

    def _struct(
        self, node: yaml.Node, kind: inspect.StructType, pointer: str, depth: int
    ) -> dict[str, Any] | None:
        known = {field.encode_name: field for field in kind.fields}
        if not isinstance(node, yaml.MappingNode):
            self._fail(
                node, pointer, f"expected fields, found {_kind_of(node)}", f"known: {_join(known)}"
            )
            return None
        members = dict(self._members(node, pointer))
        self._reject_unknown(members, tuple(known), pointer)
        out: dict[str, Any] = {}
        for name, info in known.items():
            if name in members:
                out[name] = self._value(members[name][1], info.type, f"{pointer}.{name}", depth + 1)
            elif info.required:
                self._fail(node, pointer, f"{name} is missing")
        return out

    def _list(
        self, node: yaml.Node, kind: inspect.ListType, pointer: str, depth: int
    ) -> list[Any] | None:
        if not isinstance(node, yaml.SequenceNode):
            hint = f"write [{node.value}]" if isinstance(node, yaml.ScalarNode) else ""
            self._fail(node, pointer, f"expected a list, found {_kind_of(node)}", hint)
            return None
        if kind.min_length and len(node.value) < kind.min_length:
            self._fail(node, pointer, "expected at least one entry", "or leave the field out")
        return [
            self._value(item, kind.item_type, f"{pointer}[{place}]", depth + 1)
            for place, item in enumerate(node.value)
        ]

    def _dict(
        self, node: yaml.Node, value_type: inspect.Type, pointer: str, depth: int
    ) -> dict[str, Any] | None:
        if not isinstance(node, yaml.MappingNode):
            self._fail(node, pointer, f"expected a mapping, found {_kind_of(node)}")
            return None
        return {
            key: self._value(value, value_type, f"{pointer}.{key}", depth + 1)
            for key, (_, value) in self._members(node, pointer)
        }

    def _literal(self, node: yaml.Node, kind: inspect.LiteralType, pointer: str) -> str | None:
        value = self._string(node, inspect.StrType(), pointer)
        if value is not None and value not in kind.values:
            choices = [str(choice) for choice in kind.values]
            self._fail(
                node, pointer, f"{value!r} is not one of {', '.join(choices)}",
                _closest(value, choices),
            )  # fmt: skip
            return None
        return value

    def _string(self, node: yaml.Node, kind: inspect.StrType, pointer: str) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._fail(
                node,
                pointer,
                f"expected text, found {_kind_of(node)}",
                "text that starts with [ or { must be quoted",
            )
            return None
        value: str = node.value
        if node.style:  # where the text itself begins: behind a quote, or a line below
            line, column = _mark(node)
            quoted = node.style in "'\""
            self._marks[pointer + TEXT] = (line, column + 1) if quoted else (line + 1, 1)
        if node.tag != _TAG + "str":
            self._fail(
                node, pointer, f"expected text, found {_kind_of(node)}", f'quote it: "{value}"'
            )
            return None
        if kind.min_length and len(value) < kind.min_length:
            self._fail(node, pointer, "must not be empty")
        elif kind.max_length and len(value) > kind.max_length:
            self._fail(node, pointer, f"longer than {kind.max_length} characters")
        elif kind.pattern and not re.search(kind.pattern, value):
            self._fail(
                node, pointer, f"{value!r} is not a duration", "write 500ms, 30s, 5m, 1h or 2d"
            )
        elif any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            self._fail(node, pointer, "holds half of a surrogate pair")
        return value

    def _any(self, node: yaml.Node, pointer: str, depth: int) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._dict(node, inspect.AnyType(), pointer, depth)
        if isinstance(node, yaml.SequenceNode):
            return self._list(node, inspect.ListType(inspect.AnyType()), pointer, depth)
        tag, value = node.tag.removeprefix(_TAG), node.value
        if tag == "str":
            return value
        try:  # what JSON knows and nothing else: YAML's dates, octals and sets do not travel
            return json.loads(value, parse_constant=_refuse_constant)
        except ValueError:
            self._fail(node, pointer, f"{value!r} is not a JSON value", f'quote it: "{value}"')
            return None

    def _members(
        self, node: yaml.MappingNode, pointer: str
    ) -> Iterator[tuple[str, tuple[yaml.Node, yaml.Node]]]:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _TAG + "merge":
                self._fail(key, pointer, "expected a field name", "merge keys are not supported")
                continue
            name: str = key.value
            if name in seen:
                self._fail(key, f"{pointer}.{name}".lstrip("."), f"{name!r} is given twice")
                continue
            seen.add(name)
            yield name, (key, value)

    def _reject_unknown(
        self,
        members: dict[str, tuple[yaml.Node, yaml.Node]],
        known: tuple[str, ...],
        pointer: str,
    ) -> None:
        for name, (key, _) in members.items():
            if name not in known:
                self._fail(
                    key, f"{pointer}.{name}".lstrip("."), f"unknown field {name!r}",
                    _closest(name, list(known)) or f"known: {_join(known)}",
                )  # fmt: skip

    def _fail(self, node: yaml.Node, pointer: str, message: str, hint: str = "") -> None:
        line, column = _mark(node)
        self._problems.append(
            Problem(
                message=message,
                file=self._source.name,
                line=line,
                column=column,
                document=self._document,
                pointer=pointer,
                hint=hint,
            )
        )


def _mark(node: yaml.Node) -> Mark:
    mark = node.start_mark
    return mark.line + 1, mark.column + 1


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


def _kind_of(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    tag: str = node.tag.removeprefix(_TAG)
    names = {"null": "nothing", "str": "text", "int": "a number", "float": "a number"}
    return names.get(tag, f"a {tag}")


def _closest(word: str, choices: list[str]) -> str:
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _join_surrogates(match: re.Match[str]) -> str:
    high, low = (int(part, 16) for part in match.groups())
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
