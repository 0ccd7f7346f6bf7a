"""The sidecar as it is run in production: metrics, a decision log, time-outs, a header rule."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import sidecar
from loadtests.bench.mint import AUDIENCE, ISSUER, SCOPE
from loadtests.bench.peers import Command, Peer, Task
from loadtests.bench.processes import free_port

DECISIONS: Final = "decisions.log"


def version() -> str | None:
    return sidecar.__version__


def prepare(task: Task) -> Command:
    policies = task.folder / "policies"
    policies.mkdir()
    for name, document in _documents(task).items():
        (policies / f"{name}.json").write_text(json.dumps(document))
    return Command(
        [
            str(Path(sys.executable).with_name("sidecar")), "run",
            "--upstream", f"http://127.0.0.1:{task.upstream}", "--policies", str(policies),
            "--listen", f"127.0.0.1:{task.port}", "--health", f"127.0.0.1:{free_port()}",
            "--admin", f"127.0.0.1:{free_port()}", "--workers", "1",
            "--decision-log", str(task.folder / DECISIONS),
        ],
        {"HOME": str(task.folder)},
    )  # fmt: skip


def _documents(task: Task) -> dict[str, dict[str, Any]]:
    patterns = [f"/api/rule-{n}/{{id}}" for n in range(task.rules)] or ["/api/**"]
    rules = [
        {
            "name": f"rule-{n}",
            "match": {"methods": ["GET"], "paths": [pattern]},
            "require": {"scopes": [SCOPE]},
            "then": {"setHeaders": {"x-tenant": "token.tenant"}},
        }
        for n, pattern in enumerate(patterns)
    ]
    if not task.rules:
        rules.append(
            {
                "name": "upload",
                "match": {"methods": ["POST"], "paths": ["/upload"]},
                "require": {"scopes": [SCOPE]},
            }
        )
    return {
        "issuer": _document(
            "TokenIssuer",
            {
                "issuer": ISSUER,
                "audiences": [AUDIENCE],
                "jwks": {"inline": json.loads(task.mint.jwks)},
            },
        ),
        "rules": _document("AccessPolicy", {"rules": rules}),
    }


def _document(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "authz.sidecar/v1", "kind": kind, "metadata": {"name": "bench"}, "spec": spec,
    }  # fmt: skip


PEER: Final = Peer("sidecar", True, version, prepare)
