"""What several end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.provider import Provider, running_provider


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """An OpenID Provider for all tests; do not rotate its keys."""
    with running_provider(tmp_path_factory.mktemp("provider")) as started:
        yield started
