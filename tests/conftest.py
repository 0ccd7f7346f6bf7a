"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests last.

    They start processes; gRPC, once used in this process, does not survive that reliably, and
    tests that use it afterwards would hang (DESIGN section 9: never forked after gRPC).
    """
    items.sort(key=lambda item: "e2e" in Path(item.path).parts)
