"""docs/screenshots.py: what goes in comes out, whichever way the rows were filtered."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from pathlib import Path
from types import ModuleType

import pytest

WIDTH, HEIGHT = 7, 6


def _script() -> ModuleType:
    path = Path(__file__).parent.parent / "docs" / "screenshots.py"
    spec = importlib.util.spec_from_file_location("screenshots", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def _pixels(step: int) -> list[bytes]:
    """Few colours, so that all of them have a place in the palette."""
    return [
        bytes([(17 * x) % 5 * 50, (x * y) % 3 * 99, y % 2 * 255, 255][:step])
        for y in range(HEIGHT)
        for x in range(WIDTH)
    ]


def _filtered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    out = bytearray([kind])
    for i, value in enumerate(row):
        a = row[i - step] if i >= step else 0
        b = above[i]
        c = above[i - step] if i >= step else 0
        paeth = min((a, b, c), key=lambda each: abs(a + b - c - each))  # first of equals
        out.append((value - (0, a, b, (a + b) // 2, paeth)[kind]) & 0xFF)
    return bytes(out)


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("step", [3, 4])
def test_the_same_picture(kind: int, step: int) -> None:
    pixels = _pixels(step)
    above, packed = bytes(WIDTH * step), b""
    for y in range(HEIGHT):
        row = b"".join(pixels[y * WIDTH : (y + 1) * WIDTH])
        packed += _filtered(kind, row, above, step)
        above = row
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2 if step == 3 else 6, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + SCRIPT._chunk(b"IHDR", header)
        + SCRIPT._chunk(b"IDAT", zlib.compress(packed))
        + SCRIPT._chunk(b"IEND", b"")
    )
    parts = dict(SCRIPT._chunks(SCRIPT.with_palette(png)))
    palette, rows = parts[b"PLTE"], zlib.decompress(parts[b"IDAT"])
    found = [
        palette[3 * number : 3 * number + 3]
        for y in range(HEIGHT)
        for number in rows[y * (WIDTH + 1) + 1 : (y + 1) * (WIDTH + 1)]
    ]
    assert found == [pixel[:3] for pixel in pixels]
