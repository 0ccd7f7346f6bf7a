"""Writes what the proto files say of calls, messages, fields and values: generated code has none.

python proto/comments.py DESCRIPTOR_SET >comments.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

SERVICE, MESSAGE, ENUM = 6, 4, 5  # field numbers in FileDescriptorProto
_INSIDE = {
    "service": {2: ("method", "method")},
    "message": {2: ("field", "field"), 3: ("nested_type", "message"), 4: ("enum_type", "enum")},
    "enum": {2: ("value", "value")},
}


def comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Full names, and what stands before them."""
    tops: dict[int, tuple[Any, str]] = {
        SERVICE: (file.service, "service"),
        MESSAGE: (file.message_type, "message"),
        ENUM: (file.enum_type, "enum"),
    }
    for location in file.source_code_info.location:
        path = list(location.path)
        text = " ".join(location.leading_comments.split())
        if not text or not path or path[0] not in tops:
            continue
        found, kind = tops[path[0]]
        thing = found[path[1]]
        names = [file.package, thing.name]
        for number, place in zip(path[2::2], path[3::2], strict=True):
            field, kind = _INSIDE[kind][number]
            thing = getattr(thing, field)[place]
            names.append(thing.name)
        yield ".".join(names), text


if __name__ == "__main__":
    every = FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())
    known = dict(sorted(pair for file in every.file for pair in comments(file)))
    print(json.dumps(known, indent=0, ensure_ascii=False))
