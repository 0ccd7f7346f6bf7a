"""The difference between two pods as a JSON Patch (RFC 6902).

Whole members of `metadata` and `spec` are replaced: a patch that a person can read, and that does
not depend on places in lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_WITHIN: Final = ("metadata", "spec")


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operations that make `before` to `after`; none where they are equal."""
    found: list[dict[str, Any]] = []
    for outer in _WITHIN:
        old, new = before.get(outer) or {}, after.get(outer) or {}
        if outer not in before and new:
            found.append({"op": "add", "path": f"/{outer}", "value": new})
            continue
        for name in sorted(old.keys() | new.keys()):
            path = f"/{outer}/{_escaped(name)}"
            if name not in new:
                found.append({"op": "remove", "path": path})
            elif name not in old:
                found.append({"op": "add", "path": path, "value": new[name]})
            elif old[name] != new[name]:
                found.append({"op": "replace", "path": path, "value": new[name]})
    return found


def _escaped(name: str) -> str:
    """RFC 6901 section 3."""
    return name.replace("~", "~0").replace("/", "~1")
