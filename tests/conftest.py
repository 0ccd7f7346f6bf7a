"""What every test relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Compiled modules hide their sources: older ones would be tested in the place of edited ones."""
    stale = [
        source.relative_to(ROOT)
        for built in (ROOT / "sidecar").rglob("*.so")
        if (source := built.with_name(built.name.partition(".")[0] + ".py")).exists()
        and source.stat().st_mtime > built.stat().st_mtime
    ]
    if stale:
        pytest.exit(
            f"edited since it was compiled: {', '.join(map(str, stale))}; run `make unit`, or "
            "`make unit SIDECAR_COMPILE=0` to go on interpreted",
            returncode=2,
        )
