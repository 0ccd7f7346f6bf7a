"""The pictures of docs/journeys.md, out of those that the browser test takes (`make screenshots`).

A page has few colours, so a small palette is enough: a third of the size, and nothing to install.
In: PNG as Chromium writes it, 8 bits of RGB or RGBA, not interlaced. Out: PNG with a palette.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
TAKEN: Final = ROOT / "build" / "screenshots"
SHOWN: Final = ROOT / "docs" / "images"
LARGEST: Final = 60_000  # bytes of a picture
COLOURS: Final = 48
STORY: Final = {
    "1-visitor": "visitor",
    "3-account": "account",
    "4-second-factor": "second-factor",
    "5-consent": "consent",
    "6-profile": "profile",
    "7-paid": "paid",
    "9-privacy": "privacy",
}
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
Colour = bytes  # red, green, blue


def main() -> int:
    """Writes docs/images; 1: a picture is missing or too large."""
    SHOWN.mkdir(exist_ok=True)
    failed = 0
    for taken, shown in STORY.items():
        source = TAKEN / f"journey-{taken}.png"
        if not source.exists():
            print(f"{source.name} is missing: make screenshots takes it", file=sys.stderr)
            return 1
        small = with_palette(source.read_bytes())
        (SHOWN / f"journey-{shown}.png").write_bytes(small)
        print(f"journey-{shown}.png {len(small)} bytes")
        failed |= len(small) > LARGEST
    return failed


def with_palette(png: bytes) -> bytes:
    """The same picture; what is not among its most frequent colours becomes the nearest."""
    width, height, pixels = _read(png)
    counted = Counter(pixels)
    palette = [colour for colour, _ in counted.most_common(COLOURS)]
    place = {colour: number for number, colour in enumerate(palette)}
    for colour in counted:
        if colour not in place:
            place[colour] = place[min(palette, key=lambda each: _apart(each, colour))]
    rows = b"".join(
        b"\0" + bytes([place[pixel] for pixel in pixels[y * width : (y + 1) * width]])
        for y in range(height)
    )
    return (
        _SIGNATURE
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", b"".join(palette))
        + _chunk(b"IDAT", zlib.compress(rows, 9))
        + _chunk(b"IEND", b"")
    )


def _apart(one: Colour, other: Colour) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _read(png: bytes) -> tuple[int, int, list[Colour]]:
    """Width, height, pixels row by row. Raises ValueError."""
    header, packed = b"", b""
    for kind, data in _chunks(png):
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            packed += data
    width, height, depth, form, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or form not in (2, 6) or interlaced:
        raise ValueError("8 bits of RGB or RGBA are expected, not interlaced")
    step = 3 if form == 2 else 4
    raw, line = zlib.decompress(packed), width * step
    above, pixels = bytearray(line), []
    for y in range(height):
        start = y * (line + 1)
        above = _unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + line]), above, step)
        pixels += [bytes(above[x : x + 3]) for x in range(0, line, step)]
    return width, height, pixels


def _unfiltered(kind: int, row: bytearray, above: bytearray, step: int) -> bytearray:
    """PNG (third edition) section 9.2."""
    if kind == 0:
        return row
    for i, value in enumerate(row):
        left = row[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        guess = (left, above[i], (left + above[i]) // 2, _paeth(left, above[i], corner))[kind - 1]
        row[i] = (value + guess) & 0xFF
    return row


def _paeth(left: int, up: int, corner: int) -> int:
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_SIGNATURE)
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        yield png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        place += length + 12


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


if __name__ == "__main__":
    sys.exit(main())
