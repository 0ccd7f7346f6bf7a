"""An OpenAPI file as nodes, looked at only where somebody asks. Every mistake names its place.

Values that nobody asks for (schemas, examples) may be whatever YAML allows. Aliases and references
can make much of little text, so whoever goes through values pays for each from one purse.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import unquote

import yaml

from sidecar.decide.nodes import ALIASED, is_nothing, kind_of
from sidecar.decide.parse import Source, compose
from sidecar.errors import DocumentsInvalid, Misuse

MAX_HOPS: Final = 16  # from one $ref to the next

Fields = dict[str, yaml.Node]


class Tree:
    """One file. Everything here raises Misuse for what is not as OpenAPI has it."""

    def __init__(self, source: Source) -> None:
        self._file = source.name
        self._left = ALIASED + 4 * len(source.text)  # as `nodes.NodeReader` has it
        self._fields: dict[int, Fields] = {}
        try:
            roots = list(compose(source))
        except DocumentsInvalid as error:
            raise Misuse([str(replace(each, hint="")) for each in error.problems]) from None
        if len(roots) != 1:
            raise Misuse(f"{source.name}: expected one OpenAPI document, found {len(roots)}")
        self.root = roots[0]

    def mistake(self, node: yaml.Node, message: str) -> Misuse:
        """To be raised: what is wrong, and where."""
        mark = node.start_mark
        return Misuse(f"{self._file}:{mark.line + 1}:{mark.column + 1}: {message}")

    def spend(
        self, values: int, node: yaml.Node, what: str = "aliases and references make too much of it"
    ) -> None:
        """So many values are looked at, perhaps again."""
        self._left -= values
        if self._left < 0:
            raise self.mistake(node, f"more work than a text of its length is worth: {what}")

    def fields(self, node: yaml.Node, what: str) -> Fields:
        """A mapping's fields; those without a value count as left out."""
        known = self._fields.get(id(node))
        if known is not None:
            return known
        if not isinstance(node, yaml.MappingNode):
            raise self.mistake(node, f"{what}: expected fields, found {kind_of(node)}")
        self.spend(len(node.value) + 1, node)
        found: Fields = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise self.mistake(key, f"{what}: expected a field name; merge keys are not read")
            if key.value in found:
                raise self.mistake(key, f"{what}: {key.value!r} is given twice")
            found[key.value] = value
        found = {name: value for name, value in found.items() if not is_nothing(value)}
        self._fields[id(node)] = found
        return found

    def entries(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """A list's entries."""
        if not isinstance(node, yaml.SequenceNode):
            raise self.mistake(node, f"{what}: expected a list, found {kind_of(node)}")
        self.spend(len(node.value) + 1, node)
        return list(node.value)

    def text(self, node: yaml.Node, what: str) -> str:
        """A scalar as it is written: `3.0` is text here, and so is `yes`."""
        if not isinstance(node, yaml.ScalarNode) or is_nothing(node):
            raise self.mistake(node, f"{what}: expected text, found {kind_of(node)}")
        return str(node.value)

    def texts(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self.text(entry, what) for entry in self.entries(node, what))

    def optional(self, fields: Fields, name: str) -> str:
        """Text that is there or not; whatever else is there says nothing."""
        node = fields.get(name)
        return str(node.value) if isinstance(node, yaml.ScalarNode) else ""

    def followed(self, node: yaml.Node, what: str) -> Fields:
        """The fields of what `$ref` leads to, and of the mapping that has it on top of them."""
        fields = self.fields(node, what)
        over: Fields = {}
        for _ in range(MAX_HOPS):
            over = {**fields, **over}
            if "$ref" not in fields:
                return over
            self.spend(len(over), node)
            fields = self.fields(self._at(fields["$ref"]), what)
            over.pop("$ref")
        raise self.mistake(node, f"{what}: one $ref leads to the next without end")

    def _at(self, ref: yaml.Node) -> yaml.Node:
        """What a reference within the file leads to (RFC 6901)."""
        text = self.text(ref, "$ref")
        if text != "#" and not text.startswith("#/"):
            raise self.mistake(
                ref, f"$ref {text!r} leads out of the file; bundle the description into one file"
            )
        node = self.root
        for part in unquote(text).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                found = self.fields(node, "$ref").get(name)
            elif isinstance(node, yaml.SequenceNode) and name.isascii() and name.isdigit():
                found = node.value[int(name)] if int(name[:9]) < len(node.value) else None
            if found is None:
                raise self.mistake(ref, f"$ref {text!r} leads nowhere")
            node = found
        return node
