"""What the commands that decide by themselves say of policies without a rule for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.cli import run
from tests.decide.test_replay import HEAD, X

ISSUER = HEAD.split("---")[0]


@pytest.mark.parametrize(
    ("text", "flags", "says", "hint"),
    [
        ("", [], "no documents found", "sidecar init"),
        (ISSUER, [], "no AccessPolicy is in it", "sidecar init"),
        (HEAD + f"  - {{{X}}}\n", ["--namespace", "shop"], "of namespace shop", "they are in default"),
        (HEAD.replace("spec:\n  rules", "spec:\n  selector: {app: x}\n  rules") + f"  - {{{X}}}\n", [], "with no labels", "say --label"),
    ],
)  # fmt: skip
def test_no_rules(
    tmp_path: Path, text: str, flags: list[str], says: str, hint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if text:
        (tmp_path / "p.yaml").write_text(text)
    known = ["--policies", str(tmp_path), "--request", "GET /x/7"]
    assert run(["explain", *known, *flags]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert hint in said
