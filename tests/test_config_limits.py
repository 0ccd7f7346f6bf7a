"""The proxy's bounds as settings."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sidecar.config_limits import BOUNDS, limits, size
from sidecar.edge.limits import Limits


def test_defaults_are_those_of_the_proxy() -> None:
    values = {bound.key.replace("-", "_"): bound.read(bound.default) for bound in BOUNDS}
    assert limits(values) == Limits()
    assert limits({}) == Limits()


def test_each_setting_sets_one_attribute_that_exists() -> None:
    attributes = [bound.attribute for bound in BOUNDS]
    assert len(set(attributes)) == len(attributes)
    assert set(attributes) <= {field.name for field in fields(Limits)}


@pytest.mark.parametrize(
    ("key", "text", "attribute", "value"),
    [
        ("max-connections", "7", "connections", 7),
        ("max-head", "16KiB", "head", 16384),
        ("min-body-rate", "0", "body_rate", 0),
        ("min-body-rate", "2KiB", "body_rate", 2048),
        ("total-timeout", "90s", "total", 90.0),
        ("connect-timeout", "250ms", "connect", 0.25),
        ("max-redacted-body", "16MiB", "redacted_body", 16 * 1024 * 1024),
    ],
)
def test_what_is_set(key: str, text: str, attribute: str, value: object) -> None:
    bound = next(bound for bound in BOUNDS if bound.key == key)
    found = limits({key.replace("-", "_"): bound.read(text)})
    assert getattr(found, attribute) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("max-connections", "0"), ("max-connections", "-1"), ("max-connections", "many"),
        ("max-head", "10"), ("max-head", "2MiB"), ("max-head", "1 KiB"), ("max-head", "64kib"),
        ("header-timeout", "0s"), ("header-timeout", "soon"), ("total-timeout", "-1s"),
        ("min-body-rate", "fast"), ("max-redacted-body", "17MiB"),
    ],
)  # fmt: skip
def test_what_cannot_be(key: str, text: str) -> None:
    bound = next(bound for bound in BOUNDS if bound.key == key)
    with pytest.raises(ValueError, match=r"write|is not|may be limited"):
        bound.read(text)


def test_sizes() -> None:
    assert [size(text) for text in ("1", "3KiB", "2MiB")] == [1, 3072, 2097152]
