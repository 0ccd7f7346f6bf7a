"""A TCP proxy that does to a link what networks do: cut, refuse, stall, delay, throttle.

It stands for good at one address, wherever its target goes. Bytes are never changed; in which
chunks they come, and whether at all, is what the test says.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CHUNK = 16 * 1024
Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter | None]
"""To who connected, and to the target once that is reached."""


class Proxy:
    """`target` may change at any time: connections made from then on go there.

    It is HOST:PORT or the path of a socket. `delay` is seconds that each chunk takes on its way, `rate` bytes a second in each direction of
    each connection; None: as fast as it goes.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.delay = 0.0
        self.rate: float | None = None
        self.accepted = 0
        self.passed = 0  # bytes on their way to who connected
        self.changed = asyncio.Condition()
        """Told of each connection that comes or goes, and of bytes that passed."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._fuse: int | None = None
        self._unanswered: tuple[bytes, ...] = ()
        self._seen: dict[Pair, int] = {}  # how many of these, by connection
        self._deaf: Pair | None = None
        self._pairs: set[Pair] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        # Holds the port while nobody listens at it.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, the same from beginning to end."""
        host, port = self._place.getsockname()
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        """That are open now."""
        return len(self._pairs)

    # What may be done to the link.

    def cut(self) -> None:
        """All connections break now, with a reset, and what was on its way is lost."""
        for pair in list(self._pairs):
            self._break(pair)

    def cut_after(self, count: int) -> None:
        """The connection breaks over which the next `count` bytes come to who connected: in the
        middle of a message, if there is one."""
        self._fuse = count

    def cut_the_answer_to(self, *requests: bytes) -> None:
        """The connection breaks over which these come one after the other: the last one arrives,
        and what is answered to it is lost."""
        self._unanswered = requests
        self._seen.clear()

    async def refuse(self) -> None:
        """Who connects is refused; what is connected stays."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Who connects is let in again."""
        if self._server is None:
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(self._place.getsockname())
            self._server = await asyncio.start_server(self._begin, sock=listening)

    def stall(self) -> None:
        """Everything stays open and nothing comes through, as behind a firewall that forgot."""
        self._flowing.clear()

    def flow(self) -> None:
        """What was stalled goes on."""
        self._flowing.set()

    async def heal(self) -> None:
        """No fault any more."""
        self.delay, self.rate, self._fuse, self._unanswered = 0.0, None, None, ()
        self.flow()
        await self.accept()

    async def until(self, condition: Callable[[Proxy], bool], within: float = 10.0) -> None:
        """Waits for a condition of it."""
        async with self.changed, asyncio.timeout(within):
            await self.changed.wait_for(lambda: condition(self))

    async def close(self) -> None:
        """The end of it and of all connections."""
        await self.refuse()
        self.cut()
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        self._place.close()

    # How it works.

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._accepted(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        pair: Pair = (writer, None)
        self._pairs.add(pair)
        try:
            await self._tell()
            there, back = await self._connect()
            if pair not in self._pairs:
                back.transport.abort()  # it was cut meanwhile
                return
            self._pairs.discard(pair)
            pair = (writer, back)
            self._pairs.add(pair)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back, pair, down=False))
                group.create_task(self._pump(there, writer, pair, down=True))
        except* OSError:
            pass  # cut, by the test or by one of both sides
        finally:
            self._break(pair)
            await asyncio.shield(self._tell())

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.startswith("/"):
            return await asyncio.open_unix_connection(self.target)
        host, _, port = self.target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: Pair,
        *,
        down: bool,
    ) -> None:
        while data := await reader.read(CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            for piece in self._pieces(data):
                if self.rate is not None:
                    await asyncio.sleep(len(piece) / self.rate)
                await self._flowing.wait()
                if not down and self._unanswered:
                    self._listen(piece, pair)
                if down and self._deaf == pair:
                    self._deaf = None
                    self._break(pair)  # what was asked for has been done, and nobody hears of it
                    return
                if down and self._fuse is not None and len(piece) >= self._fuse:
                    writer.write(piece[: self._fuse])
                    self._fuse = None
                    # With a FIN and not a reset, so that the bytes before it do arrive.
                    await writer.drain()
                    writer.close()
                    self._break(pair)
                    return
                if down:
                    self._fuse = None if self._fuse is None else self._fuse - len(piece)
                    self.passed += len(piece)
                writer.write(piece)
                await writer.drain()
            if down:
                await self._tell()
        with contextlib.suppress(OSError):
            writer.write_eof()

    def _listen(self, piece: bytes, pair: Pair) -> None:
        seen = self._seen.get(pair, 0)
        if self._unanswered[seen] in piece:
            self._seen[pair] = seen + 1
            if self._seen[pair] == len(self._unanswered):
                self._unanswered, self._deaf = (), pair

    def _pieces(self, data: bytes) -> list[bytes]:
        if self.rate is None:
            return [data]
        size = max(1, int(self.rate / 50))
        return [data[place : place + size] for place in range(0, len(data), size)]

    def _break(self, pair: Pair) -> None:
        self._pairs.discard(pair)
        for writer in pair:
            if writer is not None and not writer.is_closing():
                writer.transport.abort()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    """A proxy to HOST:PORT that does nothing yet."""
    proxy = Proxy(target)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.close()
