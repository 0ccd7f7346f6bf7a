"""One JSON record a decision, written by a thread of its own, never on the request's path.

A record is encoded where it arises: two microseconds there, where a thread that encodes a batch
would hold everything else up for milliseconds at a time.

`best-effort`: at the bound, or when the disk refuses, records are dropped and counted. A record
holds neither credential nor query string (tokens travel in queries, whatever one wishes).
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from io import FileIO
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.errors import Misuse

BOUND: Final = 20_000  # records waiting
HEAVIEST: Final = 64 * 1024 * 1024  # bytes of them
BATCH: Final = 256  # records of one write
RECENT: Final = 200  # records kept for inspection
INTERVAL: Final = 0.1  # seconds between writes
CLOSE: Final = 5.0  # seconds that a stop waits for the last write

Record = dict[str, Any]


class DecisionLog:
    """`target` is `stdout`, `off` or a file to append to. Raises Misuse if it cannot be opened.

    `turn` is held while lines are written, where other processes write to the same target.
    """

    def __init__(
        self,
        target: str,
        bound: int = BOUND,
        turn: AbstractContextManager[Any] | None = None,
        heaviest: int = HEAVIEST,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self.error = ""
        self._bound = bound
        self._heaviest = heaviest
        self._came = 0  # bytes, counted by who puts
        self._went = 0  # bytes, counted by the writer
        self._turn = turn if turn is not None else nullcontext()
        self._recent: deque[bytes] = deque(maxlen=RECENT)
        self._waiting: deque[bytes] = deque()
        self._rotate = threading.Event()
        self._closed = threading.Event()
        self._target = target
        self._torn = False  # the last write ended within a line
        self._file = _open(target)
        self._writer: threading.Thread | None = None
        if self._file is not None:
            self._writer = threading.Thread(target=self._run, name="decision log", daemon=True)
            self._writer.start()

    def put(self, record: Record) -> None:
        """Take one record; never blocks."""
        self.put_line(encoded(record))

    def put_line(self, line: bytes) -> None:
        """The same for a record that is encoded already."""
        self._recent.append(line)
        if self._file is None:
            return
        if len(self._waiting) >= self._bound or self._came - self._went > self._heaviest:
            self.dropped += 1
            return
        self._came += len(line)
        self._waiting.append(line)

    @property
    def recent(self) -> list[Record]:
        """The latest records, oldest first."""
        return [orjson.loads(line) for line in self._recent]

    def reopen(self) -> None:
        """After rotation: the writer goes on in a new file of the same name. Never blocks."""
        self._rotate.set()

    def close(self, seconds: float = CLOSE) -> None:
        """Write what waits, then stop; whoever reads too slowly loses the rest, counted."""
        self._closed.set()
        if self._writer is not None:
            self._writer.join(timeout=seconds)
            if self._writer.is_alive():
                self.dropped += len(self._waiting)

    def _run(self) -> None:
        """The writer. Only this thread touches the file: a write may block as long as it likes."""
        ending = False
        while not ending:
            ending = self._closed.wait(INTERVAL)
            if self._rotate.is_set():
                self._rotate.clear()
                self._reopen()
            self._flush()
        if self._file is not None:
            self._file.close()

    def _reopen(self) -> None:
        if self._target == "stdout" or self._file is None:
            return
        try:
            fresh = _open(self._target)
        except Misuse as error:
            self._complain(str(error))  # and go on in the old file
            return
        self._flush()
        self._file.close()
        self._file, self._torn = fresh, False

    def _flush(self) -> None:
        """What waits now, some at a time: to join thousands would hold the requests up."""
        left = len(self._waiting)
        while left > 0:
            self._flush_some(min(left, BATCH))
            left -= BATCH

    def _flush_some(self, count: int) -> None:
        # One deque, appended to on one side and taken from on the other: nothing falls between.
        records = [self._waiting.popleft() for _ in range(count)]
        if not records or self._file is None:
            return
        lines = b"\n".join(records) + b"\n"
        self._went += len(lines) - len(records)
        try:
            with self._turn:
                self._write(self._file, lines)
        except (OSError, ValueError) as error:
            self.dropped += len(records)
            self._complain(str(error))
        else:
            self.written += len(records)
            self.error = ""

    def _complain(self, error: str) -> None:
        """Once, until something is written again."""
        if not self.error:
            print(f"sidecar: decision log: {error}", file=sys.stderr)
        self.error = error

    def _write(self, file: FileIO, lines: bytes) -> None:
        """All of it, unbuffered: what a full disk refused must not come again with the next."""
        left = memoryview(b"\n" + lines if self._torn else lines)
        self._torn = True
        while left:
            left = left[file.write(left) or 0 :]
        self._torn = False


def encoded(record: Record) -> bytes:
    """A record as its line."""
    return orjson.dumps(record, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} in a decision record")


def _open(target: str) -> FileIO | None:
    if target == "off":
        return None
    if target == "stdout":
        return FileIO(1, "w", closefd=False)  # sys.stdout is None where it came closed
    try:
        descriptor = os.open(Path(target), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise Misuse(
            f"--decision-log: cannot append to {target}: {error.strerror}; "
            "name a file in a folder that exists, or stdout, or off"
        ) from None
    return FileIO(descriptor, "a")
