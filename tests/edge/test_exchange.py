from __future__ import annotations

from typing import Any

from sidecar.decide.outcomes import Permit
from sidecar.edge.decision import Decision
from sidecar.edge.exchange import Exchange
from sidecar.edge.http1 import parse_request_head
from sidecar.edge.upstream_connection import Failure

from .conftest import Rig


class Client:
    """Hears what an exchange tells its client connection."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.heard.append(name)


async def test_news_for_a_client_that_left_reach_nobody(rig: Rig) -> None:
    client = Client()
    head = parse_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    request = head.request("http", "192.0.2.1")
    decision = Decision(Permit("r"), "f" * 32, b"", 0.0, "v1")
    exchange = Exchange(client, rig.pool, head, request, decision)
    assert not exchange.abandon(0)
    exchange.upstream_failed(Failure.BUSY)  # was on its way when the client left
    assert client.heard == ["finished"]
