"""The benchmark's tokens are what they are called, by the sidecar's own reading."""

from __future__ import annotations

import json
from pathlib import Path

from loadtests.bench.agreement import expectations
from loadtests.bench.mint import Mint
from loadtests.bench.peers import Task
from loadtests.bench.peers import sidecar as peer
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.parse import Source, parse


def test_every_kind_is_expected_once_and_is_its_own() -> None:
    mint = Mint()
    tokens = [expectation.token for expectation in expectations(mint)]
    assert len(set(tokens)) == len(tokens)
    assert mint.good(1) != mint.good(2)
    assert json.loads(mint.jwks)["keys"][0]["alg"] == "RS256"


def test_the_sidecars_documents_compile(tmp_path: Path) -> None:
    for rules in (0, 10):
        folder = tmp_path / str(rules)
        folder.mkdir()
        peer.prepare(Task(folder, 1, 2, Mint(), rules))
        sources = [Source(str(file), file.read_text()) for file in folder.glob("policies/*.json")]
        documents, problems = parse(sources)
        assert not problems
        compile_snapshot(documents, namespace="default", labels={})
