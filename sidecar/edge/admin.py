"""Health, metrics and inspection, on ports of their own: never on the traffic port.

`health_pages` is what a kubelet and Prometheus see; `admin_pages` adds what only operators should.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sidecar.decide.challenge import Answer
from sidecar.edge.pages import Pages

Metrics = Callable[[], Awaitable[bytes]]
"""What Prometheus is to see."""
State = Callable[[], Mapping[str, Any]]
Decisions = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]
Documents = Callable[[], Awaitable[bytes]]
"""What is enforced, as JSON."""
Ready = Callable[[], str]
"""Why the sidecar is not ready; empty when it is."""

_TEXT: Final = b"text/plain; charset=utf-8"


def health_pages(metrics: Metrics, ready: Ready) -> Pages:
    """`/healthz` answers while the process does, `/readyz` once there is a snapshot."""

    async def healthz() -> Answer:
        return _text(200, "ok\n")

    async def readyz() -> Answer:
        why_not = ready()
        return _text(503, f"not ready: {why_not}\n") if why_not else _text(200, "ready\n")

    async def page() -> Answer:
        return _answer(200, CONTENT_TYPE_LATEST.encode("ascii"), await metrics())

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": page}


def admin_pages(
    metrics: Metrics,
    ready: Ready,
    snapshot: State,
    config: State,
    decisions: Decisions,
    documents: Documents,
) -> Pages:
    """The same, and `/snapshot`, `/config`, `/decisions` (the most recent, oldest first) and
    `/documents`: secrets are not in them, only where they are."""

    async def latest() -> Answer:
        return _json({"decisions": await decisions()})

    async def in_force() -> Answer:
        return _answer(200, b"application/json", await documents())

    return {
        **health_pages(metrics, ready),
        "/snapshot": _state(snapshot),
        "/config": _state(config),
        "/decisions": latest,
        "/documents": in_force,
    }


def _state(state: State) -> Callable[[], Awaitable[Answer]]:
    async def page() -> Answer:
        return _json(state())

    return page


def _json(content: Mapping[str, Any]) -> Answer:
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return _answer(200, b"application/json", body)


def _text(status: int, text: str) -> Answer:
    return _answer(status, _TEXT, text.encode())


def _answer(status: int, kind: bytes, body: bytes) -> Answer:
    return Answer(status, [(b"content-type", kind), (b"cache-control", b"no-store")], body)
