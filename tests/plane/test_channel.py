"""Frames between supervisor and worker: cut, oversized, garbage, ended; one sender at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from sidecar.errors import ChannelBroken
from sidecar.plane.channel import Channel


class Word(msgspec.Struct, tag=True):
    text: str


class Number(msgspec.Struct, tag=True):
    value: int


Either = Word | Number
DECODER: msgspec.msgpack.Decoder[Either] = msgspec.msgpack.Decoder(Either)
MOST = 4 * 1024 * 1024


class Pair:
    """A channel and the bare other end of it."""

    def __init__(self, channel: Channel[Either], bare: socket.socket) -> None:
        self.channel = channel
        self.bare = bare

    def push(self, data: bytes) -> None:
        self.bare.sendall(data)

    async def pull(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        found = b""
        while len(found) < count:
            found += await loop.sock_recv(self.bare, count - len(found))
        return found


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = await Channel.over(ours, DECODER, MOST)
    yield Pair(channel, theirs)
    channel.close()
    theirs.close()


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


GOOD = frame(msgspec.msgpack.encode(Word("hello")))


async def test_messages_arrive_in_order_whatever_the_pieces(pair: Pair) -> None:
    data = GOOD + frame(msgspec.msgpack.encode(Number(7))) + GOOD
    for at in range(len(data)):
        pair.push(data[at : at + 1])
    assert [await pair.channel.receive() for _ in range(3)] == [
        Word("hello"), Number(7), Word("hello"),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(1, len(GOOD)))
async def test_a_cut_message_is_no_message(pair: Pair, cut: int) -> None:
    pair.push(GOOD[:cut])
    pair.bare.close()
    with pytest.raises(ChannelBroken, match="within a message"):
        await pair.channel.receive()


async def test_the_end_between_messages_is_the_end(pair: Pair) -> None:
    pair.push(GOOD)
    pair.bare.close()
    assert await pair.channel.receive() == Word("hello")
    assert await pair.channel.receive() is None


@pytest.mark.parametrize(
    "data",
    [
        frame(b""),
        frame(b"\xc1"),
        frame(msgspec.msgpack.encode({"type": "Word"})),
        frame(msgspec.msgpack.encode({"type": "Other", "text": "x"})),
        frame(msgspec.msgpack.encode({"type": "Number", "value": "7"})),
        frame(msgspec.msgpack.encode([1])),
        frame(msgspec.msgpack.encode(Word("x")) + b"x"),
    ],
)
async def test_garbage_breaks_it(pair: Pair, data: bytes) -> None:
    pair.push(data)
    with pytest.raises(ChannelBroken, match="not a message"):
        await pair.channel.receive()


async def test_what_is_too_long_is_neither_read_nor_sent(pair: Pair) -> None:
    pair.push((MOST + 1).to_bytes(4, "big"))
    with pytest.raises(ChannelBroken, match="too long"):
        await pair.channel.receive()
    with pytest.raises(ChannelBroken, match="too long"):
        await pair.channel.send(Word("x" * MOST))


async def test_a_sender_waits_for_the_reader_and_for_its_turn(pair: Pair) -> None:
    long = Word("x" * (3 * 1024 * 1024))
    sending = [asyncio.create_task(pair.channel.send(long)) for _ in range(2)]
    sending.append(asyncio.create_task(pair.channel.send(Number(1))))
    whole = frame(msgspec.msgpack.encode(long))
    assert await pair.pull(len(whole) // 2) == whole[: len(whole) // 2]
    assert not any(task.done() for task in sending)
    assert await pair.pull(len(whole) - len(whole) // 2) == whole[len(whole) // 2 :]
    assert await pair.pull(len(whole)) == whole
    last = frame(msgspec.msgpack.encode(Number(1)))
    assert await pair.pull(len(last)) == last
    await asyncio.gather(*sending)


async def test_nobody_reads_any_more(pair: Pair) -> None:
    pair.bare.close()
    assert await pair.channel.receive() is None
    with pytest.raises(ChannelBroken, match="gone"):
        await pair.channel.send(Word("x" * 1000))
    assert await pair.channel.receive() is None


async def test_after_close(pair: Pair) -> None:
    pair.channel.close()
    with pytest.raises(ChannelBroken, match="gone"):
        await pair.channel.send(Number(1))
