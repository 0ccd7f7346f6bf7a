"""What docs/control-plane.md shows of HTTP works as it stands there, with curl."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from sidecar.control.api.routes import ROUTES
from tests.control.api.calling import open_api, tls_api
from tests.control.test_doors import signed

PAGE = Path(__file__).parents[3] / "docs" / "control-plane.md"
SECTION = PAGE.read_text().partition("### Over HTTP\n")[2].partition("\n### ")[0]
LOOPBACK, _, ELSEWHERE = re.findall(r"```sh\n(.*?)```", SECTION, re.S)

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


async def done(script: str, folder: Path) -> tuple[int, str]:
    shell = await asyncio.create_subprocess_exec(
        "bash", "-eu", "-c", script, cwd=folder, stdout=-1, stderr=-2
    )
    out, _ = await shell.communicate()
    return shell.returncode or 0, out.decode()


async def test_on_loopback(tmp_path: Path) -> None:
    async with open_api(tmp_path) as here:
        assert "http://127.0.0.1:7480/" in LOOPBACK
        code, out = await done(LOOPBACK.replace("127.0.0.1:7480", here.bound.http), tmp_path)
        assert code == 0, out
        assert '"outcome":"published"' in out
        assert '"message":"payments may be read"' in out
        assert '"reaches":[{"namespace":"default","version":1' in out


async def test_elsewhere(tmp_path: Path) -> None:
    async with tls_api(tmp_path) as (here, _):
        (tmp_path / "token.jwt").write_text(signed("viewer"))
        there = f"localhost:{here.bound.api.rpartition(':')[2]}"
        code, out = await done(ELSEWHERE.replace("control.example:7446", there), tmp_path)
        assert code == 0, out
        assert out.startswith('{"sidecars":[]')


def test_each_path_is_named() -> None:
    for route in ROUTES:
        end = route.path.removeprefix("/v1").rpartition("}")[2]
        last = "/" + end.rpartition("/")[2]
        assert f"/v1{end}" in SECTION or last in SECTION, route.path
