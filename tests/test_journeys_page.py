"""docs/journeys.md: its documents belong together, and previews print what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sidecar.cli import run
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.lint import review
from sidecar.decide.parse import Source, parse

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "journeys.md").read_text()
DOCUMENTS = "---\n".join(re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
PREVIEWS = re.findall(
    r"^```console\n\$ sidecar (journey preview .*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


def test_the_documents_belong_together() -> None:
    found, problems = parse([Source("shop.yaml", DOCUMENTS)])
    problems += review(found)  # nor anything that `check` warns of
    assert not problems, "\n".join(map(str, problems))
    compile_snapshot(found, namespace="default", labels={})


def test_there_are_previews() -> None:
    assert len(PREVIEWS) >= 3


@pytest.mark.parametrize(("command", "printed"), PREVIEWS)
def test_preview(
    command: str,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop.yaml").write_text(DOCUMENTS)
    assert run(shlex.split(command)) == 0
    assert capsys.readouterr().out == printed


def test_every_event_is_named() -> None:
    """What the control plane writes, by the names in its source."""
    source = "".join(
        file.read_text() for file in (ROOT / "sidecar" / "control" / "subjects").glob("*.py")
    )
    written = set(re.findall(r'"(sidecar\.[a-z]+\.[a-z-]+)"', source))
    written |= {f"sidecar.consent.{each}" for each in ("granted", "refused", "withdrawn")}
    written |= {f"sidecar.profile.{each}" for each in ("asked", "declined")}
    written |= {f"sidecar.subject.{each}" for each in ("linked", "merged", "kept-apart")}
    named = set()
    for row in re.findall(r"^\| (`sidecar\..*?) \|", PAGE, re.MULTILINE):
        first, *others = re.findall(r"`([a-z.-]+)`", row)
        named |= {first, *[first.rpartition(".")[0] + each for each in others]}
    assert written == named


def test_its_pictures_are_there_and_small() -> None:
    shown = re.findall(r'<img src="(images/[a-z-]+\.png)" width="360" alt="[^"]+">', PAGE)
    assert PAGE.count("<img ") == len(shown) == 7
    for each in shown:
        assert (ROOT / "docs" / each).stat().st_size <= 60_000
