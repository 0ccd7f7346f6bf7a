"""A YAML node held against a type: plain values, the place of each, and every mistake.

Works on PyYAML's node tree rather than on loaded values, because only nodes know where they stand;
the types come from `msgspec.inspect`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Final, get_args

import yaml
from msgspec import inspect

from sidecar.decide.documents import Duration, Mark, Rate, Size
from sidecar.decide.kinds.values import CEL
from sidecar.decide.pace import pause
from sidecar.decide.yaml_traps import as_text
from sidecar.errors import Problem

ALIASED: Final = 10_000  # nodes that aliases may add, beyond four for each character of the text
MAX_DEPTH: Final = 64  # lists and mappings inside one another
SMALLEST: Final = -(2**63)  # of numbers where any JSON value may stand
LARGEST: Final = 2**64 - 1
_FORMS: Final = {
    get_args(Duration)[1].pattern: ("duration", "write 500ms, 30s, 5m, 1h or 2d"),
    get_args(Rate)[1].pattern: ("rate", "write 100/s, 20/m, 5/h or 1/d"),
    get_args(Size)[1].pattern: ("size", "write 512B, 64KiB or 1MiB"),
}
TEXT: Final = "!"
"""Appended to a pointer: the mark of the text inside a quoted or block scalar."""

_TAG: Final = "tag:yaml.org,2002:"
Members = dict[str, tuple[yaml.Node, yaml.Node]]
"""Fields of a mapping: name to the nodes of its key and value."""


class TooMuch(yaml.YAMLError):
    """Text that stands for more than a document may hold; `problem_mark` is where."""

    def __init__(self, message: str, mark: yaml.Mark) -> None:
        super().__init__(message)
        self.problem_mark = mark


def bound_depth(text: str) -> None:
    """Raises TooMuch for values nested deeper than MAX_DEPTH, and leaves all else to others.

    To be called before any text is composed: PyYAML composes by recursion in C, and deep text
    would end the process. Events come without recursion.
    """
    loader = yaml.CSafeLoader(text)
    depth = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            pause()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise _too_deep(event.start_mark)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except TooMuch:
        raise
    except yaml.YAMLError:
        pass  # what follows here is not composed either; whoever composes says what is wrong
    finally:
        loader.dispose()


def _too_deep(mark: Any) -> TooMuch:
    return TooMuch(f"nested more than {MAX_DEPTH} deep", mark)


class NodeReader:
    """Reads the nodes of one source. `begin` starts a document, whose `marks` are kept."""

    def __init__(self, file: str, text: str, problems: list[Problem]) -> None:
        self.problems = problems
        self.marks: dict[str, Mark] = {}
        self.expressions: list[tuple[str, str]] = []  # of the document: where, and what
        self.document = ""
        self._file = file
        self._text = text
        self._rows: list[str] | None = None  # its lines, once there is a mistake to be shown
        # Without aliases a text has fewer nodes than characters: no "billion laughs".
        self._left = ALIASED + 4 * len(text)

    def begin(self, node: yaml.Node) -> None:
        """What follows belongs to the document of this node."""
        self.marks = {"": _mark(node)}
        self.expressions = []
        self.document = ""

    def text(
        self,
        fields: Members,
        key: str,
        parent: yaml.Node,
        prefix: str = "",
    ) -> str | None:
        entry = fields.get(key)
        if entry is None:
            self.fail(parent, prefix.rstrip("."), f"{key} is missing")
            return None
        value = self.value(entry[1], inspect.StrType(), prefix + key, 1)
        return value if isinstance(value, str) else None

    def value(self, node: yaml.Node, kind: inspect.Type, pointer: str, depth: int) -> Any:
        pause()
        self._left -= 1
        if self._left < 0:
            raise TooMuch("aliases make too many values of this text", node.start_mark)
        if depth + isinstance(node, yaml.CollectionNode) > MAX_DEPTH:  # aliases can nest further
            raise _too_deep(node.start_mark)
        self.marks.setdefault(pointer, _mark(node))
        match kind:
            case inspect.UnionType():
                inner = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
                return self.value(node, _fitting(node, inner), pointer, depth)
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
            case inspect.IntType():
                return self._integer(node, kind, pointer)
            case inspect.FloatType():
                return self._number(node, kind, pointer)
            case inspect.BoolType():
                return self._boolean(node, pointer)
            case inspect.Metadata():
                value = self.value(node, kind.type, pointer, depth)
                if isinstance(value, str) and (kind.extra_json_schema or {}).get("title") == CEL:
                    self.expressions.append((pointer, value))
                return value
            case _:
                return self._any(node, pointer, depth)

    def _struct(
        self, node: yaml.Node, kind: inspect.StructType, pointer: str, depth: int
    ) -> dict[str, Any] | None:
        known = {field.encode_name: field for field in kind.fields}
        if not isinstance(node, yaml.MappingNode):
            self.fail(
                node, pointer, f"expected fields, found {kind_of(node)}",
                _spaced(node, known) or f"known: {_join(known)}",
            )  # fmt: skip
            return None
        members = dict(self.members(node, pointer))
        self.reject_unknown(members, tuple(known), pointer)
        out: dict[str, Any] = {}
        for name, info in known.items():
            if name in members:
                out[name] = self.value(members[name][1], info.type, f"{pointer}.{name}", depth + 1)
            elif info.required:
                self.fail(node, pointer, f"{name} is missing")
        return out

    def _list(
        self, node: yaml.Node, kind: inspect.ListType, pointer: str, depth: int
    ) -> list[Any] | None:
        if not isinstance(node, yaml.SequenceNode):
            hint = "write at least one entry, or leave the field out" if is_nothing(node) else ""
            if isinstance(node, yaml.ScalarNode) and not hint:
                hint = f"write [{node.value}]"
            self.fail(node, pointer, f"expected a list, found {kind_of(node)}", hint)
            return None
        if kind.min_length and len(node.value) < kind.min_length:
            self.fail(node, pointer, "expected at least one entry", "or leave the field out")
        return [
            self.value(item, kind.item_type, f"{pointer}[{place}]", depth + 1)
            for place, item in enumerate(node.value)
        ]

    def _dict(
        self, node: yaml.Node, value_type: inspect.Type, pointer: str, depth: int
    ) -> dict[str, Any] | None:
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, pointer, f"expected a mapping, found {kind_of(node)}")
            return None
        return {
            key: self.value(value, value_type, f"{pointer}.{key}", depth + 1)
            for key, (_, value) in self.members(node, pointer)
        }

    def _literal(self, node: yaml.Node, kind: inspect.LiteralType, pointer: str) -> str | None:
        value = self._string(node, inspect.StrType(), pointer)
        if value is not None and value not in kind.values:
            choices = [str(choice) for choice in kind.values]
            self.fail(
                node, pointer, f"{value!r} is not one of {', '.join(choices)}",
                closest(value, choices),
            )  # fmt: skip
            return None
        return value

    def _string(self, node: yaml.Node, kind: inspect.StrType, pointer: str) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self.fail(
                node,
                pointer,
                f"expected text, found {kind_of(node)}",
                self._quote_it(node) or "text that starts with [ or { must be quoted",
            )
            return None
        value: str = node.value
        if node.style:  # where the text itself begins: behind a quote, or a line below
            line, column = _mark(node)
            quoted = node.style in "'\""
            self.marks[pointer + TEXT] = (line, column + 1) if quoted else (line + 1, 1)
        if node.tag != _TAG + "str":
            if not value and is_nothing(node):
                hint = "write a value, or leave the field out"
            elif kind.pattern and not re.search(kind.pattern, value):
                hint = _FORMS[kind.pattern][1]  # in quotes it would not do either
            else:
                hint = self._quote_it(node) or f'quote it: "{value}"'
            self.fail(node, pointer, f"expected text, found {kind_of(node)}", hint)
            return None
        if kind.min_length and len(value) < kind.min_length:
            self.fail(node, pointer, "must not be empty")
        elif kind.max_length and len(value) > kind.max_length:
            self.fail(node, pointer, f"longer than {kind.max_length} characters")
        elif kind.pattern and not re.search(kind.pattern, value):
            what, hint = _FORMS[kind.pattern]
            self.fail(node, pointer, f"{value!r} is not a {what}", hint)
        elif any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            self.fail(node, pointer, "holds half of a surrogate pair")
        return value

    def _integer(self, node: yaml.Node, kind: inspect.IntType, pointer: str) -> int | None:
        value = node.value if isinstance(node, yaml.ScalarNode) and not node.style else ""
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value):
            self.fail(node, pointer, f"expected a whole number, found {kind_of(node)}")
            return None
        found = int(value)
        least, most = kind.ge, kind.le
        if (least is not None and found < least) or (most is not None and found > most):
            self.fail(node, pointer, f"{found} is not from {least} to {most}")
            return None
        return found

    def _number(self, node: yaml.Node, kind: inspect.FloatType, pointer: str) -> float | None:
        value = node.value if isinstance(node, yaml.ScalarNode) and not node.style else ""
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?", value):
            self.fail(node, pointer, f"expected a number, found {kind_of(node)}")
            return None
        found = float(value)
        least, most = kind.ge, kind.le
        if (least is not None and found < least) or (most is not None and found > most):
            self.fail(node, pointer, f"{value} is not from {least} to {most}")
            return None
        return found

    def _boolean(self, node: yaml.Node, pointer: str) -> bool | None:
        if node.tag == _TAG + "bool" and node.value in ("true", "false"):
            return bool(node.value == "true")
        hint = ""
        if node.tag == _TAG + "bool":  # YAML 1.1 has eleven spellings of each
            hint = f"write {str(node.value.lower() in ('true', 'yes', 'on', 'y')).lower()}"
        self.fail(node, pointer, f"expected true or false, found {kind_of(node)}", hint)
        return None

    def _any(self, node: yaml.Node, pointer: str, depth: int) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._dict(node, inspect.AnyType(), pointer, depth)
        if isinstance(node, yaml.SequenceNode):
            return self._list(node, inspect.ListType(inspect.AnyType()), pointer, depth)
        tag, value = node.tag.removeprefix(_TAG), node.value
        if tag == "str":
            return value
        try:  # what JSON knows and nothing else: YAML's dates, octals and sets do not travel
            found = json.loads(value, parse_constant=_refuse_constant)
        except ValueError:
            self.fail(node, pointer, f"{value!r} is not a JSON value", f'quote it: "{value}"')
            return None
        if isinstance(found, int | float) and not SMALLEST <= found <= LARGEST:
            self.fail(node, pointer, "a number beyond 64 bits", f'quote it: "{value}"')
            return None
        return found

    def members(
        self, node: yaml.MappingNode, pointer: str
    ) -> Iterator[tuple[str, tuple[yaml.Node, yaml.Node]]]:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _TAG + "merge":
                self.fail(key, pointer, "expected a field name", "merge keys are not supported")
                continue
            name: str = key.value
            if name in seen:
                self.fail(key, f"{pointer}.{name}".lstrip("."), f"{name!r} is given twice")
                continue
            seen.add(name)
            yield name, (key, value)

    def reject_unknown(
        self,
        members: Members,
        known: tuple[str, ...],
        pointer: str,
    ) -> None:
        for name, (key, _) in members.items():
            if name not in known:
                self.fail(
                    key, f"{pointer}.{name}".lstrip("."), f"unknown field {name!r}",
                    closest(name, list(known)) or f"known: {_join(known)}",
                )  # fmt: skip

    def _quote_it(self, node: yaml.Node) -> str:
        line, column = _mark(node)
        if self._rows is None:
            self._rows = self._text.splitlines()
        written = as_text(self._rows[line - 1], column) if line <= len(self._rows) else ""
        return f"quote it: {written}" if written else ""

    def fail(self, node: yaml.Node, pointer: str, message: str, hint: str = "") -> None:
        line, column = _mark(node)
        self.problems.append(
            Problem(
                message=message,
                file=self._file,
                line=line,
                column=column,
                document=self.document,
                pointer=pointer,
                hint=hint,
            )
        )


def _fitting(node: yaml.Node, kinds: list[inspect.Type]) -> inspect.Type:
    """Of several types the one that is written like this, or else the first."""
    for kind in kinds if len(kinds) > 1 else ():
        mapping = isinstance(kind, inspect.StructType | inspect.DictType)
        if mapping is isinstance(node, yaml.MappingNode) and (
            isinstance(kind, inspect.BoolType) is (node.tag == _TAG + "bool")
        ):
            return kind
    return kinds[0]


def _mark(node: yaml.Node) -> Mark:
    mark = node.start_mark
    return mark.line + 1, mark.column + 1


def kind_of(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    tag: str = node.tag.removeprefix(_TAG)
    names = {"null": "nothing", "str": "text", "int": "a number", "float": "a number"}
    return names.get(tag, f"a {tag}")


def _spaced(node: yaml.Node, known: Iterable[str]) -> str:
    """For `name:x`, which to YAML is all text."""
    if not isinstance(node, yaml.ScalarNode):
        return ""
    name, colon, rest = node.value.partition(":")
    return f"a space belongs after the colon: {name}: {rest}" if colon and name in known else ""


def closest(word: str, choices: list[str]) -> str:
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"
