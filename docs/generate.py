"""Writes docs/reference.md from the document types: `make docs`, checked by a test."""

from __future__ import annotations

import inspect as python
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from msgspec import NODEFAULT, inspect, to_builtins

from sidecar.decide import expressions
from sidecar.decide.documents import KINDS, Duration, Rate, Size

TARGET = Path(__file__).parent / "reference.md"
HEAD = """# Document reference

Made from the types by `make docs`; the words are theirs. Every document is YAML or JSON:

```yaml
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: payments, namespace: default, labels: {team: core}}
spec: {...}                       # namespace and labels may be left out
```

Unknown fields and duplicate keys are errors. Several documents to a file, separated by `---`;
folders are read recursively (`*.yaml`, `*.yml`, `*.json`). Documents of the namespace `platform`
apply in every namespace and come first; all others apply in their own only. Durations are written
`500ms`, `30s`, `5m`, `1h`, `2d`; rates `100/s`, `20/m`, `5/h`, `1/d`, sizes
`512B`, `64KiB`, `1MiB`.
"""

_PATTERNS = {
    get_args(Duration)[1].pattern: "duration",
    get_args(Rate)[1].pattern: "rate",
    get_args(Size)[1].pattern: "size",
}


def main() -> None:
    TARGET.write_text(text())


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for kind, spec in KINDS.items():
        parts += _section(kind, inspect.type_info(spec), "##")
    parts += ["## What expressions see", "", "| variable | type |", "|---|---|"]
    parts += [f"| `{name}` | {str(t.name()).lower()} |" for name, t in _variables()]
    parts += [
        "",
        "An expression is true, false or failed. Failed means: a deny fires, a guard is selected,",
        "an allow does not match, a header refuses the request. Ask for a claim that may be absent",
        "with `has(token.x)`, `'x' in token` or `token.?x.orValue('')`. Header names are lower",
        "case; a repeated header or query key fails when read as one.",
        "",
    ]
    return "\n".join(parts)


def _variables() -> list[tuple[str, Any]]:
    return list(expressions.VARIABLES.items())


def _section(title: str, info: Any, level: str) -> Iterator[str]:
    yield from (f"{level} {title}", "", python.cleandoc(info.cls.__doc__), "")
    yield from ("| field | type | default | meaning |", "|---|---|---|---|")
    inner = []
    for field in info.fields:
        meaning = _description(field.type)
        bare = _bare(field.type)
        yield f"| `{field.encode_name}` | {_type(bare)} | {_default(field)} | {meaning} |"
        inner += [part for part in _structs(bare) if part not in inner]
    yield ""
    for struct in inner:
        yield from _section(f"{title}: {struct.cls.__name__}", struct, "###")


def _description(kind: Any) -> str:
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", ""))
    return ""


def _bare(kind: Any) -> Any:
    return _bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _structs(kind: Any) -> list[Any]:
    kind = _bare(kind)
    match kind:
        case inspect.StructType():
            return [kind]
        case inspect.ListType():
            return _structs(kind.item_type)
        case inspect.DictType():
            return _structs(kind.value_type)
        case inspect.UnionType():
            return [found for part in kind.types for found in _structs(part)]
    return []


def _type(kind: Any) -> str:
    kind = _bare(kind)
    match kind:
        case inspect.UnionType():
            return " or ".join(
                _type(part) for part in kind.types if not isinstance(part, inspect.NoneType)
            )
        case inspect.StructType():
            return str(kind.cls.__name__)
        case inspect.ListType():
            return f"list of {_type(kind.item_type)}"
        case inspect.DictType():
            return "mapping"
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case inspect.BoolType():
            return "boolean"
        case inspect.IntType():
            return "whole number"
        case inspect.FloatType():
            return "number"
    return _PATTERNS.get(getattr(kind, "pattern", None), "text")


def _default(field: Any) -> str:
    if field.required:
        return "required"
    factory = field.default_factory
    value = field.default if factory is NODEFAULT else factory()
    plain = to_builtins(value)
    if isinstance(plain, list):
        plain = [
            {k: v for k, v in item.items() if v is not None} if isinstance(item, dict) else item
            for item in plain
        ]
    if plain in (None, {}, []) or isinstance(plain, dict):
        return ""
    if isinstance(plain, list) and len(plain) > 5:
        return "all of these"
    return f"`{str(plain).lower() if isinstance(plain, bool) else plain}`"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(TARGET.read_text() != text())
    main()
