"""The sink answers once it has a whole body, and tells its length."""

from __future__ import annotations

import socket
import threading

from loadtests.bench.sink import serve


def test_two_bodies_on_one_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # a TCP one, for MSG_TRUNC
        client = socket.create_connection(listening.getsockname(), timeout=10)
        thread = threading.Thread(target=serve, args=(listening.accept()[0],))
        thread.start()
    with client:
        for size in (0, 300_000):
            client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            answer = client.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\n%d" % size)
    thread.join(10)
    assert not thread.is_alive()
