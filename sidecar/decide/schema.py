"""The document types as JSON Schema (draft 2020-12), for editors: what `parse` takes.

Everything comes from the types, so a new kind or field is there by itself. Only keywords that mean
the same since draft 7 are used, since many editors know no later one. What a schema cannot say
stays with `parse` (a key given twice, the bound on depth) and `compile` (what the words mean).
"""

from __future__ import annotations

import inspect as python
from typing import Any, Final

from msgspec import NODEFAULT, inspect, to_builtins

from sidecar.decide.documents import KINDS
from sidecar.decide.nodes import LARGEST, SMALLEST
from sidecar.decide.parse import API_VERSION, NAME

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

_NAME: Final = f"^(?:{NAME.pattern})$"
_VALUE: Final = "JsonValue"
_JSON_VALUE: Final[Schema] = {
    "description": "Any JSON value; numbers of at most 64 bits.",
    "minimum": SMALLEST,
    "maximum": LARGEST,
    "items": {"$ref": f"#/$defs/{_VALUE}"},
    "additionalProperties": {"$ref": f"#/$defs/{_VALUE}"},
}
_METADATA: Final[Schema] = {
    "description": "What the document is called, and where it belongs.",
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {
            "description": "Unique within kind and namespace: lower-case letters, digits, `-` "
            "and `.`, at most 253.",
            "type": "string",
            "pattern": _NAME,
        },
        "namespace": {
            "description": "Documents of `platform` apply in every namespace, all others in "
            "their own only.",
            "type": "string",
            "pattern": _NAME,
            "default": "default",
        },
        "labels": {
            "description": "Labels of the document itself; sidecars are named by `spec.selector`.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        },
    },
}


def schema() -> Schema:
    """The schema of one document of any kind. `kind` settles which `spec` is expected, so that an
    editor names the one mistake in a spec instead of what all other kinds would have wanted."""
    definitions: Schema = {_VALUE: _JSON_VALUE}
    kinds = {
        kind: _type(inspect.type_info(spec), definitions) for kind, spec in sorted(KINDS.items())
    }
    return {
        "$schema": DIALECT,
        "$id": f"urn:sidecar:schema:{API_VERSION}",
        "title": f"A document of {API_VERSION}",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {
                "description": "The version of the form.",
                "type": "string",
                "const": API_VERSION,
            },
            "kind": {
                "description": "\n\n".join(
                    f"`{kind}`: {definitions[kind]['description']}" for kind in kinds
                ),
                "type": "string",
                "enum": list(kinds),
            },
            "metadata": _METADATA,
            "spec": {"description": "What it says; its fields depend on `kind`.", "type": "object"},
        },
        "allOf": [
            {
                "if": {"required": ["kind"], "properties": {"kind": {"const": kind}}},
                "then": {"properties": {"spec": spec}},
            }
            for kind, spec in kinds.items()
        ],
        "$defs": definitions,
    }


def _type(info: inspect.Type, definitions: Schema) -> Schema:
    """What `nodes.NodeReader` and then msgspec take for this type. Raises TypeError for a type that
    has no case here yet."""
    match info:
        case inspect.Metadata():
            return {**_type(info.type, definitions), **(info.extra_json_schema or {})}
        case inspect.StructType():
            return _struct(info, definitions)
        case inspect.UnionType():
            # A field that may be left out is None in the types; written, it is never null.
            parts = [part for part in info.types if not isinstance(part, inspect.NoneType)]
            if len(parts) == 1:
                return _type(parts[0], definitions)
            return {"anyOf": [_type(part, definitions) for part in parts]}
        case inspect.ListType():
            return {
                "type": "array",
                "items": _type(info.item_type, definitions),
                **_given(minItems=info.min_length, maxItems=info.max_length),
            }
        case inspect.DictType():
            return {
                "type": "object",
                "additionalProperties": _type(info.value_type, definitions),
                **_given(minProperties=info.min_length, maxProperties=info.max_length),
            }
        case inspect.LiteralType():
            return {"type": "string", "enum": list(info.values)}
        case inspect.StrType():
            return {
                "type": "string",
                **_given(
                    minLength=info.min_length,
                    maxLength=info.max_length,
                    pattern=None if info.pattern is None else _ecma(info.pattern),
                ),
            }
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType() | inspect.FloatType():
            return {
                "type": "integer" if isinstance(info, inspect.IntType) else "number",
                **_given(
                    minimum=info.ge,
                    maximum=info.le,
                    exclusiveMinimum=info.gt,
                    exclusiveMaximum=info.lt,
                    multipleOf=info.multiple_of,
                ),
            }
        case inspect.AnyType():
            return {"$ref": f"#/$defs/{_VALUE}"}
    raise TypeError(f"no JSON Schema for {info!r} yet")


def _struct(info: inspect.StructType, definitions: Schema) -> Schema:
    name = info.cls.__name__
    if name not in definitions:
        definitions[name] = {}  # holds the place, should it hold itself
        required = [field.encode_name for field in info.fields if field.required]
        definitions[name] = {
            "title": name,
            "description": " ".join(python.cleandoc(info.cls.__doc__ or "").split()),
            "type": "object",
            **({"required": required} if required else {}),
            "additionalProperties": not info.forbid_unknown_fields,
            "properties": {
                field.encode_name: {**_type(field.type, definitions), **_default(field)}
                for field in info.fields
            },
        }
    return {"$ref": f"#/$defs/{name}"}


def _default(field: inspect.Field) -> Schema:
    """What counts when the field is left out; where that is nothing, or all defaults of its own
    fields, there is nothing worth an editor's while to fill in."""
    if field.required:
        return {}
    factory = field.default_factory
    value = to_builtins(field.default if factory is NODEFAULT else factory())
    if value is None or value == [] or isinstance(value, dict):
        return {}
    if isinstance(value, list):
        value = [
            {key: part for key, part in item.items() if part is not None}
            if isinstance(item, dict)
            else item
            for item in value
        ]
    return {"default": value}


def _ecma(pattern: str) -> str:
    r"""JSON Schema's expressions are JavaScript's: `^` and `$` are there what `\A` and `\Z` are
    here."""
    if pattern.startswith(r"\A") and pattern.endswith(r"\Z"):
        pattern = f"^{pattern[2:-2]}$"
    if r"\A" in pattern or r"\Z" in pattern or "(?P" in pattern:
        raise TypeError(f"{pattern!r} means something else in JavaScript")
    return pattern


def _given(**keywords: Any) -> Schema:
    return {key: value for key, value in keywords.items() if value is not None}
