"""Listening, with errors that say what to do. gRPC says neither why it could not, nor that it could
not for one of two families."""

from __future__ import annotations

import errno
import socket
from typing import Any

import grpc

from sidecar.errors import Misuse


def listen_at(
    server: Any, flag: str, listen: str, credentials: grpc.ServerCredentials | None
) -> str:
    """HOST:PORT of a port that was added. Raises Misuse."""
    host, _, wanted = listen.rpartition(":")
    _check_free(host, int(wanted), listen, flag)
    try:
        if credentials is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise Misuse(f"{flag} {listen}: {error}") from None
    return f"{host}:{port}"


def _check_free(host: str, port: int, listen: str, flag: str) -> None:
    """gRPC says neither why it could not listen, nor that it could not for one of two families."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise taken(listen, flag) from None
        raise Misuse(f"{flag} {listen}: {error.strerror}") from None


def taken(address: str, flag: str) -> Misuse:
    return Misuse(f"{address}: address already in use; choose another with {flag}")
