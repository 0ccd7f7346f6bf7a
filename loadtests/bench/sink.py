"""An upstream that swallows uploads: `sink.py PORT`. Answers once a body is there, whole.

It lets the kernel drop the bytes (MSG_TRUNC, tcp(7)), so that it is never what an upload waits for.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from typing import Final

_PIECE: Final = 1 << 20
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def serve(connection: socket.socket) -> None:
    """Requests one after another; a body has a declared length."""
    with connection:
        buffer = bytearray(_PIECE)
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            declared = _LENGTH.search(head)
            length = int(declared.group(1)) if declared else 0
            left = length - len(head.partition(b"\r\n\r\n")[2])
            while left > 0:
                got = connection.recv_into(buffer, min(_PIECE, left), socket.MSG_TRUNC)
                if not got:
                    return
                left -= got
            body = b"%d" % length
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listening:
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
