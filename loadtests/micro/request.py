"""What one proxied request costs in process, without a kernel: `python -m loadtests.micro.request`.

The real connection, decision, exchange and upstream connection, over transports that only count.
`--profile` shows where the time goes. Times are CPU time of this process; on a noisy machine only
ratios within one run count, so the raw RS256 check is timed too.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import statistics
import sys
import time
from collections.abc import Callable

import jwt

from loadtests.micro.decide import KEY, snapshot, token
from sidecar.decide.keys import VERIFIERS
from sidecar.edge.address import Address
from sidecar.edge.authorizer import Authorizer
from sidecar.edge.connection import ClientConnection
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.proxy import Proxy
from sidecar.edge.sweeper import Sweeper
from sidecar.edge.upstream import UpstreamPool
from sidecar.edge.upstream_connection import UpstreamConnection
from sidecar.facts.jwks import KeyStore
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 24 Nov 2026 23:05:40 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 27\r\nConnection: keep-alive\r\n\r\n"
    b'{"balance":12,"owner":"a7"}'
)


class Transport(asyncio.Transport):
    """Takes everything and keeps the last piece."""

    def __init__(self) -> None:
        super().__init__()
        self.last = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.last = bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Rig:
    """One client and one upstream connection, and `ask` which sends a request round."""

    def __init__(self) -> None:
        metrics = Metrics()
        log = DecisionLog("off")
        self.authorizer = Authorizer(KeyStore(), metrics, log, clock=lambda: 1_800_000_000.0)
        self.authorizer.adopt(snapshot())
        pool = UpstreamPool(Address("127.0.0.1", 1), Limits(), Sweeper(), ProxyStats())
        proxy = Proxy(self.authorizer, pool, strip=self.authorizer.rule_headers)
        self.client_side, self.upstream_side = Transport(), Transport()
        self.upstream = UpstreamConnection(pool)
        self.upstream.connection_made(self.upstream_side)
        self.client = ClientConnection(proxy)
        self.client.connection_made(self.client_side)

    def ask(self, request: bytes) -> None:
        self.client.data_received(request)
        assert self.upstream_side.last.startswith(b"GET /plain/x HTTP/1.1\r\n")
        self.upstream.data_received(RESPONSE)
        assert self.client_side.last.startswith(b"HTTP/1.1 200 OK\r\n")


def requests(count: int) -> list[bytes]:
    """Requests with distinct tokens, as a browser or a client library would send them."""
    return [
        b"GET /plain/x HTTP/1.1\r\nHost: bank.example\r\nUser-Agent: client/%d\r\nAccept: */*\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % (n, token(f"user-{n}").encode())
        for n in range(count)
    ]


def main() -> None:
    rig = Rig()
    asked = requests(100)
    for request in asked * 3:
        rig.ask(request)
    gc.collect()
    gc.freeze()

    def work() -> None:
        for request in asked:
            rig.ask(request)

    if "--profile" in sys.argv:
        _profile(work)
        return
    signed, _, signature = token().rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    public = KEY.public_key()

    def raw_check() -> None:
        for _ in range(100):
            assert VERIFIERS["RS256"].verify(signed.encode(), public, raw)

    # A request id in each: tokens and header names are known, the bytes as a whole are not.
    unlike = (
        request[:-2] + b"X-Request-Id: %d\r\n\r\n" % number
        for number in range(1_000)
        for request in asked
    )
    base = timed(raw_check, 20)
    whole = timed(work, 200)
    print(f"{'raw RS256 check':<40} {base:8.1f} us   1.00")

    def strange() -> None:
        for _ in range(100):
            rig.ask(next(unlike))

    fresh = timed(strange, 40)
    print(f"{'the same head again':<40} {whole:8.1f} us   {whole / base:.2f}")
    print(f"{'a head that was never seen':<40} {fresh:8.1f} us   {fresh / base:.2f}")


def timed(work: Callable[[], None], rounds: int) -> float:
    """Microseconds of CPU for one of a hundred, the median of several runs."""
    runs = []
    for _ in range(9):
        started = time.process_time()
        for _ in range(rounds):
            work()
        runs.append((time.process_time() - started) / rounds / 100 * 1e6)
    return statistics.median(runs)


def _profile(work: Callable[[], None]) -> None:
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(200):
        work()
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
