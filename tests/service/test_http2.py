"""HTTP/2 by hand: what a peer may do, and what costs it its connection."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tidegate.serving.grpc_wire import Asked, Connection, Method, Refused
from tidegate.serving.hpack import Decoder, HpackError, encode
from tidegate.serving.http2 import PREFACE, STREAMS

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 4, 8, 32
MOST = 100_000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def headers(path: bytes = b"/echo", *more: tuple[bytes, bytes]) -> bytes:
    kind = (b"content-type", b"application/grpc")
    return encode([(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), kind, *more])


def message(content: bytes, packed: int = 0) -> bytes:
    return bytes((packed,)) + number(len(content)) + content


class Wire:
    """A connection without a socket: what was sent to it, and the frames that it sent."""

    def __init__(self) -> None:
        self.sent, self.closed = b"", False

        async def echo(asked: Asked) -> bytes:
            await asyncio.sleep(0)
            if asked.message == b"bad":
                raise Refused(3, "bad: 100% ü")
            return asked.message * (70_000 if asked.message == b"x" else 1)

        methods = {b"/echo": Method(echo, "unary"), b"/stream": Method(echo, "stream")}
        self.connection = Connection(methods, MOST, set())
        self.connection.connection_made(self)
        self.give(PREFACE + frame(SETTINGS, 0, 0))

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def give(self, data: bytes) -> None:
        self.connection.data_received(data)

    async def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Return what has come back once nothing goes on any more."""
        for _ in range(20):
            await asyncio.sleep(0)
        found, rest = [], self.sent
        while rest:
            size = int.from_bytes(rest[:3], "big")
            found.append((rest[3], rest[4], int.from_bytes(rest[5:9], "big"), rest[9 : 9 + size]))
            rest = rest[9 + size :]
        return found

    async def answer(self, stream: int) -> tuple[bytes, dict[bytes, bytes]]:
        """Return the data and the last headers of a stream."""
        mine = [one for one in await self.frames() if one[2] == stream]
        body = b"".join(payload for kind, _, _, payload in mine if kind == DATA)
        last = [payload for kind, flags, _, payload in mine if kind == HEADERS and flags & END_STREAM]
        return body, dict(Decoder().read(last[0])) if last else {}


def run(test: Callable[[Wire], Any]) -> None:
    async def go() -> None:
        await test(Wire())

    asyncio.run(go())


def call(stream: int, content: bytes, *more: tuple[bytes, bytes], packed: int = 0) -> bytes:
    head = frame(HEADERS, END_HEADERS, stream, headers(b"/echo", *more))
    return head + frame(DATA, END_STREAM, stream, message(content, packed))


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_frames_may_come_in_any_pieces(step: int) -> None:
    """A call is answered whether its bytes come one by one or all at once."""

    async def test(wire: Wire) -> None:
        told = call(1, b"hello")
        for at in range(0, len(told), step):
            wire.give(told[at : at + step])
        assert await wire.answer(1) == (message(b"hello"), {b"grpc-status": b"0"})

    run(test)


def test_padding_priority_and_headers_in_parts_are_read() -> None:
    """What peers may wrap around a call changes nothing in it."""

    async def test(wire: Wire) -> None:
        block = headers()
        first = b"\3" + number(0) + b"\7" + block[:10] + b"\0" * 3
        wire.give(frame(HEADERS, PADDED | PRIORITY, 1, first))
        wire.give(frame(CONTINUATION, 0, 1, block[10:20]) + frame(CONTINUATION, END_HEADERS, 1, block[20:]))
        wire.give(frame(DATA, PADDED, 1, b"\2" + message(b"abc")[:4] + b"\0\0"))
        wire.give(frame(DATA, 0, 1, message(b"abc")[4:]) + frame(HEADERS, END_HEADERS | END_STREAM, 1, b""))
        assert await wire.answer(1) == (message(b"abc"), {b"grpc-status": b"0"})

    run(test)


def test_an_answer_waits_for_the_peers_window() -> None:
    """No more is sent than a peer allowed, by stream and in all, and the rest when it allows more."""

    async def test(wire: Wire) -> None:
        wire.give(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 10)) + call(1, b"x"))
        assert len((await wire.answer(1))[0]) == 10
        wire.give(frame(WINDOW, 0, 1, number(1_000_000)))
        body, ended = await wire.answer(1)
        assert (len(body), ended) == (65535, {})
        wire.give(frame(WINDOW, 0, 0, number(1_000_000)))
        body, ended = await wire.answer(1)
        assert (len(body), ended) == (70_005, {b"grpc-status": b"0"})

    run(test)


def test_a_stream_is_answered_in_order_and_ended() -> None:
    """Many messages of one stream, more than are worked on at once, come back as they were sent."""

    async def test(wire: Wire) -> None:
        wire.give(frame(HEADERS, END_HEADERS, 1, headers(b"/stream")))
        told = b"".join(message(b"%d" % index) for index in range(300))
        wire.give(frame(DATA, 0, 1, told) + frame(DATA, END_STREAM, 1))
        for _ in range(20):
            await wire.frames()
        assert await wire.answer(1) == (told, {b"grpc-status": b"0"})

    run(test)


def test_packed_messages_are_unpacked_up_to_a_limit() -> None:
    """gzip is taken, another packing is not, and few bytes can't become many."""

    async def test(wire: Wire) -> None:
        zipped = (b"grpc-encoding", b"gzip")
        wire.give(call(1, gzip.compress(b"abc"), zipped, packed=1))
        wire.give(call(3, gzip.compress(b"\0" * (MOST + 1)), zipped, packed=1))
        wire.give(call(5, b"abc", (b"grpc-encoding", b"br"), packed=1))
        wire.give(call(7, b"no gzip", zipped, packed=1))
        assert (await wire.answer(1))[0] == message(b"abc")
        codes = [(await wire.answer(stream))[1][b"grpc-status"] for stream in (3, 5, 7)]
        assert codes == [b"8", b"12", b"3"]

    run(test)


def test_a_refusal_keeps_its_words() -> None:
    """A text of any characters comes through gRPC's headers as it requires."""

    async def test(wire: Wire) -> None:
        wire.give(call(1, b"bad"))
        fields = (await wire.answer(1))[1]
        assert (fields[b"grpc-status"], fields[b"grpc-message"]) == (b"3", b"bad: 100%25 %C3%BC")

    run(test)


def test_more_streams_than_there_are_places_are_refused() -> None:
    """Beyond the limit a stream is refused by itself, to be asked again; the others go on."""

    async def test(wire: Wire) -> None:
        for index in range(STREAMS + 1):
            wire.give(frame(HEADERS, END_HEADERS, 2 * index + 1, headers()))
        frames = await wire.frames()
        assert [(one[2], one[3]) for one in frames if one[0] == RST] == [(2 * STREAMS + 1, number(7))]
        assert not wire.closed

    run(test)


def test_a_stream_that_its_client_gave_up_is_forgotten() -> None:
    """Nothing is sent for it any more, and what still comes of it is ignored."""

    async def test(wire: Wire) -> None:
        wire.give(frame(HEADERS, END_HEADERS, 1, headers()) + frame(RST, 0, 1, number(8)))
        wire.give(frame(DATA, END_STREAM, 1, message(b"late")))
        assert await wire.answer(1) == (b"", {})
        assert not wire.closed

    run(test)


@pytest.mark.parametrize(
    "told",
    [
        frame(DATA, 0, 5, b"x"),
        frame(HEADERS, END_HEADERS, 2, headers()),
        frame(HEADERS, 0, 1, headers()) + frame(PING, 0, 0, b"\0" * 8),
        frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"x" * 16384) * 2,
        frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 20_000,
        frame(CONTINUATION, END_HEADERS, 1, headers()),
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frame(HEADERS, END_HEADERS, 1, b"\x80"),
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff"),
        frame(SETTINGS, 0, 0, b"123"),
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)),
        frame(WINDOW, 0, 0, number(0)),
        frame(WINDOW, 0, 0, number((1 << 31) - 1)),
        frame(WINDOW, 0, 0, b"1"),
        frame(PING, 0, 0, b"1"),
        frame(PING, 0, 0, b"12345678") * 20_000,
        frame(RST, 0, 9, number(0)),
        frame(5, 0, 1, b"1234"),
        (1 << 20).to_bytes(3, "big") + b"\0\0\0\0\0\1",
    ],
)
def test_who_breaks_the_rules_loses_the_connection(told: bytes) -> None:
    """A peer is told why, and nothing of it is kept."""

    async def test(wire: Wire) -> None:
        wire.give(told)
        assert any(one[0] == GOAWAY for one in await wire.frames())
        assert wire.closed

    run(test)


@pytest.mark.parametrize(
    "told", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1", b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n"]
)
def test_another_protocol_is_not_spoken(told: bytes) -> None:
    """What does not begin like HTTP/2 is cut off at once."""

    async def go() -> None:
        wire = Wire.__new__(Wire)
        wire.sent, wire.closed = b"", False
        wire.connection = Connection({}, MOST, set())
        wire.connection.connection_made(wire)
        wire.give(told)
        assert wire.closed

    asyncio.run(go())


# ---------------------------------------------------------------- headers
def test_the_standards_own_example_is_read() -> None:
    """RFC 7541, C.4: three requests with Huffman's code, of which each uses the table of those before."""
    decoder = Decoder()
    blocks = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ]
    read = [dict(decoder.read(bytes.fromhex(block))) for block in blocks]
    assert [one[b":authority"] for one in read] == [b"www.example.com"] * 3
    assert (read[1][b"cache-control"], read[2][b"custom-key"]) == (b"no-cache", b"custom-value")
    assert (read[2][b":path"], read[2][b":scheme"]) == (b"/index.html", b"https")


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xc0",
        b"\x40",
        b"\x00\x05ab",
        b"\x3f\xff\xff\x7f",
        b"\x00\x81\xff\x00",
        b"\x00\x84\xff\xff\xff\xff\x00",
    ],
)
def test_headers_that_are_none_are_refused(block: bytes) -> None:
    """Places that don't exist, texts cut short, a table too large and wrong padding end in one error."""
    with pytest.raises(HpackError):
        Decoder().read(block)


def test_headers_can_not_be_blown_up() -> None:
    """A block that repeats one long field of the table is refused before it is large."""
    decoder = Decoder()
    decoder.read(b"\x40\x01a" + b"\x7f" + b"\xa1\x1e" + b"x" * 4000)
    with pytest.raises(HpackError):
        decoder.read(b"\xbe" * 16000)
