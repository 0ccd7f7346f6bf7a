"""What is generated is current, and what the docs show works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar import cli, config
from sidecar.decide.compile import validate
from sidecar.decide.parse import Source, parse

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_reference_is_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"])
    assert done.returncode == 0, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


DOCUMENTS = [
    (page.name, text)
    for page in PAGES
    for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    if "apiVersion:" in text and "{...}" not in text
]


@pytest.mark.parametrize(("page", "text"), DOCUMENTS, ids=[page for page, _ in DOCUMENTS])
def test_documents_that_are_shown_are_without_mistakes(page: str, text: str) -> None:
    found, problems = parse([Source(page, text)])
    assert found
    assert not [each for each in problems + validate(found) if not each.warning]


def commands(page: Path) -> list[str]:
    """Lines of shell examples that call `sidecar`, continued ones as one; not those whose quotes end
    on another."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = [line.strip() for line in lines if line.strip().startswith("sidecar ")]
    return [line for line in calls if line.count("'") % 2 == 0]


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}: {line}" for p, line in COMMANDS])
def test_commands_that_are_shown_are_commands(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()  # some are looked at while they are read
    for part in re.split(r"\s(?:&&|[|<>])\s", line):
        words = shlex.split(part, comments=True)
        if words[:1] != ["sidecar"]:
            continue
        named = [word for word in words[1:] if word != "..."]
        parser = cli._parser(named[0])
        parser.parse_args(named)


def stands_in(text: str, word: str) -> bool:
    """As a whole: `--upstream-ca` says nothing of `--upstream`."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def test_every_setting_is_in_operations() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for setting in (*config.RUN, *config.CONTROL_PLANE, *config.INJECT):
        assert stands_in(text, f"--{setting.key}"), setting.key


def test_every_metric_is_in_operations() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    names: set[str] = set()
    plane = (ROOT / "sidecar").glob("plane/*.py")
    for file in (
        *plane,
        *(
            ROOT / "sidecar" / each
            for each in (
                "edge/families.py",
                "telemetry/metrics.py",
                "control/subjects/metrics.py",
                "control/doors.py",
                "control/rollouts/metrics.py",
            )
        ),
    ):
        names |= set(re.findall(r'"(sidecar_[a-z_]+)"', file.read_text()))
    # Counters get their `_total` when they are scraped.
    missing = {
        name for name in names if not (stands_in(text, name) or stands_in(text, f"{name}_total"))
    }
    assert not missing


def test_all_that_the_webhook_refuses_and_counts_is_said() -> None:
    text = "".join(file.read_text() for file in (ROOT / "sidecar" / "inject").glob("*.py"))
    refusals = (ROOT / "docs" / "injection.md").read_text()
    reasons = set(re.findall(r'Refused\(\s*"([a-z_]+)"', text))
    assert len(reasons) > 10
    assert not {reason for reason in reasons if f"| `{reason}` |" not in refusals}
    counted = set(re.findall(r'_count\("([a-z_]+)"\)|, "([a-z_]+)", ?\(|key\), "([a-z_]+)"', text))
    results = {name for found in counted for name in found if name}
    assert results >= {"left_out", "nothing_to_protect", "mirror", "stranger", "crowded"}
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert not {result for result in results if not stands_in(operations, result)}
