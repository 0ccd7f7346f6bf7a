"""A control plane in this process, and a shell that talks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.shell import Shell
from tests.publishing import plane


@pytest.fixture
async def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Shell]:
    folder = tmp_path / "policies"
    folder.mkdir()
    async with plane(tmp_path) as (_, bound):
        yield Shell(bound.grpc, folder, capsys)
