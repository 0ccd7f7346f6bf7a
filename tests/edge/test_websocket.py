from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from sidecar.edge.decision import Edits
from sidecar.edge.forward import switching_head
from sidecar.edge.http1 import parse_request_head
from sidecar.edge.response_head import parse_response_head
from sidecar.edge.websocket import Frames, Handshake, close_frame
from sidecar.errors import BadResponse

from .raw_requests import KEY, websocket

ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3


def frame(size: int, *, opcode: int = 2, mask: bool = False, fin: bool = True) -> bytes:
    made = Frame(Opcode(opcode), b"\x81" * size, fin)
    return bytes(made.serialize(mask=mask))


frames = st.lists(
    st.builds(
        frame,
        st.one_of(st.integers(0, 130), st.sampled_from([65535, 65536, 70000])),
        opcode=st.sampled_from([0, 1, 2]),
        mask=st.booleans(),
        fin=st.just(True),
    ),
    max_size=6,
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(marks)]


def ends(parts: list[bytes]) -> set[int]:
    found, at = {0}, 0
    for part in parts:
        at += len(part)
        found.add(at)
    return found


@given(frames, st.lists(st.integers(0, 200_000), max_size=20))
def test_any_cut_finds_the_same_frame_ends(parts: list[bytes], cuts: list[int]) -> None:
    followed, at = Frames(), 0
    for piece in pieces(b"".join(parts), cuts):
        followed.feed(piece)
        at += len(piece)
        assert followed.between() == (at in ends(parts))
    assert not followed.closed
    assert not followed.broken


@given(frames.filter(bool), st.integers(0, 200_000), st.lists(st.integers(0, 200_000), max_size=9))
def test_a_frame_under_way_is_finished_and_no_more(
    parts: list[bytes], start: int, cuts: list[int]
) -> None:
    data = b"".join(parts)
    start %= len(data)
    followed = Frames()
    followed.feed(data[:start])
    end = min(place for place in ends(parts) if place >= start)
    took = 0
    for piece in pieces(data[start:], cuts):
        took += followed.finish(piece)
        if followed.between():
            break
    assert took == end - start
    followed.feed(data[end:])
    assert followed.between()


@given(frames, st.integers(0, 20), st.binary(max_size=9), st.lists(st.integers(0, 200_000)))
def test_behind_a_close_frame_nothing_counts(
    parts: list[bytes], size: int, rest: bytes, cuts: list[int]
) -> None:
    data = b"".join(parts)
    whole = data + frame(size, opcode=8)
    followed, at = Frames(), 0
    for piece in pieces(whole + rest, cuts):
        followed.feed(piece)
        at += len(piece)
        assert not followed.closed or at > len(data)
        assert followed.closed or at < len(whole)
    assert followed.closed
    assert followed.between()
    assert followed.finish(b"anything") == 0


@pytest.mark.parametrize("mask", [b"", b"\1\2\3\4"])
def test_no_length_reaches_beyond_63_bits(mask: bytes) -> None:
    followed = Frames()
    second = 0xFF if mask else 0x7F
    followed.feed(bytes((0x82, second)) + b"\x80" + bytes(7) + mask)
    assert followed.broken
    assert not followed.between()
    assert followed.finish(b"abc") == 3


@pytest.mark.parametrize("mask", [b"", b"\1\2\3\4"])
def test_a_close_frame_is_what_others_read(mask: bytes) -> None:
    reader = StreamReader()
    reader.feed_data(close_frame(1008, "token expired", mask))
    parsing = Frame.parse(reader.read_exact, mask=bool(mask))
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    found: Frame = parsed.value.value
    assert (found.opcode, found.fin) == (Opcode.CLOSE, True)
    assert Close.parse(bytes(found.data)) == Close(1008, "token expired")


def test_a_close_frame_has_a_short_reason() -> None:
    with pytest.raises(ValueError, match="125"):
        close_frame(1008, "x" * 124)


# -- the handshake


def asked(*more: bytes, **other: bytes) -> Handshake | None:
    return parse_request_head(websocket(*more, **other)).handshake


def test_the_key_asks_for_its_answer() -> None:
    found = asked(b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Protocol: ,c")
    assert found is not None
    assert (found.accept, sorted(found.protocols)) == (ACCEPT, [b"a", b"b", b"c"])


def test_with_the_same_lines_only_a_get_asks() -> None:
    get, post = websocket(), websocket(start=b"POST %b HTTP/1.1")
    for _ in range(3):  # remembered, too
        assert parse_request_head(get).handshake is not None
        assert parse_request_head(post).handshake is None
        assert not parse_request_head(post).block.keep_alive


def test_connection_may_not_take_the_key_away() -> None:
    assert asked(Connection=b"upgrade, sec-websocket-key") is None


GOOD = {b"Upgrade": b"websocket", b"Connection": b"Upgrade", b"Sec-WebSocket-Accept": ACCEPT}


def answered(*more: bytes, status: bytes = b"HTTP/1.1 101 Switching", **other: bytes) -> bytes:
    fields = GOOD | {name.replace("_", "-").encode(): value for name, value in other.items()}
    lines = [name + b": " + value for name, value in fields.items() if value]
    return b"\r\n".join((status, *lines, *more, b"", b""))


def switched(response: bytes) -> bytes:
    found = asked(b"Sec-WebSocket-Protocol: a, b")
    assert found is not None
    return switching_head(parse_response_head(response, "GET"), found)


def test_a_correct_101_goes_to_the_client() -> None:
    assert switched(
        answered(
            b"Sec-WebSocket-Protocol: b",
            b"X-Sidecar-Decision: lie",
            b"Set-Cookie: a=b",
            b"Keep-Alive: 5",
            b"X-Hop: 1",
            Connection=b"upgrade, x-hop",
            Upgrade=b"WebSocket",
        )
    ) == (
        b"HTTP/1.1 101 Switching\r\nsec-websocket-accept: " + ACCEPT + b"\r\n"
        b"sec-websocket-protocol: b\r\nset-cookie: a=b\r\n"
        b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )


def test_as_rules_say() -> None:
    found = asked()
    assert found is not None
    said = Edits(b"x-mine: 1\r\n", frozenset((b"x-mine", b"x-internal", b"sec-websocket-accept")))
    response = answered(b"X-Internal: 1", b"X-Mine: 0")
    assert switching_head(parse_response_head(response, "GET"), found, said) == (
        b"HTTP/1.1 101 Switching\r\nsec-websocket-accept: " + ACCEPT + b"\r\n"
        b"x-mine: 1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )


@pytest.mark.parametrize(
    "response",
    [
        answered(Sec_WebSocket_Accept=b""),
        answered(Sec_WebSocket_Accept=KEY),
        answered(Sec_WebSocket_Accept=ACCEPT.lower()),
        answered(b"Sec-WebSocket-Accept: " + ACCEPT),
        answered(Upgrade=b""),
        answered(Upgrade=b"h2c"),
        answered(Upgrade=b"websocket, h2c"),
        answered(b"Upgrade: h2c"),
        answered(Connection=b""),
        answered(Connection=b"close"),
        answered(Connection=b"upgrade, sec-websocket-accept"),
        answered(b"Content-Length: 0"),
        answered(b"Content-Length: 5"),
        answered(b"Transfer-Encoding: chunked"),
        answered(b"Sec-WebSocket-Protocol: c"),
        answered(b"Sec-WebSocket-Protocol: a, b"),
        answered(b"Sec-WebSocket-Protocol: a", b"Sec-WebSocket-Protocol: b"),
        answered(b"Sec-WebSocket-Protocol:"),
        answered(status=b"HTTP/1.0 101 Switching"),
    ],
)
def test_an_incorrect_101_is_no_response(response: bytes) -> None:
    with pytest.raises(BadResponse):
        switched(response)
