"""What the proxy bounds, and what it counts; docs/operations.md says what happens at each bound."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.edge.http1 import MAX_HEAD, MAX_HEADERS


@dataclass(frozen=True)
class Limits:
    """Bounds of the proxy. Times are seconds, sizes bytes.

    `drain` is how much of a refused request's body is read and thrown away to keep the connection;
    beyond it the connection ends after the answer. `linger` is how long, and `linger_bytes` how
    much, we go on reading then, so that the client can read the answer before it is reset.
    `first_byte` also bounds how long an upstream may refuse to take the next piece of a request.
    Of a request body `body_rate` bytes a second must come, on average over each `body_window`; time
    in which the upstream takes nothing does not count.
    """

    head: int = MAX_HEAD
    headers: int = MAX_HEADERS
    connections: int = 20_000
    connections_told: int = 256  # beyond those; they get an answer, the next ones are just closed
    pipelined: int = 64 * 1024  # read ahead of the request in flight
    buffer_high: int = 256 * 1024  # unsent bytes in one direction that stop reading the other side
    buffer_low: int = 64 * 1024
    drain: int = 64 * 1024
    linger: float = 5.0
    linger_bytes: int = 16 * 1024 * 1024
    header: float = 15.0
    idle: float = 75.0
    body_rate: int = 500
    body_window: float = 10.0
    bodies_held: int = 64 * 1024 * 1024  # bytes of all bodies decided on, until they are answered
    total: float = 0.0  # of one exchange, from its head to its end; 0: streams may last for ever
    in_flight: int = 4096  # requests being decided or answered; the next are shed (503)
    send: float = 60.0  # without one byte taken by the client
    upstream_connections: int = 1024
    upstream_idle: int = 256
    upstream_waiting: int = 1024
    upstream_wait: float = 10.0  # in line for a connection; more than `connect`
    connect: float = 5.0
    first_byte: float = 60.0
    response: float = 300.0  # between two pieces of a response
    redacted_body: int = 1024 * 1024  # of one response that is looked through
    inspecting: int = 64 * 1024 * 1024  # bytes of all such responses at once
    tunnels: int = 10_000  # WebSocket tunnels; they count as connections, not as in flight
    tunnel_idle: float = 3600.0  # with nothing from either side
    tunnel_close: float = 5.0  # for the frame under way to end, and for the answer to our close
    keep: float = 4.0  # an unused upstream connection; below the 5 s of Node and uvicorn


class ProxyStats:
    """Plain numbers that telemetry reads when it is scraped. Gauges say so; the rest only grow."""

    __slots__ = (
        "accepted", "bad_requests", "bodies_held", "bodies_refused", "bytes_received",
        "bytes_sent", "client_aborts", "connections_open", "connections_refused", "destinations",
        "destinations_closed", "destinations_refused", "in_flight",
        "inspecting", "redacted", "requests", "retries", "shed", "timeouts", "tunnels",
        "tunnels_cut", "tunnels_open", "tunnels_refused", "upstream_created", "upstream_errors",
        "upstream_idle", "upstream_open",
        "upstream_reused", "upstream_waiting", "withheld",
    )  # fmt: skip

    def __init__(self) -> None:
        self.accepted = 0
        self.connections_open = 0  # gauge
        self.connections_refused = 0  # beyond Limits.connections
        self.requests = 0  # heads read that were sound
        self.in_flight = 0  # gauge: those of them that are not answered yet
        self.shed = 0  # those answered 503 because of Limits.in_flight
        self.bad_requests: dict[str, int] = {}  # by reason: fixed phrases of ours, few
        self.bodies_held = 0  # gauge: bytes
        self.bodies_refused = 0  # beyond Limits.bodies_held
        self.client_aborts = 0  # clients that went away before their answer was whole
        self.timeouts: dict[str, int] = {}  # header, idle, body, send, linger, total
        self.bytes_received = 0  # from clients
        self.bytes_sent = 0  # to clients
        self.tunnels = 0
        self.tunnels_open = 0  # gauge
        self.tunnels_refused = 0  # beyond Limits.tunnels
        self.tunnels_cut: dict[str, int] = {}  # by reason: expired, policy, drain, idle
        self.upstream_open = 0  # gauge: idle, busy and being opened
        self.upstream_idle = 0  # gauge
        self.upstream_waiting = 0  # gauge: requests without a connection yet
        self.upstream_created = 0
        self.upstream_reused = 0
        self.upstream_errors: dict[str, int] = {}  # by `upstream_connection.Failure`
        self.retries = 0
        self.destinations = 0  # gauge: pools, where callers say where to
        self.destinations_closed = 0  # to make room for others
        self.destinations_refused: dict[str, int] = {}  # connections, and requests where there
        # are too many; by reason: few, ours
        self.inspecting = 0  # gauge: bytes of responses held to be looked through
        self.redacted = 0  # responses that were, and went on
        self.withheld: dict[str, int] = {}  # those that did not, by reason: few, ours

    def bad_request(self, reason: str) -> None:
        self.bad_requests[reason] = self.bad_requests.get(reason, 0) + 1

    def destination_refused(self, reason: str) -> None:
        self.destinations_refused[reason] = self.destinations_refused.get(reason, 0) + 1

    def timeout(self, kind: str) -> None:
        self.timeouts[kind] = self.timeouts.get(kind, 0) + 1

    def tunnel_cut(self, reason: str) -> None:
        self.tunnels_cut[reason] = self.tunnels_cut.get(reason, 0) + 1

    def withhold(self, reason: str) -> None:
        self.withheld[reason] = self.withheld.get(reason, 0) + 1

    def upstream_error(self, kind: str) -> None:
        self.upstream_errors[kind] = self.upstream_errors.get(kind, 0) + 1
