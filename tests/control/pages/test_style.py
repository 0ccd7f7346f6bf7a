"""sidecar/control/pages/style.css: contrast; and that all files of the pages are shipped"""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "sidecar" / "control" / "pages"
STYLE = (PAGES / "style.css").read_text()


def colours(scheme: str) -> dict[str, str]:
    """The variables of `light`, or what `dark` makes of them."""
    first, second = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", first))
    changed = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", second))
    assert found.keys() == changed.keys()
    return found if scheme == "light" else changed


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("front", "backs", "least"),
    [
        ("text", ("ground", "card", "tint", "error-tint"), 4.5),
        ("quiet", ("ground", "card", "tint"), 4.5),
        ("accent", ("ground", "card", "tint"), 4.5),
        ("error", ("card", "error-tint"), 4.5),
        ("good", ("good-tint",), 4.5),
        ("on-accent", ("accent",), 4.5),
        ("edge", ("card",), 3.0),
    ],
)
def test_contrast(scheme: str, front: str, backs: tuple[str, ...], least: float) -> None:
    found = colours(scheme)
    for back in backs:
        assert contrast(found[front], found[back]) >= least, back


def test_nothing_is_fetched_from_elsewhere_and_nothing_moves() -> None:
    for word in ("url(", "@import", "transition", "animation", "http"):
        assert word not in STYLE


def test_every_file_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["sidecar"]
    for path in PAGES.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            name = str(path.relative_to(ROOT / "sidecar"))
            assert any(fnmatch(name, pattern) for pattern in patterns), name
