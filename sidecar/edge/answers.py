"""The proxy's own answers to what goes wrong before, beside or behind a decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.decide.challenge import Answer, problem
from sidecar.edge.upstream_connection import Failure
from sidecar.errors import BadRequest

_CODES: Final[Mapping[int, str]] = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    414: "uri_too_long",
    417: "expectation_failed",
    421: "misdirected_request",
    431: "header_fields_too_large",
    500: "internal_error",
    501: "not_implemented",
    502: "bad_gateway",
    503: "unavailable",
    504: "gateway_timeout",
    505: "http_version_not_supported",
}

_FAILURES: Final[Mapping[Failure, tuple[int, str]]] = {
    Failure.CONNECT: (502, "The service behind this proxy does not accept connections."),
    Failure.TLS: (502, "No trusted connection to the service behind this proxy could be made."),
    Failure.CLOSED: (502, "The service behind this proxy closed the connection early."),
    Failure.BAD_RESPONSE: (502, "The service behind this proxy answered with no sound HTTP."),
    Failure.BUSY: (503, "Too many requests are waiting for the service behind this proxy."),
    Failure.BUSY_TIMEOUT: (503, "The service behind this proxy had no capacity in time."),
    Failure.CONNECT_TIMEOUT: (504, "The service behind this proxy did not accept in time."),
    Failure.FIRST_BYTE_TIMEOUT: (504, "The service behind this proxy did not answer in time."),
    Failure.RESPONSE_TIMEOUT: (504, "The service behind this proxy stopped answering."),
}

_WITHHELD: Final = (
    "Not all of the response is for this caller, and no part of it could be told apart."
)


def _answer(status: int, detail: str, decision_id: str = "") -> Answer:
    answer = problem(status, _CODES[status], detail, decision_id)
    if status == 503:
        answer.headers.append((b"retry-after", b"1"))
    return answer


def bad_request(error: BadRequest) -> Answer:
    """What is wrong with the bytes; the reason is one of our fixed phrases, never theirs."""
    return _answer(error.status, error.reason)


def upstream_failed(failure: Failure, decision_id: str) -> Answer:
    """502, 503 or 504."""
    if failure is Failure.WITHHELD:
        return problem(502, "response_withheld", _WITHHELD, decision_id)
    status, detail = _FAILURES[failure]
    return _answer(status, detail, decision_id)


def no_page(pages: Iterable[str]) -> Answer:
    """At the health and admin ports: what there is instead."""
    return _answer(404, f"There is nothing here; there is {' '.join(sorted(pages))}.")


def read_only() -> Answer:
    answer = _answer(405, "What is here can only be read.")
    answer.headers.append((b"allow", b"GET, HEAD"))
    return answer


def broken_page() -> Answer:
    return _answer(500, "This page could not be made; the log says why.")


def request_timeout() -> Answer:
    return _answer(408, "The request did not arrive in time.")


def overdue() -> Answer:
    return _answer(504, "The request took longer than this proxy lets any take.")


def shed(decision_id: str = "") -> Answer:
    return _answer(503, "Too many requests are in flight.", decision_id)


def too_many_tunnels(decision_id: str) -> Answer:
    return _answer(503, "This proxy holds as many WebSocket tunnels as it may.", decision_id)


def too_many_connections() -> Answer:
    return _answer(503, "This proxy holds as many connections as it may.")


def misdirected() -> Answer:
    """To a connection that leads to no service (RFC 9110 section 15.5.20)."""
    return _answer(421, "This connection leads to no service behind this proxy.")


def too_many_destinations(decision_id: str) -> Answer:
    return _answer(503, "This proxy stands before as many addresses as it may.", decision_id)


def last_hop(decision_id: str) -> Answer:
    """To an OPTIONS request that no further proxy may forward (RFC 9110 section 7.6.2)."""
    return Answer(204, [(b"x-sidecar-decision", decision_id.encode("ascii"))], b"")


def undecided() -> Answer:
    """A defect of ours while deciding: refused, never forwarded."""
    return _answer(500, "This request could not be decided.")
