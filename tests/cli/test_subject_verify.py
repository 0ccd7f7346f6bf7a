"""`sidecar subject verify` reads what `sidecar subject export` writes, and notices what was changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import run
from sidecar.control.store import Store
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.store import SubjectStore
from tests.control.subjects.callers import caller, known, sub

AGREED = Decision("default/news", 1, "granted", "en", "News", "We write to you.")
WITHDRAWN = Decision("default/news", 1, "withdrawn", "en", "News", "We write to you.")


@pytest.fixture
async def export(tmp_path: Path) -> dict[str, Any]:
    """Of a customer who agreed and thought better of it."""
    store = await Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    try:
        subjects = SubjectStore(store.engine, time.time)
        customer = (await known(subjects, caller(sub("alice")))).customer
        for decision in (AGREED, WITHDRAWN):
            await subjects.decide_consent(customer, decision)
        return {**await subjects.export(customer), "jwks": await subjects.jwks()}
    finally:
        await store.close()


def _dropped(whole: dict[str, Any]) -> None:
    del whole["receipts"][0]


def _changed(whole: dict[str, Any]) -> None:
    first, second = (each["jws"] for each in whole["receipts"])
    whole["receipts"][0]["jws"] = ".".join((*first.split(".")[:2], second.split(".")[2]))


def test_all_stand(
    export: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "export.json"
    file.write_text(json.dumps(export))
    assert run(["subject", "verify", str(file)]) == 0
    assert capsys.readouterr().out == "2 receipts stand, and none is missing between\n"


@pytest.mark.parametrize("change", [_dropped, _changed])
def test_what_was_changed_does_not(
    export: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    change(export)
    file = tmp_path / "export.json"
    file.write_text(json.dumps(export))
    assert run(["subject", "verify", str(file)]) == 1
