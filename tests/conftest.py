"""What every test relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAMP = ROOT / "build" / ".compiled-1"  # by the Makefile, each time it compiled


def pytest_unconfigure() -> None:
    """Servers that were started for several tests end."""
    from tests.postgresql import ENDINGS

    for ended in ENDINGS:
        ended()


def pytest_configure(config: pytest.Config) -> None:
    """Compiled modules hide their sources: older ones would be tested in place of edited ones."""
    built = [
        source
        for module in (ROOT / "sidecar").rglob("*.so")
        if (source := module.with_name(module.name.partition(".")[0] + ".py")).exists()
    ]
    if not built:
        return
    compiled = STAMP.stat().st_mtime if STAMP.exists() else 0.0
    stale = [str(source.relative_to(ROOT)) for source in built if source.stat().st_mtime > compiled]
    if stale:
        pytest.exit(
            f"edited since it was compiled: {', '.join(stale)}; run `make unit`, or "
            "`make unit SIDECAR_COMPILE=0` to go on interpreted",
            returncode=2,
        )
