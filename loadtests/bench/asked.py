"""One request at a time, to see what a proxy answers before it is timed."""

from __future__ import annotations

import http.client
from typing import Final

_TIMEOUT: Final = 10.0


def status(port: int, path: str, token: str | None = None) -> int:
    """The status of a GET; 0 where nobody answers."""
    return response(port, path, token)[0]


def response(port: int, path: str, token: str | None = None) -> tuple[int, bytes]:
    """Status and body of a GET; (0, b"") where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def answers(port: int, path: str, expected: int, token: str | None = None) -> bool:
    return status(port, path, token) == expected
