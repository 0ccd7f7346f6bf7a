"""The API as OpenAPI 3.1, made of the table of routes and of the messages' descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from sidecar import __version__
from sidecar.control.api import messages, streams
from sidecar.control.api.problems import CODES
from sidecar.control.api.routes import OPENAPI, ROUTES, Route
from sidecar.decide.documents import KINDS
from sidecar.decide.parse import API_VERSION, NAME

Schema = dict[str, Any]
_COMMENTS: Final[Mapping[str, str]] = orjson.loads(
    files("sidecar.wire").joinpath("comments.json").read_bytes()
)
_VALUE: Final = re.compile(r"\b[A-Z]+_([A-Z_]+)\b")
_FIELD: Final = re.compile(r"\b([a-z]+)_([a-z])")
_TEXTS: Final = {
    400: "The request cannot be understood; `detail` says where.",
    401: "Nobody can tell who calls.",
    403: "The caller may not, or a browser or a proxy sent it.",
    404: "What was named is not there.",
    405: "The path has other methods; see `Allow`.",
    409: "It cannot be done as things are.",
    413: "Larger than 64 MiB.",
    415: "Another content type than `application/json`.",
    421: "On loopback: another Host than this machine.",
    429: "Too many; come again after `Retry-After`.",
    500: "An error of the control plane's; it is in its log.",
    503: "Not now, and nothing was done; come again after `Retry-After`.",
    504: "No answer in time: it may still be done. Look before you do it again.",
}
_ABOUT: Final = """The Admin service of a control plane, the same as by gRPC.

Bodies are protobuf's JSON (lowerCamelCase), but that documents are JSON objects, enums are
lower-case words, and 64-bit numbers are numbers up to 2^53-1 and strings beyond; both are read.
Unknown members and parameters are refused, as are names that are there twice. Without the setting
`--publishers` nobody has to show who they are; then it listens on loopback only."""


@cache
def document() -> bytes:
    """As JSON text."""
    return orjson.dumps(content())


def content() -> Schema:
    """The whole of it."""
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.verb.lower()] = _operation(route, schemas)
    paths[OPENAPI] = {
        "get": {
            "operationId": "openapi",
            "summary": "This document",
            "security": [],
            "responses": {"200": _json("This document.", {"type": "object"}), **_problems([405])},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "sidecar control plane", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        # The last: nothing, on loopback.
        "security": [{"bearer": []}, {"certificate": []}, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "certificate": {"type": "mutualTLS"},
            },
            "schemas": {**dict(sorted(schemas.found.items())), "Document": _DOCUMENT,
                        "Refusal": _PROBLEM},
        },
    }  # fmt: skip


def _operation(route: Route, schemas: _Schemas) -> Schema:
    last = route.path.rpartition("/")[2]
    responses = _problems(_statuses(route))
    for status, answer in _answers(route, schemas).items():
        problem = responses.get(status, {"description": "", "content": {}})
        description = f"{answer['description']} {problem['description']}".strip()
        content = {**answer["content"], **problem["content"]}
        responses[status] = {"description": description, "content": content}
    found: Schema = {
        "description": _said(route.method.full_name),
        "operationId": route.rpc if not route.fixed else f"{route.rpc}_{last}",
        "summary": route.summary,
        "parameters": [*_in_path(route), *_in_query(route)],
        "responses": dict(sorted(responses.items())),
    }
    if route.verb == "POST":
        schema = schemas.request(route.method.input_type, [*route.named, *route.fixed])
        found["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": schema}},
        }  # fmt: skip
    return found


def _statuses(route: Route) -> list[int]:
    read = [400, 401, 403, 404, 405, 421, 429, 500, 503, 504]
    return read if route.verb == "GET" else sorted([*read, 409, 413, 415])


def _answers(route: Route, schemas: _Schemas) -> Schema:
    schema = schemas.answer(route.method.output_type)
    if route.streams:
        line = {"oneOf": [schema, {"$ref": "#/components/schemas/Refusal"}]}
        text = "One value a line; empty lines are to be passed over. A problem ends it."
        return {"200": {"description": text, "content": {streams.CONTENT_TYPE: {"schema": line}}}}
    found = {"200": _json("Done.", schema)}
    if route.method.output_type.name == "ApplyResponse":
        found["200"] = _json("`published`, `unchanged` or, of a dry run, `would_publish`.", schema)
        found["202"] = _json("`awaits_approval`: `proposal` waits for a second person.", schema)
        found["409"] = _json("`conflict`: `releases` names the newest; nothing was stored.", schema)
        found["422"] = _json("`refused`: `problems` say why; nothing was stored.", schema)
    return found


def _problems(statuses: Iterable[int]) -> Schema:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    return {str(each): {"description": _TEXTS[each], "content": problem} for each in statuses}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _in_path(route: Route) -> list[Schema]:
    namespace = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return [
        {
            "name": name, "in": "path", "required": True,
            "schema": namespace if name == "namespace" else {"type": "string"},
        }
        for name in route.named
    ]  # fmt: skip


def _in_query(route: Route) -> list[Schema]:
    if route.verb != "GET":
        return []
    found = []
    for field in route.open_fields:
        schema = _scalar(field) if field.message_type is None else _VERSION
        if field.is_repeated:
            schema = {"type": "array", "items": schema}
        about = _said(field.full_name) if field.message_type is None else ""
        found.append({"name": field.json_name, "in": "query", "schema": schema, **_about(about)})
    return found


class _Schemas:
    """Of messages, by name. Those of requests are closed, those of answers have all members."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def request(self, kind: Descriptor, without: Iterable[str] = ()) -> Schema:
        """A reference to it, without what stands elsewhere."""
        schema = self._named(kind, answer=False)
        for name in without:
            taken = kind.fields_by_name[name].json_name
            self.found[_name(kind)]["properties"].pop(taken, None)
        return schema

    def answer(self, kind: Descriptor) -> Schema:
        """A reference to it."""
        return self._named(kind, answer=True)

    def _named(self, kind: Descriptor, *, answer: bool) -> Schema:
        name = _name(kind)
        name += "Answer" if answer and name in _BOTH else ""
        if name not in self.found:
            schema = self.found[name] = {"type": "object", **_about(_said(kind.full_name))}
            schema["properties"] = {
                each.json_name: {**self._field(each, answer=answer), **_about(_of(each))}
                for each in kind.fields
            }
            if answer:
                always = [each.json_name for each in kind.fields if not each.has_presence]
                if always:
                    schema["required"] = always
            else:
                schema["additionalProperties"] = False
        return {"$ref": f"#/components/schemas/{name}"}

    def _field(self, field: FieldDescriptor, *, answer: bool) -> Schema:
        inner = messages.value_of_map(field)
        if inner is not None:
            return {"type": "object", "additionalProperties": _scalar(inner)}
        if field.message_type is not None:
            schema = self._named(field.message_type, answer=answer)
        else:
            schema = _scalar(field)
            if field.enum_type is not None and answer:
                schema = {"type": "string", "enum": [*messages.words(field.enum_type)]}
        if not field.is_repeated:
            return schema
        most = {} if answer else {"maxItems": messages.MOST_ITEMS}
        return {"type": "array", "items": schema, **most}


def _said(name: str) -> str:
    """What the proto file says, with names as JSON has them."""
    text = _COMMENTS.get(name, "")
    text = _VALUE.sub(lambda found: f"`{found[1].lower()}`", text)
    return _FIELD.sub(lambda found: found[1] + found[2].upper(), text)


def _of(field: FieldDescriptor) -> str:
    """Of documents it speaks of bytes, and `Document` says what they are here."""
    return "" if field.full_name in messages.OBJECTS else _said(field.full_name)


def _about(text: str) -> Schema:
    return {"description": text} if text else {}


def _scalar(field: FieldDescriptor) -> Schema:
    kind = field.type
    if field.enum_type is not None:
        named = [word for word in messages.words(field.enum_type) if word != "unspecified"]
        return {"type": "string", "enum": named}
    if kind == FieldDescriptor.TYPE_BYTES:
        if field.full_name in messages.OBJECTS:
            reference = {"$ref": "#/components/schemas/Document"}
            return reference if field.is_repeated else {"oneOf": [reference, {"type": "null"}]}
        if field.full_name in messages.TEXTS:
            return {"type": "string"}
        return {"type": "string", "contentEncoding": "base64"}
    if kind in messages.RANGES:
        low, high = messages.RANGES[kind]
        if kind not in messages.SIXTY_FOUR:
            return {"type": "integer", "minimum": low, "maximum": high}
        sign = "-?" if low else ""
        return {
            "type": ["integer", "string"], "minimum": low, "maximum": high,
            "pattern": f"^{sign}[0-9]{{1,19}}$",
        }  # fmt: skip
    return dict(_PLAIN[kind])


def _name(kind: Descriptor) -> str:
    return kind.full_name.removeprefix("sidecar.v1.").replace(".", "")


def _reached(kind: Descriptor) -> set[str]:
    found, left = set(), [kind]
    while left:
        one = left.pop()
        if _name(one) not in found:
            found.add(_name(one))
            left += [each.message_type for each in one.fields if each.message_type is not None]
    return found


_BOTH: Final = frozenset.union(
    *(frozenset(_reached(each.method.input_type)) for each in ROUTES)
) & frozenset.union(*(frozenset(_reached(each.method.output_type)) for each in ROUTES))
"""Messages that requests and answers have."""
_PLAIN: Final[Mapping[int, Schema]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
}
_VERSION: Final[Schema] = {
    "type": "string",
    "pattern": "@[0-9]{1,19}$",
    "description": "NAMESPACE@VERSION, such as `default@7`",
}
_DOCUMENT: Final[Schema] = {
    "description": "See `sidecar schema` for what its `spec` holds. In requests, what is left out "
    "has its default; `file` in a document is read by the command line alone.",
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": API_VERSION},
        "kind": {"enum": list(KINDS)},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string"},
                "namespace": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "spec": {"type": "object"},
    },
}
_PROBLEM: Final[Schema] = {
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {
            "enum": sorted({*CODES.values(), "authentication_required", "browser", "host", "proxy"})
        },
    },
}
