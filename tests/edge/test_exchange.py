from __future__ import annotations

from sidecar.edge.authorizer import Decision
from sidecar.edge.exchange import Exchange
from sidecar.edge.upstream_connection import Failure

from .conftest import Rig


class Client:
    """Hears what an exchange tells its client connection."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def finished(self, request: object, decision: object, status: int, seconds: float) -> None:
        self.heard.append(f"finished {status}")

    def no_response(self, *what: object) -> None:
        self.heard.append("no response")


async def test_news_for_a_client_that_left_reach_nobody(rig: Rig) -> None:
    client = Client()
    decision: Decision = None  # type: ignore[assignment]
    exchange = Exchange(client, rig.pool, None, None, decision)  # type: ignore[arg-type]
    assert not exchange.abandon(0)
    exchange.upstream_failed(Failure.BUSY)  # was on its way when the client left
    assert client.heard == ["finished 0"]
